"""I12: a model was tested without its chat template, and two days of redesign followed (001)."""

from pathlib import Path
from typing import Any

import pytest

from curriculum import config as configs
from curriculum.sources import open_corpus
from curriculum.text import tokenizer as tokenizers
from curriculum.text.build import build, plan_for
from curriculum.text.tokenizer import Tokenizer
from state.rows import read_rows
from tests.fixtures.runs import go, the_run
from tests.incidents.switch import caught, incident
from trainer import sampling
from trainer.doctor import harness
from trainer.doctor.checks import Check


def no_look_at_the_bytes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(harness, "template", lambda *given: Check("template", True, "", ""))


def asked_raw(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Tokenizer, "prompt", lambda self, text: self.encode(text))


def look(config: Path) -> Check:
    read = configs.load(config)
    corpus = open_corpus(read)
    return harness.template(read, corpus, tokenizers.load(corpus.tokenizer))


@incident(off=no_look_at_the_bytes)
def test_prompts_without_the_template_are_found(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    asked_raw(monkeypatch)
    found = look(config)
    caught(not found.ok, "prompts go in raw")
    assert "b'The" in found.value or "b'" in found.value, "the very bytes are shown"
    return "`doctor`, before step 1"


@incident(off=no_look_at_the_bytes)
def test_data_that_speaks_another_form_is_found(config: Path) -> str:
    for file in (config.parent / "text").glob("*.jsonl"):
        file.write_text(file.read_text().replace("> tell", "Human: tell").replace("\\n< ", "\\nAssistant: "))
    build(plan_for(configs.load(config)))
    found = look(config)
    caught(not found.ok, "samples are asked for in a form that is never trained on")
    assert "another mark" in found.message
    return "`doctor`, before step 1"


@incident(off=asked_raw)
def test_samples_of_a_run_are_asked_for_in_the_template(config: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every prompt that reaches the model, byte for byte."""
    config.write_text(config.read_text().replace("[gate]", '[gate]\nprompts = ["the rain", "old songs"]'))
    fed: list[list[int]] = []
    whole = sampling.Writing.begin

    def begin(self: Any, prompt: list[int], *rest: Any, **named: Any) -> None:
        fed.append(prompt)
        whole(self, prompt, *rest, **named)

    monkeypatch.setattr(sampling.Writing, "begin", begin)
    go(config, until=20)
    run = the_run(config)
    asked = [row["prompt"] for row in read_rows(run.samples)]
    tokenizer = tokenizers.load(run.root / "tokenizer" / tokenizers.NAME)
    assert len(fed) == len(asked) == 2
    caught(
        [tokenizer.decode(ids) for ids in fed] == [tokenizer.template.fill(prompt) for prompt in asked],
        f"fed {tokenizer.decode(fed[0])!r}",
    )
    return "every sample of a run is asked for in its template"
