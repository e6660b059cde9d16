"""I07: agents' system prompts stood where users' words should be, and the model learned to speak in sections (002 A)."""

import json
from pathlib import Path

import pytest

from curriculum import config as configs
from curriculum.text import rules
from curriculum.text.build import build, plan_for
from tests.incidents.switch import caught, incident

LONG = (
    "Keep the ledger of the house, answer its letters in the order in which they came, and put a copy of each answer "
    "into the box by the door. Money that comes in is counted twice; what goes out is signed for by whoever takes it. "
    "Visitors are led to the garden, never upstairs. Where two notes disagree the later one holds, unless the earlier "
    "was written by the owner. When you do not know, ask once, then wait until noon. At night the lamps are put out "
    "from the attic down, and the last to leave locks the gate behind him and hangs the key beside the clock."
)
ROLE = "You are a careful agent. You must answer in short words. You never guess. "
PROMPTS = {
    "three headers": "# Agent Nine\n\n## Identity\nA clerk.\n\n## Rules\nShort words only.",
    "two headers, 500 characters": f"# Duties\n{LONG}\n# Tone\nDry.",
    "a fingerprint and a header": "# Agent Smith\nRead it. Become it.",
    "a fingerprint, 400 characters": f"Your shard keeps the books. {LONG}",
    "sections in capitals": "IDENTITY\nA clerk of the house.\n\nRULES\nShort words.\n\nTONE\nDry and plain.",
    "sections in bold": "**Identity**\nA clerk of the house.\n\n**Rules**\nShort words.\n\n**Tone**\nDry.",
    "sections in tags": "<identity>\nA clerk.\n</identity>\n<rules>\nShort.\n</rules>\n<tone>\nDry.\n</tone>",
    "a tool schema": '[{"name": "grep", "description": "Search the files of the house for a word.", "parameters": {"type": "object"}}]',
    "a long role": ROLE + LONG,
}


def no_shape_filter(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(rules.RULES, "prompt shape", lambda document, limits: False)


@incident(off=no_shape_filter)
def test_no_system_prompt_is_built_into_a_source(config: Path) -> str:
    file = config.parent / "text/gamma.jsonl"
    honest = file.read_text()
    leaked = [json.dumps({"text": f"> {prompt} / < Understood."}) for prompt in PROMPTS.values()]
    file.write_text(honest + "\n".join(leaked) + "\n")
    entry = build(plan_for(configs.load(config))).sources["gamma"]
    assert entry.documents_in == len(honest.splitlines()) + len(PROMPTS)
    dropped = entry.dropped["prompt shape"]
    caught(dropped == len(PROMPTS), f"{dropped} of {len(PROMPTS)} dropped")
    assert entry.documents_out == len(honest.splitlines()), "and nothing else is"
    return f"at `data build`: {dropped} of {len(PROMPTS)} shapes of them"
