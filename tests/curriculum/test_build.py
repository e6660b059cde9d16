"""`data build`: every document in one place, the same bytes from the same text, nothing lost on any error."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_folders import files_in, no_file_over
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.errors import Exit, FirehoseError
from curriculum.text import build as builds
from curriculum.text import split, staging
from curriculum.text.build import BuildPlan, Progress, SourceText, build
from curriculum.text.clean import ALL_RULES
from curriculum.text.split import choose_heldout, content_hash
from curriculum.text.tokenizer import load
from curriculum.tokens.btok import Btok
from curriculum.tokens.corpus import Corpus
from curriculum.tokens.windows import windows_in

BLOCK = 16
NONE = dict.fromkeys(ALL_RULES, 0)


def write_jsonl(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def prose(count: int, seed: int = 0) -> list[str]:
    random = np.random.default_rng(seed)
    words = ["rain", "falls", "on", "the", "town", "and", "nobody", "minds", "it", "<|end|>", "é"]
    return [
        f"{seed}-{number} " + " ".join(random.choice(words, random.integers(5, 60)))
        for number in range(count)
    ]


@pytest.fixture
def plan(tmp_path: Path) -> BuildPlan:
    chat = [f"> Is it {text[:8]}?\n< {text}" for text in prose(150, seed=2)]
    return BuildPlan(
        out_dir=tmp_path / "out",
        sources={
            "prose": SourceText((write_jsonl(tmp_path / "prose.jsonl", prose(400, seed=1)),)),
            "chat": SourceText((write_jsonl(tmp_path / "chat.jsonl", chat),), expect_documents=150),
        },
        vocab_size=300,
        block_size=BLOCK,
    )


def with_source(plan: BuildPlan, name: str, texts: list[str] | bytes, **more: Any) -> BuildPlan:
    path = plan.out_dir.parent / f"{name}.jsonl"
    if isinstance(texts, bytes):
        path.write_bytes(texts)
    else:
        write_jsonl(path, texts)
    return BuildPlan(
        plan.out_dir,
        {**plan.sources, name: SourceText((path,), **more)},
        plan.vocab_size,
        100,
        plan.block_size,
    )


def documents_of(path: Path) -> Iterator[str]:
    """The documents of a token file, decoded; each must end with the one end token it holds."""
    file = Btok.open(path)
    tokenizer = load(path.with_name("tokenizer.json"))
    for first, last in zip(file.starts[:-1].tolist(), file.starts[1:].tolist(), strict=True):
        ids = file.tokens[first:last].tolist()
        assert ids.index(tokenizer.end_id) == len(ids) - 1
        yield tokenizer.decode(ids)


def test_every_document_is_in_training_or_held_out_in_order(plan: BuildPlan) -> None:
    manifest = build(plan)
    for name, texts in (("prose", prose(400, seed=1)), ("chat", None)):
        train = list(documents_of(plan.out_dir / f"{name}.btok"))
        held = list(documents_of(plan.out_dir / f"{name}.heldout.btok"))
        if texts is not None:
            assert train == [text for text in texts if text not in set(held)]
            assert sorted(train + held) == sorted(texts)
        entry = manifest.sources[name]
        assert entry.documents_in == entry.documents_out == len(train) + len(held)
        assert entry.heldout is not None
        assert windows_in(entry.heldout.tokens, BLOCK) >= 8
        assert entry.notes == ()
        assert max(map(content_hash, held)) < min(map(content_hash, train))


def test_the_result_opens_and_passes_its_own_checks(plan: BuildPlan) -> None:
    build(plan)
    corpus = Corpus.open(plan.out_dir, BLOCK, seed=1)
    assert list(corpus.sources) == ["chat", "prose"]
    corpus.check("prose")
    corpus.check("chat", expect_documents=150)
    corpus.fill(np.empty((4, BLOCK + 1), dtype=corpus.dtype), "chat", 1, 0)
    assert corpus.vocab_size == load(corpus.tokenizer).vocab_size == 301


def test_the_same_text_gives_the_same_bytes(plan: BuildPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    build(plan)
    first = files_in(plan.out_dir)
    names = {"prose.btok", "prose.heldout.btok", "chat.btok", "chat.heldout.btok", staging.LOCK}
    assert set(first) == names | {"tokenizer.json", "chat_template.json", "manifest.json", "audits.bin"}
    monkeypatch.setattr(builds, "BATCH", 500)  # nor does it matter how it is cut into batches
    monkeypatch.setattr(builds, "COPY", 100)
    build(plan)
    assert files_in(plan.out_dir) == first


def test_a_source_that_joins_takes_the_tokenizer_there_is(plan: BuildPlan) -> None:
    build(plan)
    before = files_in(plan.out_dir)
    more = replace(with_source(plan, "late", prose(80, seed=9)), out_dir=plan.out_dir.with_name("more"))
    again = replace(more, tokenizer=plan.out_dir / "tokenizer.json")
    manifest = build(again)
    after = files_in(again.out_dir)
    new = ("manifest.json", "audits.bin")
    assert {name: after[name] for name in before if name not in new} == {
        name: data for name, data in before.items() if name not in new
    }
    assert manifest.tokenizer.sample_bytes == 0 and "late.btok" in after
    Corpus.open(again.out_dir, BLOCK, 1).check("late")
    trained = build(replace(more, out_dir=plan.out_dir.with_name("trained")))
    assert trained.tokenizer.sha256 != manifest.tokenizer.sha256
    with pytest.raises(FirehoseError) as missing:
        build(replace(more, tokenizer=plan.out_dir / "nowhere.json"))
    assert missing.value.exit_code is Exit.NOT_FOUND and files_in(again.out_dir) == after


def test_empty_documents_are_dropped_and_counted_in_every_source(plan: BuildPlan) -> None:
    plan = with_source(plan, "gaps", ["", *prose(60, seed=3), " \n\t", "\u2003"], expect_documents=63)
    manifest = build(plan)
    gaps = manifest.sources["gaps"]
    assert (gaps.documents_in, gaps.documents_out, gaps.dropped) == (63, 60, NONE | {"empty": 3})
    assert gaps.dropped_share == pytest.approx(3 / 63)
    assert manifest.sources["prose"].dropped == NONE


def test_tiny_sources_hold_out_what_they_can_and_say_so(plan: BuildPlan) -> None:
    one = with_source(plan, "one", [" ".join(f"rain{n}" for n in range(100))])
    one = with_source(one, "few", prose(30, seed=4)[:12])
    manifest = build(one)
    entry = manifest.sources["one"]
    assert (entry.train.documents, entry.heldout) == (1, None)
    assert entry.notes == ("nothing is held out: no document can be spared",)
    few = manifest.sources["few"]
    assert few.heldout is not None
    assert few.heldout.documents <= 2
    assert few.heldout.tokens * 5 <= few.heldout.tokens + few.train.tokens
    assert "too small for more than a fifth" in few.notes[0]
    assert not (plan.out_dir / "one.heldout.btok").exists()


@settings(max_examples=150, deadline=None)
@given(
    texts=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 60)), min_size=1, max_size=400),
    block_size=st.sampled_from([1, 4, 16]),
)
def test_the_held_out_choice_keeps_its_promises(texts: list[tuple[int, int]], block_size: int) -> None:
    """Texts are drawn with copies: a text's number decides its hash and its length."""
    hashes = np.array([content_hash(str(number)) for number, _ in texts], dtype=np.uint64)
    lengths = np.array([1 + number % 23 for number, _ in texts], dtype=np.int64)
    held, note = choose_heldout(hashes, lengths, block_size)
    total, documents, tokens = int(lengths.sum()), int(held.sum()), int(lengths[held].sum())
    assert documents * 5 <= len(texts)
    assert tokens * 5 <= total
    assert not set(hashes[held].tolist()) & set(hashes[~held].tolist())
    if windows_in(total, block_size):
        assert windows_in(total - tokens, block_size) >= 1
    if note is None:
        assert documents * 100 >= len(texts)
        assert windows_in(tokens, block_size) >= split.HELDOUT_WINDOWS
    else:  # nothing more would have fitted
        for copies in (hashes == value for value in set(hashes[~held].tolist())):
            more_documents = documents + int(copies.sum())
            more_tokens = tokens + int(lengths[copies].sum())
            too_many = more_documents * 5 > len(texts) or more_tokens * 5 > total
            assert too_many or windows_in(total - more_tokens, block_size) == 0
    shuffled = np.random.default_rng(0).permutation(len(texts))
    again, _ = choose_heldout(hashes[shuffled], lengths[shuffled], block_size)
    assert again.tolist() == held[shuffled].tolist()


