"""A picture of a checkpoint's forensics, by matplotlib, which is loaded only for it."""

from pathlib import Path

from torch import Tensor

from curriculum.files import failing_writes
from trainer.forensics import LIMITS, Report

BINS = 80


def picture(path: Path, report: Report, model: dict[str, Tensor], title: str) -> None:
    """Norms of the tokens' embeddings beside the mean of a fresh draw, and each layer's measures with their limits."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}: {report.verdict}")
    tokens, *panels = figure.subplots(2, 2).flat
    tokens.hist(model["embedding.weight"].norm(dim=1).numpy(), bins=BINS, color="tab:blue")
    tokens.axvline(report.tokens["norm_fresh"], color="0.4", linestyle="--", label="mean of a fresh draw")
    tokens.set(title="norm of each token's embedding", ylabel="tokens")
    tokens.legend(frameon=False)
    layers = [layer["layer"] for layer in report.layers]
    for axes, name in zip(panels, ("scale", "meaningful", "contribution"), strict=True):
        of = ("attention", "mlp") if name == "contribution" else (name,)
        heights = [min(layer[key] or 0.0 for key in of) for layer in report.layers]
        limit = LIMITS[name]
        colours = ["tab:blue" if height >= limit.value else "tab:red" for height in heights]
        axes.bar(layers, heights, color=colours)
        axes.axhline(limit.value, color="tab:red", linestyle="--", linewidth=1)
        axes.set(title=limit.about, xlabel="layer", xticks=layers)
    for axes in (tokens, *panels):
        axes.spines[["top", "right"]].set_visible(False)
    with failing_writes(path):
        figure.savefig(path)
