"""MFU: a peak for the cards that are known by their whole name, the arithmetic of a token by hand, none where unknown."""

from dataclasses import replace

import pytest
import torch

from tests.trainer.test_display import PROGRESS
from trainer import peak
from trainer.display import step_line
from trainer.model import Decoder, Shape


@pytest.mark.parametrize(
    ("name", "peak_flops"),
    [
        ("NVIDIA H200", 989.4e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", None),
        ("NVIDIA A10G", None),
        ("Radeon", None),
    ],
)
def test_a_peak_by_the_whole_name_or_none(name: str, peak_flops: float | None) -> None:
    assert peak.of(name) == peak_flops


def test_arithmetic_of_a_token_by_hand() -> None:
    """GPT-2's small shape: 12 L d^2 in the blocks, V d in the head, 25 norms of d; no table of positions."""
    shape = Shape(vocab_size=50_257, block_size=1024, width=768, heads=12, layers=12)
    with torch.device("meta"):
        tied, untied = Decoder(shape), Decoder(replace(shape, tied=False))
    weights = 12 * 12 * 768**2 + 50_257 * 768 + 25 * 768
    assert peak.flops_per_token(tied) == 6 * weights + 12 * 12 * 768 * 1024
    assert peak.flops_per_token(untied) == peak.flops_per_token(tied), (
        "a table that is looked up multiplies nothing"
    )
    assert 123.5e6 < weights < 123.6e6


def test_no_mfu_on_a_cpu_and_none_for_an_unknown_card(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Decoder(Shape(64, 16, 32, 4, 2))
    assert peak.mfu(model, 1e6, torch.device("cpu")) is None
    card = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA Next")
    assert peak.mfu(model, 1e6, card) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert peak.mfu(model, None, card) is None
    share = peak.mfu(model, 1e6, card)
    assert share == pytest.approx(1e6 * peak.flops_per_token(model) / 989.4e12)
    assert peak.mfu(model, 1e6, card, devices=4) == pytest.approx(share / 4)


def test_the_line_of_a_step_says_it_where_it_is_known() -> None:
    assert "MFU" not in step_line(PROGRESS)
    assert "8,192 tok/s (MFU 41.2%) | eta" in step_line(replace(PROGRESS, mfu=0.412))
