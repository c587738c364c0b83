"""A report's JSON form, validated when it is read."""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np

from jaxinterp.report.content import Report

VERSION = 1


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON-able values; numbers that are not finite become None."""
    return {"version": VERSION, **_plain(report)}


def from_json(value: Any) -> Report:
    """Reads what `to_json` gave.

    Args:
        value: a parsed JSON object.

    Raises:
        ValueError: a field is missing or has the wrong type (the message names it), or the
            report is of another version.
    """
    if isinstance(value, Mapping) and value.get("version") != VERSION:
        raise ValueError(
            f"report version {value.get('version')!r} can't be read, only {VERSION}; write it again"
        )
    return _read(Report, value, "report")


def _plain(value: Any) -> Any:
    if isinstance(value, str | bool | int | None):
        return value
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    return [_plain(v) for v in value]


def _read(kind: Any, value: Any, where: str) -> Any:
    """Reads a value of an annotated type; `where` is its path in the report."""
    if dataclasses.is_dataclass(kind):
        _expect(isinstance(value, Mapping), where, "an object", value)
        return _read_fields(kind, value, where)
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        number = float in args
        if value is None and number:
            return math.nan  # as `to_json` writes it
        right = isinstance(value, int | float if number else int) and not isinstance(value, bool)
        _expect(right, where, "a number" if number else "a whole number", value)
        return value
    if origin is tuple:
        _expect(isinstance(value, list | tuple), where, "a list", value)
        if args[-1] is Ellipsis:
            args = (args[0],) * len(value)
        _expect(len(value) == len(args), where, f"a list of {len(args)}", value)
        parts = enumerate(zip(args, value, strict=True))
        return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in parts)
    if origin is dict:
        _expect(isinstance(value, Mapping), where, "an object", value)
        return {k: _read(args[1], v, f"{where}.{k}") for k, v in value.items()}
    _expect(isinstance(value, kind), where, {str: "text", bool: "true or false"}[kind], value)
    return value


def _read_fields(kind: Any, value: Mapping, where: str) -> Any:
    hints, read = get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        optional = (field.default, field.default_factory) != (dataclasses.MISSING,) * 2
        if field.name in value:
            read[field.name] = _read(hints[field.name], value[field.name], f"{where}.{field.name}")
        elif not optional:
            raise ValueError(f"{where}.{field.name} is missing; add it or write the report again")
    try:
        return kind(**read)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _expect(right: bool, where: str, wanted: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{where} should be {wanted}, got {repr(value)[:80]}")
