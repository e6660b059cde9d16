"""Documents in tables: Parquet files (the extra `parquet`) and datasets of Hugging Face (the extra `datasets`)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from curriculum.errors import Exit, FirehoseError
from curriculum.extras import load

PARQUET = frozenset({".parquet"})
HUB = "hf:"  # and then NAME, NAME:SPLIT or NAME:SPLIT:CONFIG, as `datasets.load_dataset` takes them
_SAVED = ("state.json", "dataset_dict.json")  # what `save_to_disk` leaves in a folder
_COLUMNS = ("messages", "text")  # the first of them that a table has is read
_AT_A_TIME = 256  # rows


class Row(NamedTuple):
    """A row as a line of JSONL with the column that is read; its number, from 1; bytes of text, for progress."""

    line: bytes
    number: int
    size: int


def is_named(path: Path) -> bool:
    """Whether a path is no path but the name of a dataset, `hf:NAME`."""
    return str(path).startswith(HUB)


def is_dataset(path: Path) -> bool:
    """Whether a path means a dataset: one that was saved in a folder, or `hf:NAME`."""
    return is_named(path) or any((path / name).is_file() for name in _SAVED)


def is_table(path: Path) -> bool:
    """Whether a path is read from here."""
    return path.suffix.lower() in PARQUET or is_dataset(path)


def size_of(path: Path) -> int:
    """Bytes of text in a table, before compression, as its own records have it; 0 where they have nothing."""
    if path.suffix.lower() in PARQUET:
        return _uncompressed(_parquet(path))
    if is_named(path):
        return sum(each.info.splits[each.split].num_bytes or 0 for each in _hub(path) if each.info.splits)
    return sum(file.stat().st_size for file in path.rglob("*.arrow"))


def rows(source: str, path: Path) -> Iterator[Row]:
    """The rows of a table in order, a bounded number in memory.

    Raises FirehoseError: REFUSED for a table without the column `text` or `messages`, or where a library is missing;
    DAMAGED for a file that cannot be read.
    """
    if path.suffix.lower() in PARQUET:
        yield from _from_parquet(source, path)
    else:
        yield from _from_dataset(source, path)


def _from_parquet(source: str, path: Path) -> Iterator[Row]:
    library = _arrow(path)
    file = _parquet(path)
    column = _column(source, path, file.schema_arrow.names)
    number = 0
    try:
        for batch in file.iter_batches(_AT_A_TIME, columns=[column]):
            for value in batch.column(0).to_pylist():
                number += 1
                yield _row(column, value, number)
    except (library.lib.ArrowException, OSError) as error:
        raise _damaged(source, path, f"it cannot be read past row {number:,}: {error}") from error


def _from_dataset(source: str, path: Path) -> Iterator[Row]:
    number = 0
    for part in _hub(path) if is_named(path) else _saved(path):
        column = _column(source, path, part.column_names or ())
        batches = part.select_columns([column]).iter(_AT_A_TIME)
        while True:
            try:
                batch = next(batches, None)
            except OSError as error:  # a file, or a connection, that ends early
                raise _damaged(source, path, f"it cannot be read past row {number:,}: {error}") from error
            if batch is None:
                break
            for value in batch[column]:
                number += 1
                yield _row(column, value, number)


def _row(column: str, value: Any, number: int) -> Row:
    empty: Any = "" if column == "text" else []
    line = msgspec.json.encode({column: empty if value is None else value})
    return Row(line, number, len(line))


def _column(source: str, path: Path, names: Any) -> str:
    for column in _COLUMNS:
        if column in names:
            return column
    raise FirehoseError(
        Exit.REFUSED,
        f"source {source} cannot be read: the table has no column `text` or `messages` ({', '.join(names)})",
        path=path,
        arm=source,
        next="rename the column that holds the text, then run the same command again",
    )


def _arrow(path: Path) -> Any:
    return load("pyarrow", "parquet", "Parquet is read by pyarrow", path=path)


def _parquet(path: Path) -> Any:
    library = _arrow(path)
    try:
        parquet = load("pyarrow.parquet", "parquet", "Parquet is read by pyarrow", path=path)
        return parquet.ParquetFile(path, page_checksum_verification=True)
    except library.lib.ArrowException as error:
        raise _damaged(path.stem, path, str(error)) from error


def _uncompressed(file: Any) -> int:
    """Bytes, before compression, of the column of a Parquet file that is read."""
    wanted = next((name for name in _COLUMNS if name in file.schema_arrow.names), "")
    groups = (file.metadata.row_group(index) for index in range(file.metadata.num_row_groups))
    columns = (group.column(index) for group in groups for index in range(group.num_columns))
    return sum(
        each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] == wanted
    )


def _datasets(path: Path) -> Any:
    return load("datasets", "datasets", "this is read by the library datasets", path=path)


def _saved(path: Path) -> list[Any]:
    """The parts of what `save_to_disk` wrote: the one dataset, or the splits of several."""
    found = _datasets(path).load_from_disk(str(path))
    return list(found.values()) if isinstance(found, dict) else [found]


def _hub(path: Path) -> list[Any]:
    """A dataset by name, streamed, so that nothing of it is kept: one split, or all."""
    name, _, rest = str(path).removeprefix(HUB).partition(":")
    split, _, config = rest.partition(":")
    try:
        found = _datasets(path).load_dataset(name, config or None, split=split or None, streaming=True)
    except (OSError, ValueError) as error:  # the library's own errors are of these kinds
        raise FirehoseError(
            Exit.NOT_FOUND,
            f"the dataset {name} cannot be loaded: {error}",
            path=path,
            next="check the name, its split and configuration, and that the machine has a connection",
        ) from error
    return list(found.values()) if isinstance(found, dict) else [found]


def _damaged(source: str, path: Path, what: str) -> FirehoseError:
    return FirehoseError(
        Exit.DAMAGED,
        f"{path.name} is damaged: {what}",
        path=path,
        arm=source,
        next="fetch the file again, then run the same command again",
    )
