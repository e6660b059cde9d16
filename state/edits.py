"""Operators' edits of a state: plain data, made by one function, by a command and again by a resume.

`payload["edits"]` lists them in order, each `{"serial", "what", "op", "args"}`: the serial it was committed as, a
sentence, and one of

    rm       {"arm"}                      put aside for good, or until it is restored by command
    mv       {"old", "new", "force"}      renamed, its id and all it learned kept
    restore  {"arm", "force"}             brought back from what was put aside
             {"serial"} or {"pushed"}     the payload was replaced as a whole: nothing to make again
    set      {"changes", "step"}          values by path, as an accepted edit by hand leaves them; a change without
                                          `value` removes what stands at its path

A resume that must go back to a checkpoint's copy makes those that came later again (`state.settle`). Those that
changed what is shared among which arms also stand in `payload["edited"]` until a launch has taken them up: it cancels
what was issued and not trained, shares anew, and writes them to the history (`state.reconcile`).
"""

import copy
from collections.abc import Iterable
from typing import Any

from curriculum.config_rules import NAME
from curriculum.errors import Exit, FirehoseError
from state.operate.diff import ABSENT, plain
from state.reconcile import EDITED, lay_aside, prune, restore, take_up, untrained

# Values that belong to the step they were changed at: to set them in an older copy would mix two stories.
OF_THEIR_STEP = ("loop", "files", "gate", "checkpoint")


def edit(op: str, serial: int, args: dict[str, Any]) -> dict[str, Any]:
    """One edit as the payload keeps it.

    >>> edit("mv", 13, {"old": "web", "new": "crawl"})["what"]
    'mv web crawl'
    """
    return {"serial": serial, "what": describe(op, args), "op": op, "args": args}


def describe(op: str, args: dict[str, Any]) -> str:
    """What an edit does, in a few words."""
    if op == "set":
        paths = [".".join(map(str, change["path"])) for change in args["changes"]]
        return f"set {', '.join(paths[:3])}" + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
    if "pushed" in args:
        return f"push serial {args['pushed']}"
    if "serial" in args:
        return f"restore serial {args['serial']}"
    return " ".join([op, *(args[key] for key in ("arm", "old", "new") if key in args)])


def apply(payload: dict[str, Any], made: dict[str, Any], step: int) -> list[str]:
    """Make an edit, in place, and note it in `edits`; returns what it did, a sentence each.

    step: of the payload; tickets of later steps are not trained yet. Raises FirehoseError, NOT_FOUND with the nearest
    name and REFUSED, with the payload in no state to be used.
    """
    args = made["args"]
    try:
        before = _ids(payload)
        done = {"rm": _rm, "mv": _mv, "restore": _restore, "set": _set}[made["op"]](payload, args, step)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise _refused(f"nothing at {error} in this state", None) from None
    payload.setdefault("edits", []).append(made)
    by_hand = made["op"] == "set" and any(change["path"][0] == "bandit" for change in args["changes"])
    if by_hand or _ids(payload) != before:
        payload.setdefault(EDITED, []).append(made)
    return done


def live(payload: dict[str, Any]) -> dict[str, Any]:
    """The records of the arms in the bandit, by name."""
    arms: dict[str, Any] = payload["bandit"]["arms"]
    return arms


def _ids(payload: dict[str, Any]) -> set[int]:
    return {record["id"] for record in live(payload).values()}


def not_found(name: str, known: Iterable[str], what: str = "arm") -> FirehoseError:
    """The error for a name that is not there, with the nearest one that is."""
    import difflib  # costs a few milliseconds that only this error should pay

    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names[:8]) or 'none'}"
    return FirehoseError(
        Exit.NOT_FOUND,
        f"there is no {what} {name!r} in the state{hint}",
        arm=name,
        next="firehose state list",
    )


def _refused(message: str, arm: str | None, next: str | None = None) -> FirehoseError:
    return FirehoseError(Exit.REFUSED, message, arm=arm, next=next)


def _rm(payload: dict[str, Any], args: dict[str, Any], step: int) -> list[str]:
    name, pruned = args["arm"], payload.setdefault("pruned", {})
    if name in live(payload):
        record = live(payload)[name]
        served, waiting = record["cursor"], len(untrained(payload, record["id"], step))
        trained = sum(ticket["arm"] == record["id"] for ticket in payload["bandit"]["tickets"]) - waiting
        entry = prune(payload, name, "removed by command", step, removed=True)
        done = [f"{name}: put aside with its record; nothing of it is left in any total"]
        if waiting:
            done.append(
                f"{name}: {waiting} pulls on the way are cancelled, windows served {served:,} -> "
                f"{entry['record']['cursor']:,}"
            )
        if trained:
            done.append(f"{name}: the rewards of {trained} pulls not credited yet are dropped")
        return done
    if name not in pruned:
        raise not_found(name, {*live(payload), *pruned})
    if pruned[name].get("removed"):
        next = f"firehose state restore {name} brings it back"
        raise _refused(f"{name!r} is removed already, at step {pruned[name]['step']}", name, next)
    pruned[name] = {**pruned[name], "removed": True}
    return [f"{name}: was put aside already; it stays aside until it is restored by command"]


