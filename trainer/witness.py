"""What the other ranks have in the place of rank 0's record: the same words, and nothing is written."""

from typing import Any

from state.run_dir import RunDir
from trainer.desk import NoDesk
from trainer.record import Record
from trainer.start import Start


class Witness(Record):
    """Takes what a `Record` takes, so that every rank runs the same loop; commits and monitors are rank 0's alone."""

    def __init__(self, run: RunDir, start: Start, *, config_sha256: str) -> None:
        self.run, self.name, self.config_sha256 = run, run.name, config_sha256
        self.standing = {key: start.payload[key] for key in ("pruned", "data")} | {
            "platform": start.platform,
            "rollbacks": start.payload.get("rollbacks", []),
        }
        self.checkpoint_step = None
        self.alarm = None
        self.desk = NoDesk(run)

    def step(self, *told: Any) -> None:
        pass

    def sample(self, *told: Any) -> None:
        pass

    def heldout(self, step: int, losses: dict[str, float]) -> None:
        pass

    def decided(self, event: str, step: int, **details: Any) -> None:
        pass

    def look(self) -> None:
        pass

    def close(self) -> None:
        pass
