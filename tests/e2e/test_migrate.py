"""A run whose files an older version wrote goes on as if nothing had happened, and its files are then of this version."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from state.envelope import VERSION, canonical, seal
from tests.fixtures import tiny
from tests.fixtures.runs import go, the_run, the_state


def as_version_1(body: dict[str, Any]) -> None:
    """Turn an envelope's body into what version 1 would have written, in place."""
    for record in body["payload"]["bandit"]["arms"].values():
        record["last_step"] = 7
    body["payload_sha256"] = hashlib.sha256(canonical(body["payload"])).hexdigest()
    body["version"] = 1
    del body["header_sha256"]


def test_a_run_of_version_1_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    (tmp_path / "straight").mkdir()
    straight = tiny.make(tmp_path / "straight").path
    go(straight, until=20)
    older = shutil.copytree(straight.parent, tmp_path / "older") / straight.name
    run = the_run(older)
    assert seal(the_state(older)) == run.state.read_bytes()
    body = json.loads(run.state.read_bytes())
    as_version_1(body)
    run.state.write_text(json.dumps(body))
    before = run.state.read_bytes()
    meta = run.checkpoints / "step_20/checkpoint.json"
    checkpoint = json.loads(meta.read_bytes())
    as_version_1(checkpoint["state"])
    meta.write_text(json.dumps(checkpoint))

    for config in (straight, older):
        go(config, until=30)
    assert run.loss.read_bytes() == the_run(straight).loss.read_bytes()
    assert run.pulls.read_bytes() == the_run(straight).pulls.read_bytes()
    assert json.loads(run.state.read_bytes())["version"] == VERSION
    assert the_state(older).payload == the_state(straight).payload
    kept = [
        path for path in run.state.with_name(f"{run.state.name}.d").iterdir() if path.read_bytes() == before
    ]
    assert len(kept) == 1, "the old file is kept as it was"
