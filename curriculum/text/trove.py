"""The cleaning rules as a filter for datatrove (the extra `datatrove`), whose executors run it on Slurm or Ray.

    from datatrove.executor import SlurmPipelineExecutor
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter
    from curriculum.text.trove import RuleFilter

    pipeline = [JsonlReader("s3://.../raw"), RuleFilter(), JsonlWriter("s3://.../clean")]

It holds the rules that look at one document. Copies across machines are a matter of datatrove's own deduplication
(`datatrove.pipeline.dedup`), which works in several passes over all shards.
"""

from typing import Any

from curriculum.config import Clean
from curriculum.extras import load
from curriculum.text.rules import Text, broken_rule

_filters = load("datatrove.pipeline.filters.base_filter", "datatrove", "this is a filter for datatrove")


class RuleFilter(_filters.BaseFilter):  # type: ignore[misc, name-defined]  # the library may be missing
    """Drops what any rule drops, and counts it by rule as datatrove does (`dropped_list`, `dropped_prompt shape`, ...).

    limits: of the rules. Metadata with `messages` (a list of `role` and `content`) tells the first user turn, as it does
    in JSONL; without, it is found in the text. exclusion_writer: of datatrove, for the documents that are dropped.
    """

    name = "firehose rules"

    def __init__(self, limits: Clean | None = None, exclusion_writer: Any = None) -> None:
        super().__init__(exclusion_writer)
        self.limits = Clean() if limits is None else limits

    def filter(self, doc: Any) -> bool | tuple[bool, str]:
        """Whether a document stays; with the rule's name where it does not."""
        rule = broken_rule(Text(doc.text, _turn(doc.metadata.get("messages"))), self.limits)
        return True if rule is None else (False, rule)


def _turn(messages: Any) -> str | None:
    if not isinstance(messages, list):
        return None
    return next((str(each["content"]) for each in messages if each.get("role") == "user"), "")
