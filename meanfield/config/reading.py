"""From TOML or JSON text to a `RunConfig`; what is wrong with it in one message, a line for each faulty field."""

import json
import os
import re
import reprlib
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from .. import _checks
from ..errors import InputError
from .sections import RunConfig

MOST_BYTES = 10**6
_MOST_LINES = 50
# A key of k parts takes `tomllib` of the order of k^2 steps: minutes, for a file within the bound.
_MOST_PARTS = 16
_QUOTED = re.compile(r'"(?:[^"\\\n]|\\.)*+"?|\'[^\'\n]*+\'?')
_LONG_KEY = re.compile(rf"(?<![^\s.=\[\]{{}},#])(?:[^\s.=\[\]{{}},#]++[ \t]*+\.[ \t]*+){{{_MOST_PARTS}}}")
_BARE_WORD = re.compile(r"[^\s\"'\[\]{}=,#]+")


def load(path: str | os.PathLike[str]) -> RunConfig:
    """The run that a TOML file describes.

    Raises
    ------
    InputError
        If there is no such file, it is larger than a megabyte, is not UTF-8 or not TOML, or a field is wrong: the
        message has a line for each, with its dotted name, what was given and what is needed.
    """
    return parse(read(path), where=Path(os.fspath(path)).name)


def read(path: str | os.PathLike[str]) -> str:
    """The text of a TOML file. Raises InputError as `load` does of a file."""
    where = os.fspath(path)
    try:
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as problem:  # ValueError: a path with a zero byte
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise InputError(f"{where!r} cannot be read ({reason}); needed: the path of a TOML file.") from None
    name = Path(where).name
    if len(content) > MOST_BYTES:
        raise InputError(
            f"{name} has more than {MOST_BYTES:,} bytes; needed: the description of a run, which is short."
        )
    try:
        return content.decode()
    except UnicodeDecodeError as problem:
        raise InputError(f"{name} is no UTF-8 at byte {problem.start}; needed: a TOML file, which is UTF-8.") from None


def parse(text: str, where: str = "config") -> RunConfig:
    """The run that a TOML text describes; `where` begins the messages. Raises InputError as `load` does."""
    return _checked(_toml(text, where), where)


def override(text: str, assignments: Sequence[str], where: str = "config") -> RunConfig:
    """The run of a TOML text with fields set anew: "network.scaling.alpha=2", a dotted name and a value as in TOML.

    A value that is a single word may go without quotation marks. Entries of a list are named by their number from 0.
    Raises InputError as `load` does, and on an assignment that is none.
    """
    return _checked(_assigned(_toml(text, where), assignments), where)


def altered(config: RunConfig, assignments: Sequence[str], where: str = "config") -> RunConfig:
    """A run with fields set anew; assignments and errors as in `override`."""
    _checks.instance(config, RunConfig, "config", "a RunConfig, from config.load or config.parse")
    return _checked(_assigned(config.model_dump(mode="json"), assignments), where)


def _assigned(data, assignments) -> dict[str, Any]:
    for each in assignments:
        field, sign, value = str(each).partition("=")
        if not sign or not all(parts := field.strip().split(".")):
            raise InputError(f"{_show(each)} is no assignment; needed: FIELD=VALUE, such as network.scaling.alpha=2.")
        _set(data, parts, _value(value.strip(), field.strip()))
    return data


def from_json(text: str, where: str = "config") -> RunConfig:
    """The inverse of `to_json`. Raises InputError as `load` does, also on keys that repeat."""

    def once(pairs):
        found = dict(pairs)
        if len(found) < len(pairs):
            raise InputError(f"{where} repeats a key in a table of {_show(list(found))}; needed: each once.")
        return found

    _not_long(text, where)
    try:
        data = json.loads(text, object_pairs_hook=once)
    except InputError:
        raise
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{where} is no JSON ({_reason(problem)}); needed: what to_json writes.") from None
    return _checked(data, where)


def _not_long(text, where):
    _checks.instance(text, str, where, "text")
    if len(text) > MOST_BYTES:
        raise InputError(f"{where} has more than {MOST_BYTES:,} characters; needed: the description of a run.")


def _reason(problem):
    return "tables or lists too deep" if isinstance(problem, RecursionError) else problem


def _toml(text, where) -> dict[str, Any]:
    _not_long(text, where)
    if _LONG_KEY.search(_QUOTED.sub("q", text)):
        raise InputError(f"{where} has a key of more than {_MOST_PARTS} parts; needed: tables that are not so deep.")
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as problem:  # its own error says line and column; ValueError: a huge number
        raise InputError(f"{where} is no TOML: {_reason(problem)}; needed: a file as docs/config shows.") from None


def _value(text, field):
    try:
        found = _toml(f"value = {text}", field)
    except InputError:
        if _BARE_WORD.fullmatch(text):
            return text
        raise
    if set(found) != {"value"}:
        raise InputError(f"{field} is set to {_show(text)}; needed: one value as in TOML.")
    return found["value"]


def _set(data, parts, value):
    here, seen = data, []
    for part in parts[:-1]:
        seen.append(part)
        if isinstance(here, list):
            here = here[_index(here, part, seen)]
        elif isinstance(here, dict):
            here = here.setdefault(part, {})
        if not isinstance(here, dict | list):
            raise InputError(f"{'.'.join(seen)} is {_show(here)}, which has no field {_show(parts[-1])}; set it whole.")
    if isinstance(here, list):
        here[_index(here, parts[-1], parts)] = value
    else:
        here[parts[-1]] = value


