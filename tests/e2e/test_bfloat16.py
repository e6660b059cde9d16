"""bfloat16 asked for by hand, on any CPU: cut by SIGKILL and resumed, the same bits as never cut."""

from pathlib import Path

from state.rows import read_rows
from tests.e2e.test_kill import compare, run
from tests.fixtures import tiny


def test_straight_and_cut_are_the_same_bytes(tmp_path: Path) -> None:
    config = tiny.make(tmp_path, *tiny.QUICK, ("threads = 1", 'threads = 1\ndtype = "bfloat16"')).path
    runs = tmp_path / "runs"
    assert run(config, runs, "straight", []) == [0]
    assert run(config, runs, "cut", ["step:33"]) == [-9, 0]
    compare(runs, "cut")
    rows = read_rows(runs / "straight/straight.loss.json")
    assert rows[-1][1] < rows[0][1] - 1
