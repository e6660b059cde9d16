"""Libraries that only some users need: loaded where they are, and named with the command that installs them where not."""

import importlib
from types import ModuleType

from curriculum.errors import Exit, FirehoseError


def load(module: str, extra: str, what: str, *, path: object = None) -> ModuleType:
    """The module; FirehoseError(REFUSED) that says which extra holds it. what: a sentence without its full stop."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise FirehoseError(
            Exit.REFUSED,
            f"{what}, which is not installed",
            path=path,
            next=f"pip install 'firehose[{extra}]', then run the same command again",
        ) from None