def test_holding_out_leaves_a_training_window() -> None:
    hashes = np.arange(5, dtype=np.uint64)
    for tokens, expected in (
        (4, 0),
        (5, 1),
    ):  # a fifth could go of both, but 4 * 4 tokens are no window of 16 + 1
        held, _ = choose_heldout(hashes, np.full(5, tokens), 16)
        assert int(held.sum()) == expected


def test_one_per_cent_of_a_large_source_is_held_out() -> None:
    random = np.random.default_rng(0)
    hashes = random.integers(0, 2**63, 100_000).astype(np.uint64)
    held, note = choose_heldout(hashes, np.full(100_000, 50), 16)
    assert (int(held.sum()), note) == (1000, None)
    assert hashes[held].max() < hashes[~held].min()


BAD: dict[str, tuple[list[str] | bytes, dict[str, int], Exit, str]] = {
    "bad JSON": (b'{"text": "a"}\n{"text"\n', {}, Exit.DAMAGED, "not JSON"),
    "bad UTF-8": (b'{"text": "\xff"}\n', {}, Exit.DAMAGED, "not valid UTF-8"),
    "empty file": (b"", {}, Exit.REFUSED, r"bad\.jsonl is empty"),
    "blank lines": (b"\n\n", {}, Exit.REFUSED, "source bad has no documents"),
    "all dropped": (["", " "], {}, Exit.REFUSED, r"no documents \(2 read; dropped: 2 empty\)"),
    "short": (["rain"], {"expect_documents": 560_000}, Exit.REFUSED, "holds 1 documents; .* expects 560,000"),
    "tiny": (["rain"], {}, Exit.REFUSED, r"source bad has \d+ tokens .* one window of 16"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_text_is_named_and_the_earlier_build_stands(plan: BuildPlan, kind: str) -> None:
    build(plan)
    before = files_in(plan.out_dir)
    texts, more, exit_code, words = BAD[kind]
    with pytest.raises(FirehoseError, match=words) as caught:
        build(with_source(plan, "bad", texts, **more))
    assert (caught.value.exit_code, caught.value.arm, caught.value.changed) == (exit_code, "bad", "nothing")
    assert caught.value.next is not None
    assert files_in(plan.out_dir) == before


def test_missing_text_is_named_before_anything_is_written(plan: BuildPlan) -> None:
    sources = {**plan.sources, "gone": SourceText((plan.out_dir / "gone.jsonl",))}
    with pytest.raises(FirehoseError, match="text of source gone is missing") as caught:
        build(BuildPlan(plan.out_dir, sources))
    assert (caught.value.exit_code, caught.value.arm) == (Exit.NOT_FOUND, "gone")
    assert not plan.out_dir.exists()


def test_a_plan_without_sources_is_refused(plan: BuildPlan) -> None:
    with pytest.raises(FirehoseError, match="no source to build") as caught:
        build(BuildPlan(plan.out_dir, {}))
    assert caught.value.exit_code == Exit.REFUSED


@pytest.mark.parametrize(
    ("limit", "file"), [(2_000, "tokenizer.json"), (9_000, "prose.tokens"), (26_000, "prose")]
)
def test_a_full_disk_is_named_and_the_earlier_build_stands(plan: BuildPlan, limit: int, file: str) -> None:
    build(plan)
    before = files_in(plan.out_dir)
    with no_file_over(limit), pytest.raises(FirehoseError, match=f"cannot write {file}") as caught:
        build(plan)
    assert (caught.value.exit_code, caught.value.changed) == (Exit.WRITE_FAILED, "nothing")
    assert files_in(plan.out_dir) == before


def test_a_write_that_fails_while_files_are_moved_says_what_was_replaced(plan: BuildPlan) -> None:
    build(plan)
    (plan.out_dir / "chat.btok").unlink()
    (plan.out_dir / "chat.btok").mkdir()
    with pytest.raises(FirehoseError, match=r"cannot write chat\.btok") as caught:
        build(plan)
    assert caught.value.changed == "replaced: prose.btok, prose.heldout.btok"


def test_text_that_changes_while_it_is_read_is_noticed(plan: BuildPlan) -> None:
    def grow(progress: Progress) -> None:
        if progress.stage == "training":
            with (plan.out_dir.parent / "prose.jsonl").open("a") as file:
                file.write('{"text": "late"}\n')

    with pytest.raises(FirehoseError, match="text of source prose changed while it was read"):
        build(plan, grow)


def test_one_build_at_a_time_in_a_folder(plan: BuildPlan) -> None:
    with staging.staging_folder(plan.out_dir) as folder:
        (folder / "at work").touch()
        with pytest.raises(FirehoseError, match="another build") as caught:
            build(plan)
        assert (folder / "at work").exists()
    assert (caught.value.exit_code, caught.value.path) == (Exit.LOCKED, str(plan.out_dir))
    build(plan)


@pytest.mark.parametrize("stage", ["training", "encoding"])
def test_a_killed_build_changes_nothing_and_is_swept_by_the_next(plan: BuildPlan, stage: str) -> None:
    build(plan)
    before = files_in(plan.out_dir)
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from curriculum.text.build import BuildPlan, SourceText, build\n"
        "out, text, stage = sys.argv[1:]\n"
        "report = lambda progress: progress.stage == stage and os.kill(os.getpid(), signal.SIGKILL)\n"
        "build(BuildPlan(Path(out), {'prose': SourceText((Path(text),))}, 300, 100, 16), report)\n"
    )
    text = plan.out_dir.parent / "prose.jsonl"
    killed = subprocess.run([sys.executable, "-c", script, str(plan.out_dir), str(text), stage])
    assert killed.returncode == -signal.SIGKILL
    left = files_in(plan.out_dir)
    assert {name: data for name, data in left.items() if not name.startswith(staging.STAGING)} == before
    assert (plan.out_dir / staging.STAGING).is_dir()
    build(plan)
    assert files_in(plan.out_dir) == before


def test_progress_reaches_the_end_in_both_passes(plan: BuildPlan) -> None:
    seen: list[Progress] = []
    build(plan, seen.append)
    total = sum((plan.out_dir.parent / f"{name}.jsonl").stat().st_size for name in plan.sources)
    for stage in ("reading", "encoding"):
        steps = [progress.bytes_done for progress in seen if progress.stage == stage]
        assert steps == sorted(steps)
        assert steps[-1] == total
    assert {progress.bytes_total for progress in seen} == {total}
    assert [p.documents for p in seen if p.stage == "training"] == [550]


def test_a_document_of_many_batches_is_one_document(plan: BuildPlan) -> None:
    manifest = build(
        with_source(plan, "long", ["\n".join(f"rain {n} falls" for n in range(20_000)), *prose(20)])
    )
    assert manifest.sources["long"].documents_out == 21
    starts = Btok.open(plan.out_dir / "long.btok").starts
    assert int(np.diff(starts.astype(np.int64)).max()) > 60_000
