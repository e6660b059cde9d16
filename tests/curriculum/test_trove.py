"""The filter for datatrove, on its local executor: the same verdicts as the pipeline's, counted by rule."""

import json
from pathlib import Path

import pytest

pytest.importorskip(
    "datatrove", reason="the extra `datatrove` is not installed: pip install 'firehose[datatrove]'"
)

from datatrove.data import Document
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep

from curriculum.config import Clean
from curriculum.text.rules import Text, broken_rule
from curriculum.text.trove import RuleFilter

TEXTS = [
    "> Is it raining?\n< It has been raining since noon, and it will go on until the wind turns.",
    "",
    "rain " * 40,
    "Что будет завтра, никто не знает.",
    "- a\n- b\n- c",
    "> # Agent Smith\n## Identity\n## Rules",
    "The wind turned at last, and the rain went over the hills to the next town.",
]


class Keep(PipelineStep):
    """Writes what comes through to a file of each task."""

    name = "keep"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def run(self, data, rank=0, world_size=1):
        with (self.folder / f"{rank}.jsonl").open("w") as file:
            for document in data:
                file.write(json.dumps(document.text) + "\n")
                yield document


def source(data, rank=0, world_size=1):
    for at, text in enumerate(TEXTS):
        if at % world_size == rank:
            yield Document(text=text, id=str(at))


def test_the_local_executor_keeps_what_the_pipeline_keeps(tmp_path: Path) -> None:
    executor = LocalPipelineExecutor(
        [source, RuleFilter(), Keep(tmp_path)], tasks=2, workers=1, logging_dir=str(tmp_path / "logs")
    )
    stats = executor.run()
    lines = [line for file in tmp_path.glob("[01].jsonl") for line in file.read_text().splitlines()]
    kept = set(map(json.loads, lines))
    assert kept == {text for text in TEXTS if broken_rule(Text(text), Clean()) is None}
    assert len(kept) == 2
    counts = next(each.stats for each in stats.stats if "firehose" in each.name)
    assert {
        name: counts[f"dropped_{name}"].total for name in ("empty", "list", "prompt shape", "repetition")
    } == {
        "empty": 1,
        "list": 1,
        "prompt shape": 1,
        "repetition": 1,
    }


def test_messages_in_the_metadata_tell_the_first_user_turn() -> None:
    text = "# One\n## Two\n### Three\n> Hi. / < Hello."
    prompt = [{"role": "user", "content": "# One\n## Two\n### Three"}]
    answer = [
        {"role": "assistant", "content": "# One\n## Two\n### Three"},
        {"role": "user", "content": "Hi."},
    ]
    for messages, expected in ((prompt, (False, "prompt shape")), (answer, True)):
        document = Document(text=text, id="0", metadata={"messages": messages})
        assert RuleFilter().filter(document) == expected


def test_limits_are_taken() -> None:
    assert RuleFilter(Clean(scripts=("Cyrillic",))).filter(Document(text=TEXTS[3], id="0")) is True
