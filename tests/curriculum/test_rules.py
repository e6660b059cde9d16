"""The rules that look at one document: what they must drop, what they must leave, and how long odd text may take."""

import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.config import Clean
from curriculum.text.rules import (
    RULES,
    Text,
    bigram_diversity,
    broken_rule,
    has_oversize_paragraph,
    is_list,
    is_prompt,
    is_repetition,
)
from curriculum.text.scripts import drifts, foreign, letters, script_of
from curriculum.text.shape import headers, signs
from curriculum.text.turns import first_user_turn, turns

CLEAN = Clean()
TEXT = "the rain fell on a town by some hills and nobody minded it much while ships went out to sea"
WORDS = TEXT.split()


def words(count: int, seed: int = 0) -> str:
    draw = random.Random(seed)
    return " ".join(f"{draw.choice(WORDS)}{draw.randrange(9)}" for _ in range(count))


def broken(text: str, **limits: object) -> str | None:
    return broken_rule(Text(text), Clean(**limits))  # type: ignore[arg-type]


# Turns.


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        ("> What is rain?\n< Water.\n# One\n# Two\n# Three", "What is rain?"),
        ("> What is rain? / < Water. / > And hail?", "What is rain?"),
        ("> What is rain? / # One\n# Two\n# Three", "What is rain?"),
        ("> a/b and http://x/y\nmore\n<", "a/b and http://x/y\nmore"),
        ("> # Style\ntabs / blanks: either\n## More / < Yes.", "# Style\ntabs / blanks: either\n## More"),
        ("> One\ntwo / > three", "One\ntwo"),
        ("> read / write access\n< Yes.", "read / write access"),
        ("> What is rain?\r\n<\r\n> And hail?", "What is rain?\r"),
        ("> First.\n> Second.\n< Answer.", "First."),
        ("Be brief.\n> What?\n< That.", "What?"),
        ("> Only a prompt\n\nwith lines", "Only a prompt\n\nwith lines"),
        ("# Title\n\n> A quotation\n\n# Two\n# Three\n# Four", None),
        ("Prose with a < b and c > d.", None),
        ("", None),
    ],
)
def test_the_first_user_turn(text: str, turn: str | None) -> None:
    assert first_user_turn(text) == turn


def test_turns_lose_their_marks() -> None:
    assert list(turns("Be brief.\n> One\ntwo\n< three\n> four")) == ["Be brief.", "One\ntwo", "three", "four"]
    assert list(turns("no chat at all")) == ["no chat at all"]


# Scripts.


def test_scripts_of_letters() -> None:
    expected = {
        "ß": "Latin",
        "ｆ": "Latin",
        "ж": "Cyrillic",
        "λ": "Greek",
        "中": "Han",
        "ﾊ": "Katakana",
        "ー": "Katakana",
    }
    expected |= {
        "ا": "Arabic",
        "ש": "Hebrew",
        "ก": "Thai",
        "अ": "Devanagari",
        "가": "Hangul",
        "ა": "Georgian",
    }
    assert {each: script_of(each) for each in expected} == expected
    assert script_of("𝛼") == "Common" and script_of("5") is None and script_of("’") is None
    assert letters("año ёж 42 xⁿ") == {"Latin": 4, "Cyrillic": 2, "Common": 1}
    assert foreign("año ёж 42 xⁿ", ("Latin",)) == (7, 2)


ENGLISH = "> How long is the way from here to the harbour, and is there a bus at night?\n< "


@pytest.mark.parametrize(
    ("text", "drops"),
    [
        (ENGLISH + "An hour on foot; the last bus leaves at ten.", False),
        (ENGLISH + "“Una hora”, said José: naïve, café, Ångström, 20 °C, 5 €, α and β → 😀.", False),
        ("Это предложение написано по-русски.", True),
        (ENGLISH + "步行一小时。", True),  # a twentieth of the letters, half of the turns
        (ENGLISH + "An hour.\n> And by boat, if the weather holds?\n< ساعتان\n> Thanks.\n< Welcome.", False),
        ("> a\n< б\n> c\n< д", True),
        ("1234 !!!", False),
    ],
)
def test_script_drift(text: str, drops: bool) -> None:
    assert drifts(text, ("Latin",), 0.2) is drops
    assert (broken(text) == "script drift") is drops


