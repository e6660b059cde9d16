"""Edits of a config's text: what is set is set, and nothing else of the file changes by a byte."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curriculum import config as configs
from curriculum import config_edit
from curriculum.config_edit import Change, changes, edit, refused, set_in_file, settings
from curriculum.errors import Exit, FirehoseError

TEXT = """\
# What it is for.
name = "mine"   # the name

[train]
steps = 500

[curriculum]
exclude_sources = [
    "junk",  # bad
    "old",
]

[sources.web]   # the web
path = "web/*.jsonl"
  cap = 0.35    # was 0.5
floor = 0.02

# about mathematics
[sources."maths.v2"]
path = ["a.txt",
        "b.txt"]  # two

[sources.tales]
path = "tales.txt"
"""
PATH = Path("my.toml")
NAMES = ["web", "maths.v2", "tales"]


def made(*assignments: str, text: str = TEXT) -> str:
    return edit(text, settings(assignments, list(tomllib.loads(text)["sources"]), PATH), PATH)


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """Lines taken out and put in; the rest must be the same lines in the same order."""
    import difflib

    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [d[2:] for d in diff if d[0] == "-"], [d[2:] for d in diff if d[0] == "+"]


@pytest.mark.parametrize(
    ("assignment", "out", "put"),
    [
        ("web.cap=0.30", ["  cap = 0.35    # was 0.5"], ["  cap = 0.30    # was 0.5"]),
        ("web.floor=off", ["floor = 0.02"], []),
        ("maths.v2.floor=0.1", [], ["floor = 0.1"]),
        ("sources.tales.max_share=0.5", [], ["max_share = 0.5"]),
        ("tales.exclude=on", ['    "old",'], ['    "old",', '    "tales",']),
        ("junk2.exclude=on", None, None),
        ("curriculum.background=0.2", [], ["background = 0.2"]),
        ("gate.target=50", [], ["", "[gate]", "target = 50"]),
        ("curriculum.policy=uniform", [], ['policy = "uniform"']),
        ("name=yours", ['name = "mine"   # the name'], ['name = "yours"   # the name']),
        ("tales.cap=off", [], []),
        ("web.cap=0.35", [], []),
    ],
)
def test_one_line_changes(assignment: str, out: list[str] | None, put: list[str] | None) -> None:
    if put is None or out is None:
        with pytest.raises(FirehoseError, match="no source is called"):
            made(assignment)
        return
    gone, new = lines_changed(TEXT, made(assignment))
    assert [line for line in gone if line not in new] == [line for line in out if line not in put]
    assert [line for line in new if line not in gone] == [line for line in put if line not in out]


def test_a_new_key_stands_in_its_table_and_before_the_comment_of_the_next() -> None:
    text = made("web.max_share=0.5")
    assert "floor = 0.02\nmax_share = 0.5\n\n# about mathematics\n" in text
    text = made("maths.v2.cap=0.5")
    assert '        "b.txt"]  # two\ncap = 0.5\n\n[sources.tales]' in text
    assert made("tales.cap=1", text=TEXT.rstrip("\n")).endswith('path = "tales.txt"\ncap = 1\n')


def test_an_exclusion_comes_and_goes_and_its_neighbours_keep_their_comments() -> None:
    text = made("tales.exclude=on")
    assert tomllib.loads(text)["curriculum"]["exclude_sources"] == ["junk", "old", "tales"]
    assert '    "junk",  # bad\n' in text
    back = made("tales.exclude=off", text=text)
    assert tomllib.loads(back) == tomllib.loads(TEXT)
    assert '    "junk",  # bad\n' in back


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("wbe.cap=0.3", "no source is called 'wbe'; did you mean \"web\"?"),
        ("web.flor=0.3", "a source has no key 'flor'; did you mean \"floor\"?"),
        ("gate.treshold=3", 'there is no key gate.treshold; did you mean "threshold"?'),
        ("web.cap", "'web.cap' is not KEY=VALUE"),
        ("web.cap=", "is not KEY=VALUE"),
        ("cap=0.3", "'cap' names no key; of which source?"),
        ("tales.exclude=maybe", "exclude is on or off"),
    ],
)
def test_what_cannot_be_set_is_named(assignment: str, said: str) -> None:
    with pytest.raises(FirehoseError) as caught:
        made(assignment)
    assert caught.value.exit_code is Exit.USAGE
    assert said in str(caught.value)


def test_inline_and_dotted_tables_are_edited_or_refused_but_never_spoiled() -> None:
    dotted = 'sources.web.path = "a"\nsources.web.cap = 0.5 # c\n'
    assert made("web.cap=0.3", text=dotted) == 'sources.web.path = "a"\nsources.web.cap = 0.3 # c\n'
    inline = 'sources = {web = {path = "a", cap = 0.5}}  # all\n'
    assert made("web.cap=0.3", text=inline) == 'sources = {web = {path = "a", cap = 0.3}}  # all\n'
    with pytest.raises(FirehoseError, match="cannot be set in this file by command"):
        made("web.floor=0.3", text=inline)


def test_line_ends_of_other_systems_stay() -> None:
    text = TEXT.replace("\n", "\r\n")
    for assignments in (("web.cap=0.1",), ("tales.cap=0.1",), ("tales.exclude=on", "web.floor=off")):
        assert made(*assignments, text=text) == made(*assignments).replace("\n", "\r\n")


def test_the_file_itself_stays(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text(TEXT)
    assert set_in_file(path, ["web.cap=0.1"]) != TEXT
    assert path.read_text() == TEXT


VALUES = st.one_of(
    st.just("off"), st.floats(0, 1).map(lambda v: f"{v!r}"), st.integers(0, 2).map(str), st.just("0.30")
)
KEYS = st.tuples(st.sampled_from(NAMES), st.sampled_from(config_edit.BOUNDS)).map(".".join)
SETS = st.one_of(
    st.tuples(KEYS, VALUES),
    st.tuples(st.sampled_from(NAMES).map(lambda n: f"{n}.exclude"), st.sampled_from(["on", "off"])),
    st.tuples(st.just("curriculum.background"), VALUES),
    st.tuples(st.just("gate.target"), VALUES),
)


@given(st.lists(SETS, max_size=12))
def test_any_sets_in_any_order_mean_what_they_say_and_keep_the_rest(sets: list[tuple[str, str]]) -> None:
    text, expected = TEXT, tomllib.loads(TEXT)
    for key, value in sets:
        text = made(f"{key}={value}", text=text)
        arm, _, field = key.rpartition(".")
        if field == "exclude":
            names = expected["curriculum"]["exclude_sources"]
            if value == "on" and arm not in names:
                names.append(arm)
            elif value == "off" and arm in names:
                names.remove(arm)
            continue
        if arm in NAMES:
            table = expected["sources"][arm]
        elif value == "off":
            table = expected.get(arm, {})
        else:
            table = expected.setdefault(arm, {})
        if value == "off":
            table.pop(field, None)
        else:
            table[field] = float(value)
    assert tomllib.loads(text) == expected
    untouched = [
        line
        for line in TEXT.splitlines()
        if "=" not in line and '"' not in line and line.strip() not in ("", "]")
    ]
    rest = iter(text.splitlines())
    assert all(line in rest for line in untouched)  # each, in the same order
    assert ["# was 0.5" in line for line in text.splitlines() if line.startswith("  cap")] in ([True], [])
    assert text.count("path = ") == TEXT.count("path = ")


# What differs.


def plain(folder: Path, text: str) -> dict[str, object]:
    (folder / "x.toml").write_text(text)
    return configs.effective(configs.load(folder / "x.toml"))


def test_changes_name_arm_and_field(tmp_path: Path) -> None:
    old = plain(tmp_path, TEXT.replace('"old"', '"other"'))
    new = plain(
        tmp_path,
        TEXT.replace('"junk",  # bad', '"tales",').replace("cap = 0.35", "cap = 0.3")
        + '[sources.more]\npath = "m"\n[gate]\ntarget = 50\n',
    )
    found = {(change.arm, change.field): (change.old, change.new) for change in changes(old, new)}
    assert found.pop(("more", "source"))[0] is None
    assert found == {
        ("web", "cap"): (0.35, 0.3),
        ("tales", "excluded"): (False, True),
        (None, "gate.target"): (60.0, 50),
        (None, "curriculum.exclude_sources"): (["junk", "other"], ["old"]),
    }


def test_what_a_run_keeps_for_life_is_told_from_what_it_does_not(tmp_path: Path) -> None:
    old = plain(tmp_path, TEXT)
    new = plain(
        tmp_path,
        "seed = 4\n"
        + TEXT.replace("steps = 500", "steps = 600\nlr = 1e-3\nsample_every = 200\nkeep_every = 7").replace(
            'name = "mine"', 'name = "b"'
        ),
    )
    assert sorted(refused(changes(old, new))) == ["seed", "train.lr", "train.steps"]
    assert refused([Change("web", "path", "a", "b"), Change(None, "curriculum.policy", "a", "b")]) == []
