"""What a launch would go on from with a state, and the refusal of one that it would not use; light to import."""

from curriculum.errors import Exit, FirehoseError
from state.envelope import Envelope
from state.run_dir import RunDir
from state.settle import Settled, settle


def would(run: RunDir, after: Envelope, found: Envelope | None) -> Settled:
    """What a launch settles on with this state. found: the one in the newest complete checkpoint.

    Raises FirehoseError(REFUSED) where a launch would refuse the state, or not use it.
    """
    try:
        return settle(after, found, run=run.name)
    except FirehoseError as error:
        if found is not None and after.lineage == found.lineage and after.step < found.step:
            raise _behind(run, after, found) from None
        message = f"a launch would refuse the state as it would be: {error.message}"
        next = f"firehose state history {run.called()}"
        raise FirehoseError(Exit.REFUSED, message, path=run.state, next=next) from None


def told(settled: Settled, after: Envelope) -> str:
    """The same in a sentence."""
    if settled.source == "state":
        return f"a launch goes on from it, at step {after.step:,}"
    if settled.source == "fresh":
        return "there is no checkpoint yet: a launch begins again at step 0"
    again = "and makes the edits since again on its copy of the state"
    return f"a launch goes on at step {settled.step:,}, where the newest weights are, {again}"


def other_lineage(run: RunDir, found: Envelope, current: Envelope) -> FirehoseError:
    """The refusal of a version from before a pivot."""
    return FirehoseError(
        Exit.REFUSED,
        f"serial {found.serial} is of lineage {found.lineage}, from before a pivot; the run is in {current.lineage}",
        path=run.state,
        next=f"firehose polish rollback {run.called()}; or add --force",
    )


def _behind(run: RunDir, after: Envelope, found: Envelope) -> FirehoseError:
    """The refusal of a state that is older than the weights."""
    folder = run.checkpoints / f"step_{after.step}"
    other = f"firehose run {run.config} --from {folder} --name OTHER goes on from step {after.step:,}"
    return FirehoseError(
        Exit.REFUSED,
        f"weights exist only at checkpoints, the newest of step {found.step:,}: a launch would go on from there "
        f"and not use a state of step {after.step:,}",
        path=run.state,
        next=other
        if folder.is_dir()
        else f"firehose state diff {after.step} checkpoint --run {run.called()}",
    )