def test_a_run_may_be_in_other_scripts() -> None:
    russian = "Это предложение написано по-русски, и оно здесь не чужое."
    assert broken(russian, scripts=["Cyrillic"]) is None
    assert broken(words(30), scripts=("Cyrillic",)) == "script drift"
    assert broken(russian, foreign_share=1.0) is None
    assert foreign("", ("Latin",)) == (0, 0)


# Repetition and long lines.


def test_repetition() -> None:
    assert is_repetition(Text("region " * 20), CLEAN)
    assert is_repetition(Text("games, " * 30 + words(5)), CLEAN)
    assert is_repetition(Text("哈" * 60), Clean(scripts=("Han",)))
    assert not is_repetition(Text("region " * 19), CLEAN)  # too short to say
    assert not is_repetition(Text(words(4_000)), CLEAN)
    assert not is_repetition(Text("region " * 20), Clean(bigram_diversity=0))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "rain", "  ", "\n", "\n\n  ", "fell on"]), max_size=120),
    st.floats(0.01, 1),
)
def test_the_short_way_agrees_with_the_long_one(parts: list[str], least: float) -> None:
    text = " ".join(parts)
    assert is_repetition(Text(text), Clean(bigram_diversity=least)) == (bigram_diversity(text) < least)


def test_oversize_paragraphs_are_lines() -> None:
    for text, drops in (
        ("x" * 2000, False),
        ("x" * 2001, True),
        ("a\n" + "x" * 2001 + "\nb", True),
        (("x" * 2000 + "\n") * 3, False),
        ("x\n" * 3000, False),
    ):
        assert has_oversize_paragraph(Text(text), CLEAN) is drops


# Lists.

LOG = "\n".join(f"tests/test_{n}.py::test_rain PASSED [{n}%]" for n in range(12))
STAMPED = "\n".join(f"2024-05-0{n} 10:00:0{n} worker {n} did what it does" for n in range(1, 9))
TABLE = "Name | Size | Since\n:---|---|---\n" + "\n".join(f"a{n} | {n} kB | 20{n}" for n in range(10, 20))


@pytest.mark.parametrize(
    "text",
    [
        "Fruit (en)\n" + "\n".join(f"- kind {n}" for n in range(9)),
        "\n".join(
            f"* [Book {n}](http://x/{n}) - someone, at a length that is more than a line has"
            for n in range(5)
        ),
        "## 1.0\n\n" + "\n".join(f"* change {n}" for n in range(4)) + "\n\n### Fixes\n\n* one\n* two",
        "\n".join(f"{n}. entry" for n in range(1, 20)),
        TABLE,
        LOG,
        STAMPED,
        "> run them\n< " + "\n".join(LOG.splitlines() * 20),
    ],
)
def test_list_shaped_text(text: str) -> None:
    assert is_list(Text(text), CLEAN)
    assert not is_list(Text(text), Clean(list_share=1.0))


@pytest.mark.parametrize(
    "text",
    [
        words(200),
        words(60) + "\n\n- one\n- two\n\n" + words(60) + "\n" + words(20),
        "amorous\n1. (adjective) of love\n2. (adjective) inclined to it\n3. (adjective) in love",
        "> Name ten fruits.\n< Here they are:\n" + "\n".join(f"- fruit {n}" for n in range(30)),
        "> Steps?\n< " + "\n".join(f"{n}. step" for n in range(1, 15)),
        "- one item",
        "",
    ],
)
def test_what_is_no_list(text: str) -> None:
    assert not is_list(Text(text), CLEAN)


# System prompts.

