"""`firehose explain`: the picks of one step as a table and sentences, or how many picks of a run a replay finds."""

import textwrap
from dataclasses import asdict
from typing import Any

from bandit.explain import why_picked, why_weighed
from curriculum.eligibility import why_not
from curriculum.errors import Exit, FirehoseError
from state import replay
from state import verify as verifier
from state.replay import NotFound, Replay
from state.status import number, short, table
from state.story import Story

WIDTH = 80
ARM_KEYS = (
    *("name", "awake", "why_not", "pulls", "mean", "by_variance", "by_range", "index", "rank", "epochs"),
    *("raw", "repeated", "floor", "cap", "weight", "share", "credit"),
    *("worn", "served", "share_low", "share_high", "urgent", "shut"),
)
ARGMAX_LEGEND = (
    "index = mean + var + range; with worn, what repetition adds, the largest under its cap is served unless a "
    "floor is due; "
    "low, high: bounds of the share; share: of the pulls since the last restart"
)
LEGEND = (
    "index = mean + var + range; raw: the policy's weight for it; repeat: times the terms of repetition; "
    "weight: inside floor and cap; credit: pulls owed at pull 1, the largest is served and pays 1"
)


def explain(story: Story, step: int | None) -> dict[str, Any]:
    """The body of `explain --json`: why each pull of a step, the last one by default, went where it did.

    Raises FirehoseError: USAGE for a step outside the files, FINDINGS where a pick is not the one in the files.
    """
    if story.last == story.began:
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"the run {story.run.name!r} has no committed step yet",
            path=story.run.state,
            next=f"firehose status {story.run.name}",
        )
    try:
        found = replay.explain_step(story, story.last if step is None else step)
    except NotFound as problem:
        raise not_found(story, problem) from None
    reason = found.explained[0].reason
    asleep = why_asleep(found, reason.step)
    arms = [{**asdict(arm), "why_not": asleep.pop(arm.name, None)} for arm in reason.arms]
    arms = [{key: arm[key] for key in ARM_KEYS} for arm in arms]
    arms += [
        {**dict.fromkeys(ARM_KEYS), "name": name, "awake": False, "why_not": why}
        for name, why in asleep.items()
    ]
    order = {name: place for place, name in enumerate(story.config.sources)}
    arms.sort(key=lambda arm: (not arm["awake"], order.get(arm["name"], len(order))))
    pulls = [
        {
            "pull": pick.ticket.micro + 1,
            "arm": pick.reason.arm(pick.ticket.arm).name,
            "loss": pick.loss,
            "why": why_picked(pick.reason, pick.ticket),
            "credits": {
                arm.name: arm.credit for arm in pick.reason.arms if arm.credit is not None and arm.awake
            },
        }
        for pick in found.explained
    ]
    picked = dict.fromkeys(pick.ticket.arm for pick in found.explained)
    return {
        "run": story.run.name,
        "step": reason.step,
        "first_step": story.began + 1,
        "last_step": story.last,
        "policy": reason.policy,
        "refreshed": reason.refreshed,
        "until": reason.until,
        "replayed_after": found.began,
        "arms": arms,
        "pulls": pulls,
        "weights": [why_weighed(reason, identity) for identity in picked],
    }


def why_asleep(found: Replay, step: int) -> dict[str, str]:
    """Name to reason of every source that could not be picked at a step, put aside or asleep."""
    reasons = dict(found.aside)
    awake = {arm.name for arm in found.explained[0].reason.arms if arm.awake}
    for name in found.config.sources:
        if name not in awake and name not in reasons:
            why = why_not(found.config, name, step)
            reasons[name] = why or "not in the run yet: it joined later"
    return reasons


def not_found(story: Story, problem: NotFound) -> FirehoseError:
    """The error for a pick that the replay does not make."""
    where = f"step {problem.step}" + (f", pull {problem.pull}" if problem.pull else "")
    return FirehoseError(
        Exit.FINDINGS,
        f"{where} is not found by the replay: {problem.what}",
        path=story.run.pulls,
        next=f"firehose explain {story.run.name} --verify replays all of it; if the files are whole, the program "
        "that trained the run was another version",
    )


def screen(body: dict[str, Any]) -> list[str]:
    """`explain` as lines of at most 80 columns."""
    argmax = any(arm["share_low"] is not None for arm in body["arms"])
    if argmax:
        drawn = "the index of the moment"
    elif body["refreshed"] is None:
        drawn = "weights drawn before the checkpoint it is replayed from"
    else:
        drawn = f"weights drawn at step {body['refreshed']:,}, in force until {body['until']:,}"
    lines = [*_wrap(f"{short(body['run'], 30)}  step {body['step']:,}  {body['policy']}, {drawn}"), ""]
    header = ["source", "index", "mean", "+var", "+range"]
    header += ["+worn", "low", "share", "high"] if argmax else ["raw", "repeat", "weight", "share", "credit"]
    total = max(1, sum(arm["served"] or 0 for arm in body["arms"]))
    awake = [arm for arm in body["arms"] if arm["awake"]]
    numbers = [_numbers(arm, argmax, total) for arm in awake]
    room = WIDTH - sum(2 + max(map(len, column)) for column in zip(header[1:], *numbers, strict=True))
    rows = [[short(arm["name"], max(6, room)), *cells] for arm, cells in zip(awake, numbers, strict=True)]
    lines += table(header, rows)
    lines += ["", *textwrap.wrap(ARGMAX_LEGEND if argmax else LEGEND, WIDTH), ""]
    for pull in body["pulls"]:
        lines += _wrap(f"pull {pull['pull']}: {pull['why']}; loss {number(pull['loss'], '.3f')}")
    lines.append("")
    for why in body["weights"]:
        lines += _wrap(why)
    asleep = [f"{arm['name']} slept: {arm['why_not']}" for arm in body["arms"] if not arm["awake"]]
    for why in asleep:
        lines += _wrap(why)
    return lines


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def _numbers(arm: dict[str, Any], argmax: bool, total: int) -> list[str]:
    known = arm["mean"] is not None
    row = [
        "first" if known and arm["index"] is None else number(arm["index"], ".3f"),
        number(arm["mean"], ".3f"),
        number(arm["by_variance"], ".3f"),
        number(arm["by_range"], ".3f"),
    ]
    if argmax:
        shares = (arm["share_low"], arm["served"] / total, arm["share_high"])
        return [*row, number((arm["worn"] or 0.0) + 0.0, ".3f"), *(number(share, ".1%") for share in shares)]
    return [
        *row,
        number(arm["raw"], ".2g"),
        number(arm["repeated"], ".3g"),
        number(arm["weight"], ".3g"),
        number(arm["share"], ".1%"),
        number(arm["credit"], "+.3f"),
    ]


def verify(story: Story) -> dict[str, Any]:
    """The body of `explain --verify --json`: how many picks of how many a replay of everything finds."""
    found = verifier.verify(story)
    return {
        "run": story.run.name,
        "first_step": story.began + 1,
        "last_step": story.last,
        "picks": found.picks,
        "found": found.found,
        "missing": [{"step": m.step, "pull": m.pull, "what": m.what} for m in found.missing],
    }


def verified(body: dict[str, Any]) -> list[str]:
    """`verify` for a person."""
    lines = [
        f"{short(body['run'], 24)}: {body['found']:,} of {body['picks']:,} picks found, "
        f"steps {body['first_step']:,} to {body['last_step']:,}"
    ]
    for problem in body["missing"]:
        where = f"step {problem['step']:,}" + (f", pull {problem['pull']}" if problem["pull"] else "")
        lines += _wrap(f"{where}: {problem['what']}")
    return lines
