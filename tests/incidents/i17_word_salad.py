"""I17: real words, each independent of the one before; every metric was healthy (000)."""

import json
import random
from pathlib import Path

import pytest
import torch

from curriculum.gate.audits import Audits, TextAudits
from curriculum.gate.coherence import score
from curriculum.gate.rule import Gate
from curriculum.text.build import BuildPlan, SourceText, build
from tests.fixtures.language import WORDS, document, spoken
from tests.incidents.switch import caught, incident
from trainer import forensics
from trainer.forensics import Evidence, Examiner, Limit
from trainer.model import Decoder, Shape
from trainer.snapshot import Tensors


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Token files and audits of a made-up language."""
    root = tmp_path_factory.mktemp("salad")
    (root / "talk.jsonl").write_text("\n".join(json.dumps({"text": document(at)}) for at in range(500)))
    build(
        BuildPlan(root / "data", {"talk": SourceText((root / "talk.jsonl",))}, vocab_size=600, block_size=32)
    )
    return root / "data"


def no_coherence(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Audits, "_coherence", lambda self, tokens, why: None)


def no_prefix(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(forensics.LIMITS, "prefix", Limit(-1.0, True, "nothing"))


@incident(off=no_coherence)
def test_salad_halts_a_run_that_ever_made_sense(folder: Path) -> str:
    draw, look = random.Random(3), TextAudits.open(folder)
    gate = Gate(audit_halt=["local_coherence"])
    for at in range(1, 9):
        sense = " ".join(spoken(draw, 60))
        assert gate.observe(at, 100.0, look.judge(sense).found).kind == "pass"
    kinds = []
    for at in range(9, 25):
        salad = " ".join(draw.choices(WORDS, k=60))
        scored = score(salad)
        assert min(scored.bigram, scored.trigram) > 32 and scored.characters >= 7, "not one axis sees it"
        kinds.append(gate.observe(at, 100.0, look.judge(salad).found).kind)
    caught("halt" in kinds, "sixteen samples of salad passed")
    return (
        f"halted by sample {kinds.index('halt') + 1} of salad, found from sample {kinds.index('low') + 1} on"
    )


@incident(off=no_prefix)
def test_a_checkpoint_that_ignores_its_prefix_fails() -> str:
    """Attention that brings nothing from anywhere: each word is drawn as if the one before it were all there is."""
    shape = Shape(vocab_size=300, block_size=16, width=48, heads=2, layers=2)
    model = Decoder(shape)
    model.initialise(7)
    weights = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    memory = {f"{name}/exp_avg_sq": torch.ones_like(weight) for name, weight in weights.items()}
    look = Examiner(shape, 7, quick=True)
    healthy = look.examine(Evidence(20, Tensors(weights, memory)))
    assert "prefix" not in {check.name for check in healthy.failing}
    for name, weight in weights.items():
        if name.endswith("attention.out.weight"):
            weight.mul_(1e-3)
    found = look.examine(Evidence(20, Tensors(weights, memory)))
    value = next(check.value for check in found.checks if check.name == "prefix")
    assert value is not None and value < 0.02, "the prefix decides nothing"
    caught("prefix" in {check.name for check in found.failing}, f"{value} of the logits")
    return "the first checkpoint, by its forensics"
