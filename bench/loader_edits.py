"""The eight edits of a mixture between two sittings, and how what came of one is judged; for ours and for every peer.

Needs nothing but Python: the peers run in an environment of their own.
"""

from collections.abc import Mapping
from typing import Any

BEFORE, AFTER = 600, 2000
WEIGHTS = {"a": 0.6, "b": 0.3, "c": 0.1}
# Edit to the weights that follow each other, each from its own launch on; the peers get the same.
EDITS: dict[str, list[dict[str, float]]] = {
    "same": [WEIGHTS, WEIGHTS],
    "reweighted": [WEIGHTS, {"a": 0.1, "b": 0.3, "c": 0.6}],
    "reordered": [WEIGHTS, {"c": 0.1, "a": 0.6, "b": 0.3}],
    "last removed": [WEIGHTS, {"a": 0.6, "b": 0.3}],
    "first removed": [WEIGHTS, {"b": 0.3, "c": 0.1}],
    "added": [WEIGHTS, {**WEIGHTS, "d": 0.5}],
    "zeroed": [WEIGHTS, {**WEIGHTS, "c": 0.0}],
    "re-added": [WEIGHTS, {"a": 0.6, "b": 0.3}, WEIGHTS],
}


def judged(
    positions: Mapping[str, list[int]], weights: Mapping[str, float], last: Mapping[str, int]
) -> dict[str, Any]:
    """What an edit came to. positions: of each source, its samples' places in its own order, over all sittings.

    repeated: samples served again. skipped: those before the furthest one that were not served. off: the largest
    difference between a source's part of the last sitting and the one asked for, 1 where one was served that should not.
    """
    total, pulls = sum(weights.values()), sum(last.values())
    wanted = {name: weight / total for name, weight in weights.items()}
    dealt = {name: count / pulls for name, count in last.items()}
    off = max(abs(wanted.get(name, 0.0) - dealt.get(name, 0.0)) for name in {*wanted, *dealt})
    if any(wanted.get(name, 0.0) == 0.0 for name in dealt):
        off = 1.0
    return {
        "repeated": {name: len(seen) - len(set(seen)) for name, seen in sorted(positions.items())},
        "skipped": {name: max(seen) + 1 - len(set(seen)) for name, seen in sorted(positions.items())},
        "off": round(off, 4),
    }
