"""The funnel: a softmax that only ever widens, exact at the end, the same for threads, resumes and the goal's gradient."""

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from curriculum import config as configs
from curriculum.errors import Exit, FirehoseError
from state.rows import read_rows
from tests.fixtures import tiny
from tests.fixtures.runs import go, log, the_run
from tests.trainer.tape import Tape
from trainer import crew, optim
from trainer import model as models
from trainer.crew import Crew
from trainer.doctor.examine import examine
from trainer.funnel import Funnel, of_run
from trainer.graph import WARM_UP, Replay, static
from trainer.loss import Candidates, cross_entropy
from trainer.model import Decoder, Shape
from trainer.ring import Ring
from trainer.step import TrainStep

CPU = torch.device("cpu")
OPENS = ("lr = 3e-3", "lr = 3e-3\nfunnel_steps = 25\nfunnel_start = 20")


def order(vocabulary: int) -> torch.Tensor:
    return torch.randperm(vocabulary, generator=torch.Generator().manual_seed(5))


def by_hand(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, among: Candidates
) -> torch.Tensor:
    """All logits, those of tokens that are neither candidate nor own target taken out."""
    allowed = torch.zeros(len(targets), len(weight), dtype=torch.bool)
    allowed[:, among.tokens] = True
    allowed.scatter_(1, targets[:, None], True)
    return torch.nn.functional.cross_entropy((hidden @ weight.T).masked_fill(~allowed, -torch.inf), targets)


@pytest.mark.parametrize("count", [1, 7, 39, 40])
@pytest.mark.parametrize("chunk", [3, 1000])
def test_loss_and_gradients_are_those_of_the_definition(
    count: int, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.loss.chunk_of", lambda tokens, vocabulary: chunk)
    draw = torch.Generator().manual_seed(count)
    made = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((20, 8), (40, 8))]
    targets = torch.randint(0, 40, (20,), generator=draw)
    mixed = order(40)
    among = Candidates(mixed[:count], torch.argsort(mixed))
    found = []
    for loss in (by_hand, cross_entropy):
        hidden, weight = (tensor.clone().requires_grad_() for tensor in made)
        (3 * loss(hidden, weight, targets, among)).backward()
        found.append((hidden.grad, weight.grad))
        assert float(loss(hidden, weight, targets, among).detach()) == pytest.approx(
            float(by_hand(hidden, weight, targets, among).detach()), rel=1e-5
        )
    for ours, theirs in zip(*found, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


@given(st.integers(2, 60_000), st.data())
def test_it_never_narrows_and_ends_with_all(vocabulary: int, data: st.DataObject) -> None:
    start, steps = data.draw(st.integers(1, vocabulary)), data.draw(st.integers(1, 100_000))
    funnel = Funnel(torch.arange(vocabulary), start=start, steps=steps)
    at = sorted(data.draw(st.lists(st.integers(1, 2 * steps), max_size=20)))
    sizes = [funnel.size(step) for step in (1, *at, steps + 1)]
    assert funnel.size(1) == start
    assert [funnel.size(step) for step in at] == sorted(funnel.size(step) for step in at)
    assert min(sizes) >= start
    assert funnel.at(steps + 1) is None


@pytest.mark.parametrize(("start", "steps"), [(65, 10), (0, 10), (10, 0)])
def test_one_that_would_not_widen_cannot_be_made(start: int, steps: int) -> None:
    with pytest.raises(ValueError, match="a funnel widens"):
        Funnel(torch.arange(64), start=start, steps=steps)


def steps_of(funnel: Funnel | None) -> TrainStep:
    model = Decoder(Shape(vocab_size=64, block_size=16, width=32, heads=4, layers=2))
    model.initialise(1)
    optimizer = optim.build(model, weight_decay=0.1, betas=(0.9, 0.95), device=CPU)
    return TrainStep(model, optimizer, Ring(16, 2, CPU), grad_clip=1.0, autocast=nullcontext(), funnel=funnel)


def test_once_open_every_bit_is_that_of_the_plain_step() -> None:
    pulls = torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(3))
    plain, open_, narrow = steps_of(None), steps_of(Funnel(order(64), start=8, steps=4)), None
    for step in (5, 6, 7):
        for each in (plain, open_):
            each.run(step, pulls, lr=1e-2)
        assert plain.ring.read(step) == open_.ring.read(step)
    for ours, theirs in zip(plain.model.parameters(), open_.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    narrow = steps_of(Funnel(order(64), start=8, steps=40))
    narrow.run(5, pulls, lr=1e-2)
    assert narrow.ring.read(5).loss < plain.ring.read(5).loss


def test_replays_begin_when_it_is_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "by_hand", lambda x: False)  # as on CUDA
    plain, replayed = (steps_of(Funnel(order(64), start=8, steps=2)) for _ in range(2))
    tape = Tape()
    for step in (plain, replayed):
        static(step.optimizer, CPU)
    replayed.runner = Replay(replayed.update, tape, lambda why: pytest.fail(why))
    for step in range(1, 9):
        pulls = torch.randint(0, 64, (2, 4, 17), generator=torch.Generator().manual_seed(step))
        for each in (plain, replayed):
            each.run(step, pulls, lr=1e-2 / step)
        assert plain.ring.read(step) == replayed.ring.read(step)
    assert tape.replays == 8 - 2 - WARM_UP


