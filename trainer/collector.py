"""Python's cyclic garbage collector during a run: what launch made is left out, and it runs at boundaries alone.

A full collection walks every object there is: with torch imported some 50 ms, at a moment nobody chose, while the
device waits for its next step. What a step makes is freed by its reference counts; cycles wait for the boundary.
"""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def at_boundaries() -> Iterator[None]:
    """No automatic collection inside, and none of what exists now; afterwards all is as it was."""
    was = gc.isenabled()
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was:
            gc.enable()