def _mv(payload: dict[str, Any], args: dict[str, Any], step: int) -> list[str]:
    old, new, arms = args["old"], args["new"], live(payload)
    pruned, data = payload.setdefault("pruned", {}), payload.setdefault("data", {})
    if old not in arms and old not in pruned:
        raise not_found(old, {*arms, *pruned})
    if not NAME.fullmatch(new) or new.endswith(".heldout") or new == old:
        why = (
            "it is the old one" if new == old else "letters, digits, . _ - only, and not .heldout at the end"
        )
        raise _refused(f"{new!r} cannot be the new name: {why}", old, f"firehose state mv {old} NEW")
    done = _make_room(payload, args, step) if new in arms else []
    if old in arms:
        arms[new] = arms.pop(old)
        if old in data:
            data[new] = data.pop(old)
        return [*done, f"{old} -> {new}: id {arms[new]['id']} and all it learned kept"]
    entry = take_up(payload, old)
    lay_aside(payload, new, entry)
    if done:  # the new name is that of a source in the run: its record is the one taken up
        restore(payload, new)
        return [*done, f"{old} -> {new}: back from what was put aside, id and all it learned kept"]
    how = "by command" if entry.get("removed") else f"when {new} can be pulled"
    return [f"{old} -> {new}: still put aside; it comes back {how}"]


def _make_room(payload: dict[str, Any], args: dict[str, Any], step: int) -> list[str]:
    """Put an arm aside that was never pulled and has the name that another is to take."""
    old, new = args["old"], args["new"]
    record = live(payload)[new]
    pulls = record["pulls"] - len(untrained(payload, record["id"], step))
    if pulls:
        next = f"firehose state rm {new} puts it aside first"
        raise _refused(f"there is an arm {new!r} already, with {pulls:,} pulls", new, next)
    if not args.get("force"):
        next = f"firehose state mv {old} {new} --force puts that record aside"
        raise _refused(f"there is an arm {new!r} already, without a pull", new, next)
    prune(payload, new, f"its name was given to {old}", step, removed=True)
    return [f"{new}: its record, without a pull, is put aside"]


def _restore(payload: dict[str, Any], args: dict[str, Any], step: int) -> list[str]:
    if "arm" not in args:
        return [describe("restore", args)]
    name, pruned = args["arm"], payload.setdefault("pruned", {})
    if name not in pruned:
        if name in live(payload):
            raise _refused(
                f"{name!r} is in the bandit, and nothing of its name is put aside",
                name,
                "firehose state list",
            )
        raise not_found(name, pruned, "put-aside arm")
    done = []
    if name in live(payload):
        if not args.get("force"):
            pulls = live(payload)[name]["pulls"]
            raise _refused(
                f"there is an arm {name!r} in the bandit, with {pulls:,} pulls of its own",
                name,
                f"firehose state restore {name} --force puts that one aside instead",
            )
        entry = take_up(payload, name)
        prune(payload, name, "the one before it was restored", step, removed=True)
        done.append(f"{name}: the arm of that name in the bandit is put aside")
        lay_aside(payload, name, entry)
    entry = restore(payload, name)
    record = entry["record"]
    done.append(
        f"{name}: back with its record of step {entry['step']}: {record['pulls']:,} pulls, "
        f"{record['cursor']:,} windows served"
    )
    return done


def _set(payload: dict[str, Any], args: dict[str, Any], step: int) -> list[str]:
    done = []
    for change in args["changes"]:
        path = change["path"]
        if step != args["step"] and (path[0] in OF_THEIR_STEP or (path[0] == "bandit" and path[1] != "arms")):
            where = ".".join(map(str, path))
            raise _refused(f"{where} was set at step {args['step']} and means nothing at step {step}", None)
        *parents, last = path
        place: Any = payload
        for key in parents:
            place = place[key]
        old = place.get(last, ABSENT) if isinstance(place, dict) else ABSENT
        if "value" in change:
            place[last] = copy.deepcopy(change["value"])
        else:
            place.pop(last, None)
        done.append(f"{'.'.join(map(str, path))}: {plain(old)} -> {plain(change.get('value', ABSENT))}")
    return done