def test_a_crew_has_the_loss_and_gradients_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crew, "LEAST_WORK", 1)
    before = torch.get_num_threads()
    decoder = Decoder(Shape(31, 16, 32, 4, 2))
    decoder.initialise(4)
    windows = torch.randint(0, 31, (5, 17), generator=torch.Generator().manual_seed(2))
    among = Funnel(order(31), start=6, steps=10).at(4)
    found = []
    try:
        for loss in (decoder.loss, Crew(decoder, 3).loss):
            decoder.zero_grad()
            loss(windows, among).backward()
            found.append([p.grad.clone() for p in decoder.parameters() if p.grad is not None])
            assert loss(windows, among).item() == pytest.approx(decoder.loss(windows, among).item(), rel=1e-6)
    finally:
        torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) <= 3e-6 * float(one.norm())


def test_a_run_in_two_sittings_cut_in_its_funnel_is_the_run_in_one(tmp_path: Path) -> None:
    """With `align`, whose goal is probed among the same candidates."""
    straight, cut = (tiny.make(tmp_path / name, *tiny.QUICK, OPENS).path for name in ("one", "two"))
    go(straight, until=40)
    go(cut, until=20)
    go(cut, until=40)
    assert read_rows(the_run(cut).pulls) == read_rows(the_run(straight).pulls)
    assert "step 1 tells 20 of 401 tokens apart, and step 26 all" in log(straight)
    losses = dict(read_rows(the_run(straight).loss))
    assert losses[1] < 4.5 < losses[26], "ln 20 is 3.0 and ln 401 is 6.0"


def test_candidates_are_the_most_frequent_tokens_of_the_text(tmp_path: Path) -> None:
    from curriculum.sources import open_corpus

    config = tiny.make(tmp_path, *tiny.QUICK, OPENS)
    corpus = open_corpus(config)
    funnel = of_run(config, corpus, CPU)
    assert funnel is not None
    counts = corpus.token_counts(list(config.sources), 1 << 22)
    whole = sum(corpus.sources[name].windows for name in config.sources) * (corpus.block_size + 1)
    assert int(counts.sum()) == whole
    assert counts[funnel.order.numpy()].tolist() == sorted(counts.tolist(), reverse=True)
    assert 0 < int(corpus.token_counts(["alpha"], 200).sum()) <= 2 * 200


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("funnel_steps = 25\nfunnel_start = 401", "a funnel widens"),
        ("funnel_steps = 60", "never ends"),
        ("funnel_steps = 25\nfunnel_start = 0", "funnel_start"),
        ("funnel_steps = -25", "funnel_steps"),
    ],
)
def test_a_funnel_that_narrows_or_never_opens_is_refused(tmp_path: Path, keys: str, said: str) -> None:
    path = tiny.write_config(tmp_path, ("lr = 3e-3", f"lr = 3e-3\n{keys}"))
    with pytest.raises(FirehoseError, match=said) as error:
        configs.load(path)
    assert error.value.exit_code in (Exit.REFUSED, Exit.USAGE)


def test_off_it_is_no_part_of_a_run_that_began_before_it_was_there(tmp_path: Path) -> None:
    config = configs.load(tiny.write_config(tmp_path))
    now = configs.effective(config)
    before = {**now, "train": {k: v for k, v in now["train"].items() if not k.startswith("funnel")}}
    assert configs.differences(before, now) == []
    on = configs.load(tiny.write_config(tmp_path, OPENS))
    assert configs.differences(before, configs.effective(on)) == ["train.funnel_start", "train.funnel_steps"]


def test_the_doctor_knows_a_reversed_funnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """I16 as it was: wide at first, then narrow and locked there."""
    config = tiny.make(tmp_path, *tiny.QUICK, OPENS)
    sound = examine(config, tmp_path / "runs", quick=True)
    assert [check.name for check in sound if not check.ok] == []
    shown = {check.name: check.value for check in sound}["funnel"]
    assert shown.startswith("20, 84, 401 tokens")
    widening = Funnel.size

    def narrowing(self: Funnel, step: int) -> int:
        return widening(self, max(1, self.steps + 2 - step))

    monkeypatch.setattr(Funnel, "size", narrowing)
    found = {c.name: c for c in examine(config, tmp_path / "runs", quick=True) if not c.ok}
    assert "it never opens" in found["funnel"].message