LONG = "The agent keeps to its task and reports what it finds to the person who sent it. " * 7
SCHEMA = (
    '{"name": "read_file", "description": "Read a file.", "parameters": {"type": "object", "properties": {}}}'
)
PROMPTS = {
    "three headers": "# Agent Smith\n## Identity\nA clerk.\n## Rules\nBe kind.",
    "two headers and length": f"## Identity\n{LONG}\n## Rules\nBe kind.",
    "fingerprint with a header": "## You\nShadow Clone of the first.",
    "fingerprint and length": f"Read it. Become it. {LONG}",
    "one line": "# Agent X ## Identity You are X. ## Rules Never stop.",
    "capitals": f"IDENTITY\nA clerk of the court.\n\nHARD RULES\n{LONG}\n\nOUTPUT FORMAT\nPlain text.",
    "capitals with colons": "ROLE:\nA clerk.\nTOOLS:\nNone.\nSTYLE:\nDry.",
    "bold lines": "**Identity**\nA clerk.\n\n**Rules:**\nBe kind.\n\n**Format**\nPlain.",
    "bold items": "1. **Identity**: a clerk\n2. **Rules**: be kind\n3. **Format**: plain",
    "bold items after wide numbers": "1.  **Identity**: a clerk\n2.  **Rules**: be kind\n3.  **Format**: plain",
    "a role below a header and a line": "# Clerk of the court\n\nOpen the ledger first.\n\nYou are a clerk who keeps it.",
    "a developer": "You are a careful database developer.\n\nFollow the style guide of the project.",
    "tags": "<identity>\nA clerk.\n</identity>\n<rules>\nBe kind.\n</rules>\n<output_format>\nPlain.\n</output_format>",
    "titles over lists": "Key Principles\n- Be kind\n- Be dry\n\nNaming Conventions\n- Short\n\nError Handling\n- None",
    "a sheet of rules": "\n".join(
        f"- {verb} the queue" for verb in ("Always watch", "Never stop", "Use", "Keep", "Avoid")
    ),
    "tool schema": f"[{SCHEMA}, {SCHEMA}]",
    "tool schema under a line": f"You can call these:\n{SCHEMA}",
    "tools in tags": f"<tools>\n{SCHEMA}\n</tools>",
    "tools in words": f"In this environment you have access to a set of tools.\n{SCHEMA}",
    "named tools": "You have access to the following tools: search, read, write. Call one at a time.",
    "long role": "You are a careful coding agent who works in a repository that belongs to someone else. You always read "
    "a file before you change it, you never delete what you did not write, and your answers name the files and "
    "lines they speak of. When a test fails you look for the cause and do not touch the test. You will be given one "
    "task at a time, and you report in plain sentences when it is done, with what you did not do and why.",
    "expert": "You are an expert in Python and databases.\n\nFollow the style guide of the project.",
    "brackets": "[Persona]\nA clerk.\n[Rules]\nNever guess.\n[Output Format]\nJSON.",
    "underlined": "Persona\n-------\nA clerk.\n\nRules\n=====\nNever guess.\n\nTools\n-----\nNone.",
    "bold items on one line": "**Persona:** a clerk of a court. **Rules:** never guess. **Output:** JSON.",
    "tags on one line": "<persona>A clerk.</persona> <rules>Never guess.</rules> <format>JSON</format>",
    "tags in a tag": "<system_prompt>\n<persona>A clerk.</persona>\n<rules>None.</rules>\n</system_prompt>",
    "ornaments": "⚙ Persona\nA clerk of a court.\n\n⚖ Rules\nNever guess.\n\n✒ Output\nPlain.",
    "tools to use": "In this environment you have access to a set of tools you can use for the user's questions.",
    "tools in a later sentence": "Answer as best you can. You have access to the following tools:\n\nlookup: finds a word\n\n"
    "Thought: what to do\nAction: lookup\nAction Input: the word",
    "functions to call": "You can use the following functions: find(name), book(room). Call a function with its JSON and wait for an answer.",
    "a namespace": "# Tools\n\n## functions\nnamespace functions {\n// Finds.\ntype find = (_: {word: string}) => any;\n}",
    "tools in YAML": "tools:\n- name: find\n  description: finds a word\n  parameters:\n    word: string",
    "front matter": "---\ndescription: house style\napplyTo: '**/*.py'\n---\n\nShort functions.",
    "act as, with obligations": "I want you to act as the clerk of a court. You must answer in one line. Never give advice. "
    "Always name the paragraph.",
    "act as, with rules": "Act as the clerk of a court.\n- Answer in one line\n- Never advise\n- Always quote\n- Use plain words"
    "\n- Avoid Latin\n- Keep it short",
    "third person": "The assistant is called Vera. The assistant answers in one line. The assistant gives no advice. "
    "The assistant names the paragraph.",
    "a name's third person": "You are Vera, clerk of a court. Vera answers in one line. Vera gives no advice. Vera names the "
    "paragraph that she speaks of.",
    "from now on": "Hi there! From now on you are Vera, clerk of a court. You never give advice. You must be very short.",
}


