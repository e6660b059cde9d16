"""What stands around the model: data, template, disk, file system, signals. Looked at first, since software fails mundanely."""

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path

from curriculum.config import Config
from curriculum.errors import FirehoseError
from curriculum.files import said, second_name, write_atomic
from curriculum.sources import check_present
from curriculum.text.tokenizer import Tokenizer
from curriculum.tokens.btok import Btok
from curriculum.tokens.corpus import Corpus
from state.lock import RunLock
from state.process import catches
from trainer.doctor.checks import Check, verdict
from trainer.signals import Flags

DOCUMENTS = 64  # of each source, whose beginnings are read
# How other templates begin a user's turn.
FOREIGN_MARKS = re.compile(
    r"\s*(human:|user:|### ?(instruction|user|human)|\[inst\]|<\|(user|im_start|start_header_id)|<start_of_turn>)",
    re.I,
)


def data(config: Config, corpus: Corpus, *, quick: bool) -> list[Check]:
    """Every source has the documents and bytes that its manifest and the config say (I11). quick: sizes, not hashes."""
    expected = "the manifest's counts" if quick else "the manifest's counts and SHA-256"
    try:
        names = check_present(config, corpus, known=set())
    except FirehoseError as error:
        return [verdict("data", False, error.message, "token files of every source", _told(error))]
    checks = []
    for name in names:
        info = corpus.info(name)
        try:
            if quick:
                corpus.check_headers(name)
            else:
                corpus.check(name, expect_documents=config.sources[name].expect_documents)
            found, why = f"{info.documents:,} documents, {info.tokens:,} tokens", ""
        except FirehoseError as error:
            found, why = "disagrees", _told(error)
        checks.append(verdict(f"data of {name}", not why, found, expected, why))
    return checks


def template(config: Config, corpus: Corpus, tokenizer: Tokenizer) -> Check:
    """The bytes that a prompt is put to the model in, and whether the data speaks that form (I12)."""
    ids = tokenizer.prompt(config.gate.prompts[0])
    fed = tokenizer.decode(ids)
    marked = foreign = read = 0
    example = ""
    for name in corpus.sources:
        file = Btok.open(corpus.info(name).path)
        for document in range(0, file.documents, max(1, file.documents // DOCUMENTS)):
            start = int(file.starts[document])
            text = tokenizer.decode(
                file.tokens[start : min(start + 24, int(file.starts[document + 1]))].tolist()
            )
            read += 1
            marked += text.startswith(tokenizer.template.user)
            if FOREIGN_MARKS.match(text):
                foreign, example = foreign + 1, example or f"{text[:30]!r} in {name}"
    value = f"{fed.encode()!r} ({len(ids)} tokens); {marked} of {read} documents begin so"
    same = fed == tokenizer.template.fill(config.gate.prompts[0])
    if not same:
        why = "the prompt does not come back from its tokens as the template fills it: tokenizer and template do not belong together"
    else:
        why = (
            f"no document begins with the template's {tokenizer.template.user!r} and {foreign} with another mark ({example}): "
            "samples are asked for in a form that is never trained on; give the data as `messages`"
        )
    return verdict(
        "template", same and (marked > 0 or foreign == 0), value, "the form of the training text", why
    )


def signals(flags: Flags | None = None) -> Check:
    """SIGUSR1 has a handler in a process that runs as a run does; without one it would kill the run."""
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    }
    try:
        heard = (flags or Flags()).install()
        os.kill(os.getpid(), signal.SIGUSR1)
        caught = heard.request and catches(os.getpid(), signal.SIGUSR1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return verdict(
        "signal handler",
        caught,
        "SIGUSR1 is caught" if caught else "SIGUSR1 is not heard",
        "SIGUSR1 is caught",
        "firehose stop and checkpoint would not reach the run",
    )


def disk(folder: Path, config: Config, parameters: int) -> Check:
    """Room for the checkpoints that are kept at a time: weights and two moments, 12 bytes a parameter, and one more in the making."""
    kept = config.train.keep_checkpoints + 3
    if config.train.keep_every:
        kept += config.train.steps // config.train.keep_every
    need = kept * 12 * parameters + (64 << 20)
    free = shutil.disk_usage(_existing(folder)).free
    return verdict(
        "disk",
        free >= need,
        f"{free >> 20:,} MiB free",
        f"{need >> 20:,} MiB for {kept} checkpoints",
        f"free some space under {folder}, or lower train.keep_checkpoints or raise train.keep_every",
    )


def file_system(folder: Path) -> Check:
    """The folder of the runs takes what a commit needs: sync, rename, a second name, a lock."""
    where = _existing(folder)
    try:
        with tempfile.TemporaryDirectory(prefix=".doctor-", dir=where) as made:
            file = Path(made) / "state.json"
            write_atomic(file, b"1")
            write_atomic(file, b"2", keep=file.with_name("kept.json"))
            second_name(file, file.with_name("second.json"))
            with RunLock(Path(made) / "run.lock"):
                pass
            kept = file.with_name("kept.json").read_bytes() == b"1"
        value, ok, why = "keeps versions, syncs and locks", kept, "a kept version is not what was kept"
    except FirehoseError as error:
        value, ok, why = error.message, False, _told(error)
    except OSError as error:
        value, ok, why = said(error), False, f"choose a --runs-dir that can be written to; {where} cannot"
    return verdict("file system", ok, value, "keeps versions, syncs and locks", why)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def _told(error: FirehoseError) -> str:
    where = f" ({error.path})" if error.path else ""
    return f"{error.message}{where}; {error.next}" if error.next else f"{error.message}{where}"
