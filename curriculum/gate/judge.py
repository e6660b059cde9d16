"""What a run's gate is told of a sample beside its score, what the sample log keeps of it, and the alarms of it all."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from curriculum.errors import Exit, FirehoseError
from curriculum.gate.audits import Audits
from curriculum.gate.reference import load
from curriculum.gate.rule import Gate, Verdict
from curriculum.gate.watch import Watch
from curriculum.tokens.corpus import Corpus

YOUNG = 32  # samples within which a model may speak word salad; twice the gate's window, step 3,200 at one in 100 steps
NOTHING: dict[str, Any] = {
    "local_coherence": None,
    "longest_copy": None,
    "top_token_share": None,
    "script_share": None,
}


class Judge:
    """A run's audits and losses, around its gate. names: arm id -> source. warmup: steps of the learning rate's ramp."""

    def __init__(
        self, gate: Gate, audits: Audits | None, names: Mapping[int, str], *, warmup: int = 0
    ) -> None:
        self.gate, self.audits, self.names, self.warmup = gate, audits, names, warmup
        self.watch = Watch()

    def audit(self, text: str, ids: Sequence[int], loss: float) -> dict[str, Any]:
        """Audit a sample: its text, its tokens, its own loss. `found` names the audits that found something."""
        audit = None if self.audits is None else self.audits.judge(text, ids)
        floor, low = self.watch.sample_loss(loss)
        found = [*(audit.found if audit else ()), *(["sample_loss"] if low else [])]
        body = {**(audit.as_dict() if audit else NOTHING), "loss_floor": floor, "found": found}
        self.watch.passed |= {name for name in NOTHING if body[name] is not None and name not in found}
        return body

    def spared(self, step: int) -> set[str]:
        """The audits that may not halt yet at a step: a young model speaks word salad.

        They are those that no sample has passed, up to the end of the learning rate's warm-up and for 32 samples at
        least. A run that is salad after that was never anything else, and is halted for it.
        """
        young = self.watch.drawn < YOUNG or step <= self.warmup
        return set(NOTHING) - self.watch.passed if young else set()

    def settle(self, verdict: Verdict) -> dict[str, Any]:
        """What the verdict on a sample means for the sources fed before it, as its row holds that."""
        return self.watch.verdict(low=verdict.kind != "pass").as_dict(self.names)

    def blame(self) -> dict[str, float]:
        """The sources to blame for the latest low samples, with their share of the pulls before those."""
        return {
            self.names[arm]: round(share, 4) for arm, share in self.watch.blame().items() if arm in self.names
        }

    def alarms(self) -> list[str]:
        """What a person should know now, in words."""
        return [*self.gate.alarms(), *self.watch.alarms(self.names)]

    def snapshot(self) -> dict[str, Any]:
        """What the state keeps beside the gate's own part."""
        return self.watch.snapshot()


def open_audits(corpus: Corpus, needed: Collection[str]) -> tuple[Audits | None, list[str]]:
    """The audits of a run's data, and what should be said of them.

    needed: those that may halt the run. Raises FirehoseError: DAMAGED, or REFUSED where a needed one cannot be done.
    """
    found = load(corpus.folder, corpus.manifest)
    if needed and (found is None or ("local_coherence" in needed and not found.coherence_works)):
        raise FirehoseError(
            Exit.REFUSED,
            f"gate.audit_halt names {', '.join(sorted(needed))}, and "
            + (
                "these token files were built without what audits compare with"
                if found is None
                else "local_coherence does not work on so little trusted text"
            ),
            path=corpus.folder,
            next="firehose data build CONFIG, or take it out of gate.audit_halt",
        )
    if found is None:
        return None, [
            "samples are scored but not audited: an earlier version built these token files; "
            "firehose data build CONFIG adds what audits compare with"
        ]
    notes = []
    if not found.coherence_works:
        tried = found.header["coherence"]
        notes.append(
            "the local-coherence audit gives its number and finds nothing: of this little trusted text "
            f"({found.header['bytes']:,} bytes) it takes {tried['text_found']:.0%} for word salad and knows "
            f"{tried['salad_found']:.0%} of the salad"
        )
    return Audits(found), notes
