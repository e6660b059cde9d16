"""What a run is and stays: its config, its tokenizer, whose weights it began with, kept beside it and compared."""

from collections.abc import Callable
from typing import Any

import msgspec

from curriculum import config as configs
from curriculum.config import Config
from curriculum.errors import Exit, FirehoseError
from curriculum.files import sha256_file, write_atomic
from curriculum.text import template
from curriculum.text import tokenizer as tokenizers
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.corpus import Corpus
from state import effective, journal
from state.checkpoints import Checkpoint
from state.run_dir import RunDir, read_object
from state.store import StateStore
from trainer import weights

Say = Callable[[str], None]


def refuse_other_config(run: RunDir, config: Config) -> None:
    """A run goes on with the config it began with; name what differs (I18)."""
    try:
        old = msgspec.json.decode(run.effective.read_bytes())["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        envelope, _ = StateStore(run.state).read()
        if envelope is None or envelope.config_sha256 == configs.digest(config):
            return
        raise FirehoseError(
            Exit.REFUSED,
            f"the config is not the one this run began with, and which keys differ cannot be said: {error}",
            path=run.effective,
            next=f"firehose run {run.config} goes on with the run's own copy of its config",
        ) from None
    given = configs.effective(config)
    changed = configs.differences(old, given)
    if changed and (since := changed_since(run, given)) is not None:
        name, step = since
        when = "" if step is None else f" at step {step:,}"
        raise FirehoseError(
            Exit.REFUSED,
            f"the run's config was changed by {name}{when} ({', '.join(changed)}); this file is as it was before",
            path=config.path,
            next=f"firehose run {run.config} goes on with the config as it is now",
        )
    if changed:
        raise FirehoseError(
            Exit.REFUSED,
            f"the config is not the one this run began with; changed: {', '.join(changed)}",
            path=config.path,
            next=f"firehose run {run.config} goes on as before; firehose polish plan {run.root} --config {config.path} shows "
            "what taking the new values over would do",
        )


def changed_since(run: RunDir, given: dict[str, Any]) -> tuple[str, int | None] | None:
    """The newest change before which the run's effective config was the given one, and its step; None where none was."""
    since = changes_since(run, given)
    if not since:
        return None
    name = since[-1].name
    steps = [event.get("step") for event in run.events() if event.get("transaction") == name]
    return name, next((step for step in steps if isinstance(step, int)), None)


def changes_since(run: RunDir, given: dict[str, Any]) -> list[journal.Entry]:
    """The run's changes, newest first, down to the one before which its effective config was the given one; [] for none."""
    since = []
    for entry in reversed(journal.entries(run)):
        since.append(entry)
        kept = read_object(journal.folder(run, entry) / journal.BEFORE / run.effective.name) or {}
        if "config" in kept and not configs.differences(kept["config"], given):
            return since
    return []


def refuse_other_tokenizer(run: RunDir, corpus: Corpus, stored: Checkpoint | None, say: Say) -> None:
    """Token ids mean what they meant: a run's tokenizer never changes. A lost or damaged copy of it is made again."""
    if not run.effective.exists():
        return
    own = run.root / "tokenizer" / tokenizers.NAME
    found = sha256_file(own) if own.is_file() else None
    expected = stored.meta["tokenizer_sha256"] if stored else found
    if expected in (None, corpus.tokenizer_sha256):
        copies = {tokenizers.NAME: found, template.NAME: None}
        for name, sha256 in copies.items():
            bytes_now = (corpus.folder / name).read_bytes()
            target = own.with_name(name)
            if sha256 != corpus.tokenizer_sha256 and (
                not target.is_file() or target.read_bytes() != bytes_now
            ):
                target.parent.mkdir(exist_ok=True)
                write_atomic(target, bytes_now)
                say(f"{target} was missing or damaged and is made again from {corpus.folder}")
    else:
        raise FirehoseError(
            Exit.REFUSED,
            "the tokenizer is not the one this run began with",
            path=corpus.tokenizer,
            next="bring back the token files this run was trained on, or begin another run: --name OTHER",
        )


def store(config: Config, corpus: Corpus, run: RunDir, origin: Checkpoint | None) -> Tokenizer:
    """Keep beside the run what it is: the user's file, its effective form, whose weights it began with, tokenizer."""
    folder = run.root / "tokenizer"
    folder.mkdir(exist_ok=True)
    if not run.effective.exists():
        write_atomic(run.config, config.path.read_bytes())
        for name in (tokenizers.NAME, template.NAME):
            write_atomic(folder / name, (corpus.folder / name).read_bytes())
        began = None if origin is None else weights.identity(origin)
        write_atomic(run.effective, effective.first(config, config.path, run.root, began))
    return tokenizers.load(folder / tokenizers.NAME)
