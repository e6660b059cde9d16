"""A config is read whole or refused with the file, the line, the key and what was meant (I18)."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from curriculum import config_docs
from curriculum.config import (
    PRESETS,
    Config,
    decay_line,
    differences,
    digest,
    effective,
    load,
    warnings,
)
from curriculum.config_cli import app
from curriculum.errors import Exit, FirehoseError

MINIMAL = '[sources.chat]\npath = "chat.jsonl"\n'
ROOT = Path(__file__).parents[2]


def read(tmp_path: Path, text: str, name: str = "run.toml") -> Config:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return load(path)


def refused(tmp_path: Path, text: str) -> FirehoseError:
    with pytest.raises(FirehoseError) as caught:
        read(tmp_path, text)
    assert caught.value.changed == "nothing"
    return caught.value


def line_of(error: FirehoseError) -> int:
    assert error.path is not None
    return int(error.path.rpartition(":")[2])


def test_defaults(tmp_path: Path) -> None:
    config = read(tmp_path, MINIMAL, "night-run.toml")
    assert config.name == "night-run"
    assert config.data.dir == "data/night-run"
    assert (config.train.warmup_steps, config.train.grad_clip, config.train.sample_every) == (2000, 1.0, 100)
    assert (config.gate.threshold, config.gate.consecutive) == (30.0, 5)
    assert config.curriculum.dwell == (7, 42)
    assert (config.sources["chat"].cap, config.sources["chat"].floor) == (1.3, 0.0)
    assert config.sources["chat"].paths == ("chat.jsonl",)


@pytest.mark.parametrize("preset", PRESETS)
def test_preset_fills_the_shape_and_yields_to_the_file(tmp_path: Path, preset: str) -> None:
    width, heads, layers, block_size = PRESETS[preset]
    model = read(tmp_path, f'[model]\npreset = "{preset}"\n{MINIMAL}').model
    assert (model.width, model.heads, model.layers, model.block_size) == (width, heads, layers, block_size)
    model = read(tmp_path, f'[model]\npreset = "{preset}"\nlayers = 1\nblock_size = 64\n{MINIMAL}').model
    assert (model.width, model.heads, model.layers, model.block_size) == (width, heads, 1, 64)


def test_paths_are_relative_to_the_file_or_to_the_given_base(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "run.toml").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    config = load("run.toml")
    assert config.path == tmp_path / "run.toml"
    assert config.resolve("data/a") == tmp_path / "data/a"
    assert config.resolve("/elsewhere/b") == Path("/elsewhere/b")
    copy = load("run.toml", original=tmp_path / "home/first.toml")
    assert copy.resolve("data/a") == tmp_path / "home/data/a"
    assert (copy.name, copy.data.dir) == ("first", "data/first")


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[train]\n# a comment\nstps = 3\n", 3, 'unknown key train.stps on line 3; did you mean "steps"?'),
        ("sample_every = 100\n", 1, "it belongs in [train]"),
        ("[curiculum]\n", 1, 'did you mean "curriculum"?'),
        (
            '[sources.books]\npath = "b"\nflor = 0.2\n',
            3,
            'sources.books.flor on line 3; did you mean "floor"?',
        ),
        ("[gate]\nprompts = [\n  '''two\nlines = 1''',\n  'x',\n]\nwindo = 3\n", 7, "gate.windo on line 7"),
        ("[gate]\nseed = 3\n", 2, "it belongs at the top of the file"),
        ('sources.web = {path = "w", "flo or" = 1}\n', 1, "sources.web.flo or"),
        ("zzz = 1\n", 1, "unknown key zzz on line 1"),
    ],
)
def test_unknown_key(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = refused(tmp_path, text + ("" if "sources." in text and "[sources" not in text else MINIMAL))
    assert error.exit_code == Exit.USAGE
    assert line_of(error) == line
    assert said in error.message


def test_all_unknown_keys_are_told_at_once(tmp_path: Path) -> None:
    error = refused(tmp_path, f"[train]\nstps = 3\nlearning = 1\n{MINIMAL}")
    assert "train.stps" in error.message
    assert "train.learning" in error.message


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('[train]\n\nsteps = "many"\n', 3, "train.steps: expected int, got str"),
        ("[train]\nsteps = 0\n", 2, "train.steps"),
        ("[train]\nsteps = 1.5\n", 2, "train.steps"),
        ("[train]\nlr = true\n", 2, "train.lr"),
        ("[train]\nbeta2 = 1.0\n", 2, "train.beta2"),
        ('[train]\ndevice = "gpu"\n', 2, "train.device"),
        ('[train]\ninit_from = ""\n', 2, "train.init_from"),
        ('[model]\npreset = "andrea120m"\n', 2, 'did you mean "andrea-120m"?'),
        (
            '[curriculum]\npolicy = "thompson"\n',
            2,
            '"thompson" is not one of exp3, fixed, focus-ucb, odm, proportional, softmax-ucb, ucb, uniform',
        ),
        ("[curriculum]\ndwell = [7]\n", 2, "curriculum.dwell"),
        ("[gate]\nprompts = [\n 'a',\n 3,\n]\n", 2, "gate.prompts"),
        ("[gate]\nprompts = []\n", 2, "gate.prompts"),
        ("train = 3\n", 1, "train"),
        ('name = "a/b"\n', 1, "cannot be the name of a run"),
        ("seed = -1\n", 1, "seed"),
    ],
)
def test_wrong_value(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = refused(tmp_path, text + MINIMAL)
    assert error.exit_code == Exit.USAGE
    assert line_of(error) == line
    assert said in error.message


@pytest.mark.parametrize(
    ("text", "line", "arm"),
    [
        ('[sources.a]\npath = "a"\n[sources.b]\npath = "b"\ncap = "x"\n', 5, "b"),
        ('[sources.a]\npath = "a"\n[sources."v1.2"]\npath = ["b", 3]\n', 4, "v1.2"),
        ('[sources.a]\npath = "a"\n[sources.b]\ncap = 0.3\n', 3, "b"),
        ('[sources.a]\npath = "a"\n[sources.b]\npath = []\n', 4, "b"),
        ('[sources.a]\npath = "a"\n[sources."b/../c"]\npath = "b"\n', 3, "b/../c"),
        ('[sources.a]\npath = "a"\n[sources."a.heldout"]\npath = "b"\n', 3, "a.heldout"),
    ],
)
def test_wrong_source_names_the_arm(tmp_path: Path, text: str, line: int, arm: str) -> None:
    error = refused(tmp_path, text)
    assert (error.exit_code, line_of(error), error.arm) == (Exit.USAGE, line, arm)


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FirehoseError) as caught:
        load(tmp_path / "absent.toml")
    assert (caught.value.exit_code, caught.value.path) == (Exit.USAGE, str(tmp_path / "absent.toml"))
    with pytest.raises(FirehoseError) as caught:
        load(tmp_path)
    assert caught.value.exit_code == Exit.USAGE
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"\n')
    with pytest.raises(FirehoseError, match="UTF-8"):
        load(tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed = 1\nlr = \n", 2), ("a = 1\n\na = 2\n", 3), ("[train]\n[train]\n", 2), ("a = [1,\n2", 2)],
)
def test_syntax_error_has_its_line(tmp_path: Path, text: str, line: int) -> None:
    error = refused(tmp_path, text)
    assert (error.exit_code, line_of(error)) == (Exit.USAGE, line)
    assert "not valid TOML" in error.message


def test_no_sources(tmp_path: Path) -> None:
    assert "sources" in refused(tmp_path, "seed = 1\n").message
    assert refused(tmp_path, "[sources]\n").exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[train]\nsample_every = 150\n", 2, "not a multiple of train.boundary_every 100"),
        (
            "[train]\nboundary_every = 300\ncheckpoint_every = 1000\nsample_every = 300\n",
            3,
            "checkpoint_every 1000",
        ),
        ("[train]\nheldout_every = 50\n", 2, "heldout_every 50"),
        ("[train]\nlr = inf\n", 2, "train.lr is inf"),
        ("[train]\nlr = 1e-4\nmin_lr = 1e-3\n", 3, "min_lr 0.001 is over train.lr"),
        ("[gate]\nthreshold = nan\n", 2, "gate.threshold is nan"),
        ("[curriculum]\nmemory = 2\n", 2, "curriculum.memory 2 is under the 4 pulls of one step"),
        ("[gate]\nwindow = 4\n", 1, "window_low 8 is over gate.window 4"),
        ("[gate]\nthreshold = 0\n", 2, "gate.threshold 0 is a gate that could never fire"),
        ("[gate]\nmax_new_tokens = 8\n", 1, "min_new_tokens 16 is over"),
        ("[curriculum]\ndwell = [42, 7]\n", 2, "from 42 down to 7"),
        ("[model]\nwidth = 130\n", 2, "130 does not divide into 4 heads"),
        ("[model]\nheads = 128\n", 2, "even number of channels"),
    ],
)
def test_refused_settings(tmp_path: Path, text: str, line: int, said: str) -> None:
    error = refused(tmp_path, text + MINIMAL)
    assert error.exit_code == Exit.REFUSED
    assert line_of(error) == line
    assert said in error.message


@pytest.mark.parametrize(
    ("bounds", "line", "said"),
    [
        ("cap = nan", 5, "not a finite number"),
        ("floor = inf", 5, "not a finite number"),
        ("floor = 0.1\ncap = -0.1", 6, "negative"),
        ("floor = -0.1", 5, "negative"),
        ("cap = 0.2\nfloor = 0.3", 6, "floor 0.3 is over cap 0.2"),
        ("floor = 1.4", 5, "floor 1.4 is over cap 1.3"),
        ("max_share = 0.5\nmin_share = 0.6", 6, "min_share 0.6 is over max_share 0.5"),
        ("max_share = 1.5", 5, "over 1"),
    ],
)
def test_refused_bounds_name_the_arm(tmp_path: Path, bounds: str, line: int, said: str) -> None:
    error = refused(tmp_path, f'{MINIMAL}[sources.books]\npath = "b"\n{bounds}\n')
    assert (error.exit_code, line_of(error), error.arm) == (Exit.REFUSED, line, "books")
    assert said in error.message


def source(name: str, bounds: str = "") -> str:
    return f'[sources.{name}]\npath = "{name}"\n{bounds}\n'


def test_shares_that_cannot_sum_to_one_are_refused_over_the_full_set(tmp_path: Path) -> None:
    error = refused(tmp_path, source("a", "min_share = 0.6") + source("b", "min_share = 0.5") + source("c"))
    assert error.exit_code == Exit.REFUSED
    assert "full phase" in error.message
    assert "a 0.6" in error.message
    assert "b 0.5" in error.message
    error = refused(tmp_path, source("a", "max_share = 0.4") + source("b", "max_share = 0.5"))
    assert "max_share" in error.message
    assert error.arm == "a, b"


def test_shares_are_judged_over_the_warm_up_set_too(tmp_path: Path) -> None:
    sources = source("a", "max_share = 0.4") + source("b")
    warmup = '[curriculum]\ncurriculum_warmup_steps = 10\ncurriculum_warmup_sources = ["a"]\n'
    read(tmp_path, sources)
    error = refused(tmp_path, warmup + sources)
    assert (error.exit_code, error.arm) == (Exit.REFUSED, "a")
    assert "warm-up phase" in error.message


def test_bounds_of_what_is_never_picked_bind_nothing(tmp_path: Path) -> None:
    exclude = '[curriculum]\nexclude_sources = ["a", "never-configured"]\n'
    config = read(tmp_path, exclude + source("a", "min_share = 0.9") + source("b", "min_share = 0.9"))
    assert set(config.sources) == {"a", "b"}
    read(tmp_path, source("a", "cap = 0.0\nfloor = 0.5\nmin_share = 0.9") + source("b", "min_share = 0.9"))


def test_shares_written_in_decimals_may_sum_to_one(tmp_path: Path) -> None:
    read(tmp_path, "".join(source(name, "max_share = 0.1") for name in "abcdefghij"))


def test_warm_up_set(tmp_path: Path) -> None:
    warmup = "[curriculum]\ncurriculum_warmup_steps = 10\ncurriculum_warmup_sources = {}\n"
    error = refused(tmp_path, warmup.format('["chta"]') + MINIMAL)
    assert (error.exit_code, line_of(error), error.arm) == (Exit.USAGE, 3, "chta")
    assert 'did you mean "chat"?' in error.message
    assert refused(tmp_path, warmup.format("[]") + MINIMAL).exit_code == Exit.REFUSED
    error = refused(tmp_path, warmup.format('["chat"]') + source("chat", "cap = 0") + source("b"))
    assert error.exit_code == Exit.REFUSED
    assert "warm-up lasts 10 steps" in error.message


def test_nothing_to_pick(tmp_path: Path) -> None:
    error = refused(tmp_path, source("a", "cap = 0") + source("b", "max_share = 0"))
    assert (error.exit_code, error.arm) == (Exit.REFUSED, "a, b")


def test_weight_decay_is_what_the_run_needs_unless_set(tmp_path: Path) -> None:
    scratch = read(tmp_path, MINIMAL)
    tuned = read(tmp_path, f'[train]\ninit_from = "old"\n{MINIMAL}')
    chosen = read(tmp_path, f"[train]\nweight_decay = 0.2\n{MINIMAL}")
    assert [effective(each)["train"]["weight_decay"] for each in (scratch, tuned, chosen)] == [0.01, 0.0, 0.2]
    assert "0.01" in decay_line(scratch)
    assert "0.2" in decay_line(chosen)
    assert "set by the config" in decay_line(chosen)


def test_warnings(tmp_path: Path) -> None:
    assert warnings(read(tmp_path, MINIMAL)) == []
    (warned,) = warnings(read(tmp_path, f"[train]\nwarmup_steps = 0\n{MINIMAL}"))
    assert warned.startswith("I02")
    assert warnings(read(tmp_path, f'[train]\nwarmup_steps = 0\ninit_from = "old"\n{MINIMAL}')) == []
    (warned,) = warnings(read(tmp_path, f"[train]\nweight_decay = 0.0\n{MINIMAL}"))
    assert warned.startswith("I03")
    (warned,) = warnings(read(tmp_path, f"[train]\nsteps = 1000\n{MINIMAL}"))
    assert "never ends" in warned
    (warned,) = warnings(read(tmp_path, f"[train]\nsample_every = 50000\n{MINIMAL}"))
    assert warned.startswith("the gate cannot halt this run: it needs 5 samples")
    off = '[gate]\nthreshold = 0\naudit_halt = ["script_share"]\n'
    (warned,) = warnings(read(tmp_path, off + MINIMAL))
    assert warned.startswith("gate.threshold 0")


def test_an_arm_the_bandit_would_forget_is_warned_about(tmp_path: Path) -> None:
    sources = source("a", "floor = 0.2") + "".join(source(name) for name in "bcd")
    assert warnings(read(tmp_path, f"[curriculum]\nmemory = 50\n{sources}")) == []
    warned = warnings(read(tmp_path, f"[curriculum]\nmemory = 30\n{sources}"))
    assert [line.split()[0] for line in warned] == ["b", "c", "d"]  # 30 * 0.1 / (0.1 + 3 * 1.3) < 1
    assert warnings(read(tmp_path, f'[curriculum]\nmemory = 30\npolicy = "uniform"\n{sources}')) == []


def test_effective_is_json_and_complete(tmp_path: Path) -> None:
    plain = effective(read(tmp_path, f'[model]\npreset = "andrea-12m"\n{MINIMAL}'))
    assert json.loads(json.dumps(plain)) == plain
    assert "path" not in plain
    assert plain["model"] == {
        "preset": "andrea-12m",
        "width": 384,
        "heads": 12,
        "layers": 6,
        "tied": True,
        "block_size": 1024,
    }
    assert plain["sources"]["chat"]["cap"] == 1.3


def test_writing_a_default_down_changes_nothing(tmp_path: Path) -> None:
    brief = read(tmp_path, MINIMAL)
    full = read(
        tmp_path,
        f'[train]\nlr = 6e-4\nbeta1 = 0.9\n[model]\npreset = "tiny"\nwidth = 128\n{MINIMAL}cap = 1.3\n',
    )
    assert effective(brief) == effective(full)
    assert digest(brief) == digest(full)


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        ("seed = 2\n", ["seed"]),
        ("[train]\nlr = 1e-4\nsteps = 300000\n", ["train.lr", "train.steps"]),
        ("[gate]\nprompts = ['a']\n", ["gate.prompts"]),
        ('name = "other"\n[data]\ndir = "elsewhere"\ntokenizer_sample_mb = 3\n', []),
        ("[train]\nkeep_every = 5000\nkeep_checkpoints = 9\n", []),
    ],
)
def test_digest_and_differences_agree(tmp_path: Path, change: str, keys: list[str]) -> None:
    old, new = read(tmp_path, MINIMAL), read(tmp_path, change + MINIMAL)
    assert differences(effective(old), effective(new)) == keys
    assert (digest(old) == digest(new)) == (not keys)


def test_a_source_that_comes_goes_or_changes_is_a_difference(tmp_path: Path) -> None:
    one = effective(read(tmp_path, source("a")))
    two = effective(read(tmp_path, source("a", "cap = 0.5") + source("b")))
    assert differences(one, two) == [
        "sources.a.cap",
        "sources.b.cap",
        "sources.b.floor",
        "sources.b.max_share",
        "sources.b.min_share",
    ]
    assert differences(two, one) == differences(one, two)


FLOORED = (
    '[sources.a]\npath = "a"\nfloor = 0.3\n[sources.b]\npath = "b"\n[sources.c]\npath = "c"\nfloor = 0.1\n'
)


@pytest.mark.parametrize(
    ("curriculum", "reward", "goal"),
    [
        ("", "align", ("a", "c")),
        ('exclude_sources = ["c"]', "align", ("a",)),
        ('exclude_sources = ["a", "c"]', "progress", ()),
        ('goal_sources = ["b"]', "align", ("b",)),
        ('reward = "heldout"', "heldout", ("a", "c")),
        ('reward = "progress"', "progress", ()),
    ],
)
def test_reward_and_goal_follow_from_each_other_and_the_floors(
    tmp_path: Path, curriculum: str, reward: str, goal: tuple[str, ...]
) -> None:
    config = read(tmp_path, f"[curriculum]\n{curriculum}\n{FLOORED}")
    assert (config.curriculum.reward, config.curriculum.goal_sources) == (reward, goal)
    assert read(tmp_path, MINIMAL).curriculum.reward == "progress"


def test_a_goal_that_cannot_be_is_refused_and_one_that_is_not_used_is_said(tmp_path: Path) -> None:
    error = refused(tmp_path, f'[curriculum]\nreward = "align"\n{MINIMAL}')
    assert (error.exit_code, line_of(error)) == (Exit.REFUSED, 2)
    assert "needs a goal" in error.message and "progress" in str(error.next)
    error = refused(tmp_path, f'[curriculum]\ngoal_sources = ["chit"]\n{MINIMAL}')
    assert (error.exit_code, error.arm) == (Exit.USAGE, "chit")
    assert "chat" in error.message
    assert refused(tmp_path, f'[curriculum]\nreward = "entropy"\n{MINIMAL}').exit_code is Exit.USAGE
    unused = read(tmp_path, f'[curriculum]\nreward = "loss"\ngoal_sources = ["chat"]\n{MINIMAL}')
    assert "curriculum.goal_sources are not used by the reward loss" in warnings(unused)


def test_order_and_place_are_no_difference(tmp_path: Path) -> None:
    one = read(tmp_path, '[curriculum]\nexclude_sources = ["x", "y"]\n' + source("a") + source("b"))
    (tmp_path / "sub").mkdir()
    other = read(
        tmp_path / "sub", '[curriculum]\nexclude_sources = ["y", "x"]\n' + source("b") + source("a"), "z.toml"
    )
    assert digest(one) == digest(other)


def test_page_is_the_program(tmp_path: Path) -> None:
    page = (ROOT / "docs/config.md").read_text(encoding="utf-8")
    assert page.endswith("-->\n\n" + config_docs.reference()), (
        "run `firehose config schema --markdown` and replace the tables of docs/config.md"
    )


def test_check_command(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[train]\nwarmup_steps = 0\n{MINIMAL}", encoding="utf-8")
    plain = CliRunner().invoke(app, ["check", str(path)])
    assert plain.exit_code == 0
    assert "warmup_steps = 0" in plain.stdout
    assert "weight decay 0.01" in plain.stdout
    assert "I02" in plain.stderr
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    body = json.loads(result.stdout)
    assert (result.exit_code, body["schema"]) == (0, "config-check/1")
    assert body["effective"] == effective(load(path))
    assert body["phases"] == [{"name": "full", "first_step": 1, "sources": ["chat"]}]
    path.write_text(f"[train]\nwarm = 0\n{MINIMAL}", encoding="utf-8")
    result = CliRunner().invoke(app, ["check", str(path), "--json"])
    assert (result.exit_code, json.loads(result.stdout)["error"]["path"]) == (2, f"{path}:2")


def test_schema_command() -> None:
    result = CliRunner().invoke(app, ["schema"])
    schema = json.loads(result.stdout)
    assert schema["$defs"]["Train"]["properties"]["lr"]["exclusiveMinimum"] == 0
    assert schema["$defs"]["Source"]["additionalProperties"] is False
    wrapped = json.loads(CliRunner().invoke(app, ["schema", "--json"]).stdout)
    assert wrapped == {"schema": "config-schema/1", "json_schema": schema}
    assert CliRunner().invoke(app, ["schema", "--markdown"]).stdout == config_docs.reference()