@pytest.mark.parametrize("kind", PROMPTS)
def test_prompts_by_their_shape(kind: str) -> None:
    assert signs(PROMPTS[kind]) >= 3
    assert signs(PROMPTS[kind].replace("\n", "\r\n")) >= 3
    for text in (f"> {PROMPTS[kind]}", f"> {PROMPTS[kind]}\n< Understood."):
        assert is_prompt(Text(text), CLEAN)
        assert not is_prompt(Text(text), Clean(prompt_signs=1000))
    assert is_prompt(Text("whatever the text says", PROMPTS[kind]), CLEAN)
    assert not is_prompt(
        Text(f"> Write me a prompt.\n< {PROMPTS[kind]}"), CLEAN
    )  # an assistant's is not judged
    assert not is_prompt(Text(PROMPTS[kind], ""), CLEAN)  # no user speaks


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from([*PROMPTS.values(), TEXT, LONG, "# A", "- b", "C D E", "\n"]), max_size=6),
    st.integers(1, 9),
)
def test_looking_for_no_more_signs_than_are_enough_changes_no_answer(parts: list[str], enough: int) -> None:
    turn = "\n".join(parts)
    assert (signs(turn, enough) >= enough) is (signs(turn) >= enough)
    assert (headers(turn, enough) >= enough) is (headers(turn) >= enough)


@pytest.mark.parametrize(
    "turn",
    [
        "What does this do?\n\n# read the file\nimport os\n# and print it\nprint(open('x').read())\n# done\nx = 1",
        "Explain:\n```\n# one\n# two\n# three\n```",
        "You are a geologist. How can you tell that a volcano is about to erupt?",
        "I want you to act as a poet. Write about rain.",
        "You are an engineer. How would you explain to a child why a bridge stands?",
        "Write a haiku about rain using three words that start with 'r'.",
        "WHY IS IT ALWAYS RAINING HERE?",
        "Compare C # and F # for me, issue # 5 too.",
        "Fix this:\n<div>\n<p>\nrain\n</p>\n</div>\n<ul>\n<li>\na\n</li>\n</ul>",
        "My list:\n- milk\n- bread\n- eggs\nWhat is missing for a cake?",
        '{"a": 1, "b": [1, 2]} is this valid JSON?',
        LONG,
        "You are given a sorted list of whole numbers. You must return the index of a target. You should not sort it "
        "again, and you will be asked for the order of time that it takes. Your answer is a function in C.",
        "You are right about the first part. You should know that the second still fails. You always say to restart.",
        "You are the best! You should have seen their faces. You always make it clear to me, and you will hear from me.",
        "YOU ARE WRONG AGAIN.\nYou should read it. You must look at line 3. You never do.",
        "You are a night porter. At one you must open to a guest. You should wake nobody. You will have 12 keys. Who rings?",
        "Is this right?\n\nINGREDIENTS\n2 eggs\nflour\n\nMETHOD\nMix. Never stop.\n\nNOTES\nServe to your guests.",
        "INGREDIENTS\n2 eggs\nflour\n\nMETHOD\nMix and bake.\n\nNOTES\nServe warm.",
        "Summarise this CV:\n\nEDUCATION\nA college\n\nEXPERIENCE\nLed users of agents\n\nSKILLS\nTools",
        "THE MORNING\n\nIt comes.\n\nTHE NOON\n\nIt stays.\n\nTHE NIGHT\n\nIt goes.",
        "Make a list for me:\n- Add milk\n- Use brown sugar\n- Keep butter\n- Include eggs\n- Avoid nuts\n- Never salt",
        "- Create a branch\n- Write the code\n- Test it\n- Add a note\n- Use squash",
        "- Create a user\n- Write the rules\n- Test the format\n- Add a note\n- Use squash",
        "[Verse]\nThe rain falls\n\n[Chorus]\nOh rain\n\n[Bridge]\nNo more rain",
        "<project>\n<modelVersion>4</modelVersion>\n<groupId>a</groupId>\n<artifactId>b</artifactId>\n</project>",
        "Here are two functions: f(x) = x + 1 and g(x) = 2x. What is f(g(2))?",
        "I am building a shed. You have access to the following tools: hammer, saw and nails. What would you build?",
        "Act as a poet and write about rain. You should use rhyme. Do not use the word water, and let it end with a ship.",
        "The assistant is slow today. The assistant does not load. The assistant shows an error. The assistant hangs. Why?",
        "tools:\n  - name: hammer\n  - name: saw\nHow do I read this list in Python?",
        "namespace tools {\nclass Hammer { void hit(); };\n}\nWhy does this not compile?",
        "---\ntitle: A post\ntags: [a, b]\n---\n\nHow do I render this?",
    ],
)
def test_honest_turns_stay(turn: str) -> None:
    assert not is_prompt(Text(f"> {turn}\n< An answer."), CLEAN)
    assert signs(turn.replace("\n", "\r\n")) < 3


