"""An even sample of the text, of a bounded size, for the tokenizer to be trained on."""

from collections.abc import Iterable, Iterator

PIECE = 1 << 16  # bytes; of a longer document only its beginning is taken, as much as its turn has come to


class Sampler:
    """Take every k-th byte's worth of a stream of texts, in whole documents: k is total / budget.

    Each text adds its share of the budget to a credit; a text that the credit pays for is taken. So the sample is
    spread evenly over the stream, within each source and, by size, across them; it is never larger than the budget,
    and the same stream gives the same sample. `taken` counts its bytes of UTF-8.
    """

    def __init__(self, budget: int, total: int) -> None:
        """budget: bytes to take at most. total: bytes of all texts, or more (the size of their files).

        Where the texts turn out to be more than that, as in tables that do not tell their size (0), the sample ends early.
        """
        self.taken = 0
        self._total = max(1, total or budget)
        self._budget = min(budget, self._total)
        self._credit = 0  # in bytes times total, so that it is exact

    def take(self, texts: Iterable[str]) -> Iterator[str]:
        """The texts that are in the sample.

        >>> list(Sampler(budget=20, total=50).take(["one two..."] * 5))
        ['one two...', 'one two...']
        """
        for text in texts:
            data = text.encode()
            self._credit += self._budget * len(data)
            size = min(len(data), self._credit // self._total, self._budget - self.taken)
            if data and size >= min(len(data), PIECE):
                self._credit -= size * self._total
                self.taken += size
                yield text if size == len(data) else data[:size].decode(errors="ignore")