def _index(entries, part, seen):
    if not (part.isdecimal() and part.isascii() and len(part) < 9 and int(part) < len(entries)):
        raise InputError(f"{'.'.join(seen)} names no entry of a list of {len(entries)}; needed: a number from 0.")
    return int(part)


def _checked(data, where) -> RunConfig:
    try:
        return RunConfig.model_validate(data)
    except ValidationError as found:
        faults = found.errors(include_url=False)
    lines = [f"{where}: {_complaint(each)}" for each in faults[:_MOST_LINES]]
    if len(faults) > _MOST_LINES:
        lines.append(f"{where}: and {len(faults) - _MOST_LINES} more.")
    raise InputError("\n".join(lines))


class _Short(reprlib.Repr):
    """Values in messages: short, whatever they are."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = 60

    def repr_int(self, x, level):  # whose digits Python refuses to write beyond some thousands
        return super().repr_int(x, level) if x.bit_length() < 200 else f"a whole number of {x.bit_length()} bits"


_show = _Short().repr

_KINDS = {
    "bool_type": "true or false",
    "dict_type": "a table",
    "finite_number": "a finite number",
    "float_type": "a number",
    "int_type": "a whole number",
    "model_attributes_type": "a table",
    "model_type": "a table",
    "string_type": "a text",
    "string_pattern_mismatch": "a text without zero bytes",
    "string_unicode": "a text",
}
_BOUNDS = {
    "greater_than": ("gt", "a number above {}"),
    "greater_than_equal": ("ge", "a number of at least {}"),
    "less_than": ("lt", "a number below {}"),
    "less_than_equal": ("le", "a number of at most {}"),
    "string_too_long": ("max_length", "a text of at most {} characters"),
    "string_too_short": ("min_length", "a text of at least {} character"),
    "too_long": ("max_length", "a list of at most {} entries"),
    "too_short": ("min_length", "a list of at least {} entries"),
}


def _complaint(fault) -> str:
    """What is wrong with a field, from pydantic's record of it."""
    kind, given, details = fault["type"], fault["input"], fault.get("ctx", {})
    place, holder, candidates = _place(fault["loc"], kind)
    if kind == "extra_forbidden" and holder is not None:
        return f"{place} is {_show(given)}, but there is no such field; needed: {_one_of(holder.model_fields, place)}."
    if kind == "missing" and holder is not None:
        return f"{place} is missing; needed: {holder.model_fields[fault['loc'][-1]].description}."
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        key = _key(candidates[0])
        given = given.get(key) if isinstance(given, dict) else None
        needed = _one_of(sorted(filter(None, map(_tag, candidates))), given)
        state = "is missing" if kind == "union_tag_not_found" else f"is {_show(given)}"
        return f"{place}.{key} {state}; needed: {needed}."
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", details["expected"])
        return f"{place} is {_show(given)}; needed: {_one_of(names, given)}."
    if kind == "value_error":
        return f"{place}: {details['error']}"
    if kind == "tuple_type":
        return f"{place} is {_show(given)}; needed: a list{' or a table' if candidates else ''}."
    if kind in _BOUNDS:
        name, needed = _BOUNDS[kind]
        return f"{place} is {_show(given)}; needed: {needed.format(details[name])}."
    return f"{place} is {_show(given)}; needed: {_KINDS.get(kind, fault['msg'])}."


def _one_of(names: Iterable[str], given: Any) -> str:
    names = list(names)
    near = _checks.nearest(given.rpartition(".")[2], names) if isinstance(given, str) else None
    return f"{'one of ' if len(names) > 1 else ''}{', '.join(names)}{f' (did you mean {near!r}?)' if near else ''}"


def _place(location, kind) -> tuple[str, type[BaseModel] | None, list[type[BaseModel]]]:
    """The dotted name of a field, the model that has it, and what models it may hold.

    pydantic's location names also the member of a union that was tried, which nobody wrote.
    """
    model: type[BaseModel] | None = RunConfig
    holder: type[BaseModel] | None = model
    candidates: list[type[BaseModel]] = [RunConfig]
    names: list[str] = []
    for number, part in enumerate(location):
        last = number == len(location) - 1
        if isinstance(part, int):
            names.append(str(part))
        elif model is None:
            model = next((each for each in candidates if _tag(each) == part), None)
        elif part in model.model_fields:
            names.append(part)
            holder, candidates = model, _models(model.model_fields[part])
            model = candidates[0] if len(candidates) == 1 else None
        elif last and kind == "extra_forbidden":
            names.append(part if re.fullmatch(r"[\w-]{1,60}", part) else _show(part))
            holder = model
    return ".".join(names) or "the whole", holder, candidates


def _models(field) -> list[type[BaseModel]]:
    """Every model in an annotation, from left to right."""
    found, waiting = [], [field.annotation, *field.metadata]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, type) and get_origin(each) is None and issubclass(each, BaseModel):
            found.append(each)
        waiting[:0] = get_args(each)
    return found


def _key(model: type[BaseModel]) -> str:
    """The field that tells a model from the others of its union."""
    return next((name for name in ("kind", "law", "family") if name in model.model_fields), "")


def _tag(model: type[BaseModel]) -> str | None:
    key = _key(model)
    return get_args(model.model_fields[key].annotation)[0] if key else None