def test_headers_are_counted_once_each() -> None:
    assert headers("") == headers(LONG) == 0
    assert headers("Tone:\n- dry") == headers("IN SHORT") == 1
    assert headers("# One\n\n## Two\n\n###### Six\n####### none") == 3


# All of them.


def test_the_first_rule_that_holds_is_the_one() -> None:
    assert list(RULES) == [
        "empty",
        "oversize paragraph",
        "script drift",
        "repetition",
        "list",
        "prompt shape",
    ]
    assert [broken(text) for text in ("", " \n\u2003", "x" * 3000, words(100))] == [
        "empty",
        "empty",
        "oversize paragraph",
        None,
    ]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400), st.none() | st.text(max_size=200))
def test_no_text_breaks_a_rule_itself(text: str, turn: str | None) -> None:
    assert broken_rule(Text(text, turn), CLEAN) in {None, *RULES}


def test_odd_text_takes_no_longer_than_its_length() -> None:
    """No pattern goes back over what it has read: of 100 kB of each, one that did would take minutes."""
    units = [
        "\n",
        " ",
        "a",
        "# ",
        "\n# ",
        "**a",
        "\n**a",
        "\n- ",
        "\nA",
        "\nA ",
        "<a>\n",
        "> ",
        "\n1",
        "[{",
        "\n/",
        "a | ",
        '"',
    ]
    units += [
        "(",
        "=",
        "\nA:",
        " / ",
        '{"',
        "\n```\n",
        "You are ",
        "__",
        "\nA a",
        "ED",
        "\n\n",
        "\n  ",
        "中",
        "\n< ",
        "\r",
        "# \t",
        "<ab>",
        "<ab>x</ab>",
        "tools",
        "Never ",
        "You are Ann, ",
        "The assistant is ",
        "\n[A",
        "\n\nAa\n---",
        '"}:',
    ]
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_CPU, (100, 100))\n"
        "from curriculum.config import Clean; from curriculum.text.rules import RULES, Text\n"
        "for unit in eval(sys.argv[1]):\n"
        "    text = unit * (100_000 // len(unit))\n"
        "    for document in (Text(text), Text('> x\\n' + text), Text('', text)):\n"
        "        for rule in RULES.values():\n"
        "            rule(document, Clean())\n"
    )
    assert subprocess.run([sys.executable, "-c", script, repr(units)], check=False).returncode == 0
