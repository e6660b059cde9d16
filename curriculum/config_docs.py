"""The reference tables of docs/config.md, made from the structs, so that page and program cannot differ."""

from typing import Any

import msgspec
from msgspec import inspect

from curriculum.config import PRESETS, ConfigFile


def reference() -> str:
    """Markdown: one table a section with every key, its type and range, default and meaning; then the presets."""
    root = inspect.type_info(ConfigFile)
    assert isinstance(root, inspect.StructType)
    parts = [
        "## At the top of the file\n",
        _table([field for field in root.fields if _section(field) is None]),
    ]
    for field in root.fields:
        struct = _section(field)
        if struct is not None:
            title = "[sources.NAME]" if field.name == "sources" else f"[{field.name}]"
            parts += [f"## `{title}`\n", f"{(struct.cls.__doc__ or '').strip()}\n", _table(struct.fields)]
    parts += ["## Presets\n", _presets()]
    return "\n".join(parts)


def _section(field: inspect.Field) -> inspect.StructType | None:
    kind: inspect.Type = field.type
    if isinstance(kind, inspect.DictType):
        kind = kind.value_type
    return kind if isinstance(kind, inspect.StructType) else None


def _table(fields: Any) -> str:
    rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in fields:
        meta = _metadata(field)
        description = (meta.extra_json_schema or {})["description"]
        rows.append(
            f"| `{field.encode_name}` | {_kind(meta.type, meta)} | {_default(field, meta)} | {description} |"
        )
    return "\n".join(rows) + "\n"


def _metadata(field: inspect.Field) -> inspect.Metadata:
    assert isinstance(field.type, inspect.Metadata), f"{field.name} has no description"
    return field.type


def _default(field: inspect.Field, meta: inspect.Metadata) -> str:
    if meta.extra and "default" in meta.extra:
        return str(meta.extra["default"])
    if field.required:
        return "required"
    return f"`{msgspec.json.encode(field.default).decode()}`"


def _kind(kind: inspect.Type, meta: inspect.Metadata | None = None) -> str:
    """A type in the reader's words, with its range."""
    if isinstance(kind, inspect.Metadata):
        return _kind(kind.type)
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_kind(each) for each in kind.types if not isinstance(each, inspect.NoneType))
    if isinstance(kind, inspect.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return ("whole number" if isinstance(kind, inspect.IntType) else "number") + _range(kind, meta)
    if isinstance(kind, inspect.StructType):
        return "table"
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.StrType):
        return "string"
    if isinstance(kind, inspect.VarTupleType) and isinstance(kind.item_type, inspect.LiteralType):
        return f"list of some of {_kind(kind.item_type)}"
    if isinstance(kind, inspect.VarTupleType):
        return f"list of {_kind(kind.item_type)}s"
    assert isinstance(kind, inspect.TupleType), kind
    return "[" + ", ".join(_kind(each) for each in kind.item_types) + "]"


def _range(kind: inspect.IntType | inspect.FloatType, meta: inspect.Metadata | None) -> str:
    schema_only = (meta.extra_json_schema or {}).get("minimum") if meta else None
    limits = [
        (">= ", kind.ge if kind.ge is not None else schema_only),
        ("> ", kind.gt),
        ("<= ", kind.le),
        ("< ", kind.lt),
    ]
    told = [f"{sign}{limit:g}" for sign, limit in limits if limit is not None and abs(limit) < 2**31]
    return " " + ", ".join(told) if told else ""


def _presets() -> str:
    rows = ["| preset | width | heads | layers | block_size |", "|---|---|---|---|---|"]
    rows += [f"| `{name}` | {' | '.join(map(str, numbers))} |" for name, numbers in PRESETS.items()]
    return "\n".join(rows) + "\n"
