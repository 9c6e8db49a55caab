"""YAML files and key=value overrides -> frozen dataclasses; every error names file, key, value and the nearest valid key."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from spanvla_ros.contracts import ConfigError

T = TypeVar("T")


def load(cls: type[T], path: str | Path | None, overrides: Sequence[str] = ()) -> T:
    """An instance of the dataclass `cls` from a YAML mapping (None: defaults only) with `a.b=value` overrides on top.

    Values are checked against the field types: int, float, bool, str, Path, Optional, tuples, nested dataclasses.
    Override values are read as YAML, so `taps=[1,3]` and `name=null` work. Raises ConfigError.
    """
    where = "defaults" if path is None else str(path)
    data = read(path) if path is not None else {}
    for override in overrides:
        key, sign, text = override.partition("=")
        if not sign or not key:
            raise ConfigError(f"override {override!r} is not of the form key=value")
        _set(cls, data, key, _parse(text, f"override {override!r}"), f"override {override}")
        where = where if where.endswith("+ overrides") else f"{where} + overrides"
    return build(cls, data, where)


def read(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read ({getattr(error, 'strerror', None) or error})") from None
    data = _parse(text, str(path))
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: must hold a mapping of keys, holds a {type(data).__name__}")
    return data


def build(cls: type[T], data: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """An instance of the dataclass `cls` from plain YAML values; `where` and `prefix` only name the place in errors."""
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    for key in data:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {prefix}{key}{_nearest(str(key), fields)}")
    missing = [
        name for name, f in fields.items() if name not in data and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: key {prefix}{missing[0]} is missing")
    values = {key: _convert(hints[key], value, where, f"{prefix}{key}") for key, value in data.items()}
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def to_dict(instance: Any) -> dict[str, Any]:
    """Plain YAML values of a config, the inverse of `build`."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(instance))


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    # besides its own errors, yaml lets through those of dates and numbers that don't exist
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{where}: not valid YAML ({' '.join(str(error).split())})") from None


def _nearest(key: str, names: Any) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known keys are {', '.join(sorted(names))}"


def _set(cls: type, data: dict[str, Any], key: str, value: Any, where: str) -> None:
    head, dot, rest = key.partition(".")
    names = {f.name for f in dataclasses.fields(cls) if f.init}
    if head not in names:
        raise ConfigError(f"{where}: unknown key {head}{_nearest(head, names)}")
    if not dot:
        data[head] = value
        return
    inner = _inner(typing.get_type_hints(cls)[head])
    if not dataclasses.is_dataclass(inner):
        raise ConfigError(f"{where}: {head} has no keys below it")
    if not isinstance(data.setdefault(head, {}), dict):
        data[head] = {}
    _set(inner, data[head], rest, value, where)


def _inner(hint: Any) -> Any:
    """X of Optional[X], else the hint itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return options[0] if len(options) == 1 else hint
    return hint


def _convert(hint: Any, value: Any, where: str, key: str) -> Any:
    inner = _inner(hint)
    if value is None:
        if inner is not hint or hint in (Any, type(None)):
            return None
        raise ConfigError(f"{where}: {key} must be {_name(hint)}, is empty")
    if inner is Any:
        return value
    if dataclasses.is_dataclass(inner):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} must be a mapping of keys, is {value!r}")
        return build(inner, value, where, f"{key}.")
    origin = typing.get_origin(inner)
    if origin in (tuple, list):
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}: {key} must be a list, is {value!r}")
        args = typing.get_args(inner)
        many = origin is list or len(args) == 2 and args[1] is Ellipsis
        if not many and len(args) != len(value):
            raise ConfigError(f"{where}: {key} must have {len(args)} values, has {len(value)}: {value!r}")
        hints = [args[0]] * len(value) if many else args
        return origin(_convert(h, v, where, f"{key}[{i}]") for i, (h, v) in enumerate(zip(hints, value)))
    if origin in (dict, Mapping) or inner is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where}: {key} must be a mapping, is {value!r}")
        args = typing.get_args(inner)
        return {k: _convert(args[1], v, where, f"{key}.{k}") if args else v for k, v in value.items()}
    if origin is typing.Literal:
        if value not in typing.get_args(inner):
            raise ConfigError(f"{where}: {key} must be one of {', '.join(map(str, typing.get_args(inner)))}, is {value!r}")
        return value
    if inner is Path and isinstance(value, str):
        return Path(value).expanduser()
    # YAML 1.1 reads 1e-3 (no dot) as text
    if inner is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)
        except (ValueError, OverflowError):
            pass
    if isinstance(inner, type) and isinstance(value, inner) and not (inner is int and isinstance(value, bool)):
        return value
    raise ConfigError(f"{where}: {key} must be {_name(inner)}, is {value!r}")


def _name(hint: Any) -> str:
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}.get(hint, str(hint))
