"""What share of a device's arithmetic training uses: model FLOPs utilisation (MFU), where the device's peak is known."""

import re
import time

import torch

from trainer.model import Decoder

# Dense bf16 FLOP/s with fp32 sums, by the name that the driver gives, which must match whole: a laptop's or a part of a
# card has the same words in its name and another peak. From NVIDIA's datasheets, halved where they count sparsity.
PEAKS = {
    r"NVIDIA H200": 989.4e12,  # H200 datasheet, SXM: 1,979 with sparsity
    r"NVIDIA H200 NVL": 835.5e12,  # H200 datasheet, NVL: 1,671 with sparsity
    r"NVIDIA H100 80GB HBM3": 989.4e12,  # H100 datasheet, SXM: 1,979 with sparsity
    r"NVIDIA H100 NVL": 835.5e12,  # H100 datasheet, NVL: 1,671 with sparsity
    r"NVIDIA H100 PCIe": 756e12,  # H100 datasheet of 2022, PCIe: 1,513 with sparsity
    r"NVIDIA GH200 (480GB|144G HBM3e)": 989.4e12,  # GH200 datasheet: 1,979 with sparsity
    r"NVIDIA A100(-SXM4?-[48]0GB|-PCIE-40GB| 80GB PCIe)": 312e12,  # A100 datasheet
    r"NVIDIA A40": 149.7e12,  # A40 datasheet
    r"NVIDIA A30": 165e12,  # A30 datasheet
    r"NVIDIA L40S": 362.05e12,  # L40S datasheet: 362.05 | 733 with sparsity
    r"NVIDIA L40": 181.05e12,  # L40 datasheet: 181.05 | 362.1 with sparsity
    r"NVIDIA L4": 121e12,  # L4 datasheet: 242 with sparsity
    r"NVIDIA RTX 6000 Ada Generation": 364.2e12,  # its datasheet: 1,457 in fp8 with sparsity
    r"NVIDIA GeForce RTX 4090": 165.2e12,  # Ada whitepaper, appendix A: bf16 with fp32 sums
    r"NVIDIA GeForce RTX 3090": 71e12,  # GA102 whitepaper, table 2
}


def of(name: str) -> float | None:
    """A device's peak in FLOP/s by its name; None where it is not known, and then there is no MFU."""
    whole = " ".join(name.split())
    return next((peak for pattern, peak in PEAKS.items() if re.fullmatch(pattern, whole)), None)


def flops_per_token(model: Decoder) -> int:
    """Arithmetic of a trained token: 6 N + 12 L d T (Chowdhery et al. 2022, appendix B), attention counted whole.

    N: weights that take part in a matrix product, so a tied head once and an embedding that is only looked up not at all.
    """
    shape = model.shape
    looked_up = 0 if shape.tied else shape.vocab_size * shape.width
    return 6 * (model.parameter_count() - looked_up) + 12 * shape.layers * shape.width * shape.block_size


def mfu(model: Decoder, tokens_per_s: float | None, device: torch.device, devices: int = 1) -> float | None:
    """Share of the devices' peak, in [0, 1]; None on a CPU or a device whose peak is not known."""
    if tokens_per_s is None or device.type != "cuda":
        return None
    peak = of(torch.cuda.get_device_name(device))
    return None if peak is None else tokens_per_s * flops_per_token(model) / (peak * devices)


def ceiling(device: torch.device, *, seconds: float = 2.0, sizes: tuple[int, ...] = (4096, 8192)) -> float:
    """FLOP/s of the fastest square matrix product on a device, in bf16 on random numbers (zeros are faster)."""
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size, device=device).to(torch.bfloat16) for _ in range(2))
        end = time.perf_counter() + seconds / len(sizes)
        a @ b
        while time.perf_counter() < end:
            best = max(best, 2 * size**3 / _seconds(a, b))
    return best


def _seconds(a: torch.Tensor, b: torch.Tensor, times: int = 10) -> float:
    """How long a product takes, from the mean of a few."""
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    began = time.perf_counter()
    for _ in range(times):
        a @ b
    if a.device.type == "cuda":
        torch.cuda.synchronize(a.device)
    return (time.perf_counter() - began) / times
