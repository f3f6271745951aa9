"""A `RunConfig` as canonical JSON with its digest, and as TOML; what differs between two; the schema for editors."""

import hashlib
import json
from typing import Any

from .sections import RunConfig


def to_json(config: RunConfig) -> str:
    """Canonical JSON: every field, sorted, without spaces; equal configs give equal text."""
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def to_toml(config: RunConfig) -> str:
    """TOML with every field, which `parse` reads as an equal config; None is "none", for TOML has no null."""
    data = config.model_dump(mode="json")
    parts = [_lines({name: value for name, value in data.items() if not isinstance(value, dict)})]
    parts += [f"[{name}]\n{_lines(value)}" for name, value in data.items() if isinstance(value, dict)]
    return "\n".join(parts)


def _lines(table):
    return "".join(f"{name} = {_literal(value)}\n" for name, value in table.items())


def _literal(value):
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_literal(each)}" for name, each in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    # Numbers, true, false and texts are written as in JSON, but for the one control character that JSON lets stand.
    return json.dumps("none" if value is None else value, ensure_ascii=False).replace("\x7f", "\\u007f")


def digest(config: RunConfig) -> str:
    """SHA-256 of `to_json`, in hexadecimal."""
    return hashlib.sha256(to_json(config).encode()).hexdigest()


def differences(old: RunConfig, new: RunConfig) -> list[tuple[str, Any, Any]]:
    """(dotted field, old value, new value) of what differs; None where one has no such field. A list is one value."""
    before, after = _fields(old.model_dump(mode="json")), _fields(new.model_dump(mode="json"))
    names = list(dict.fromkeys([*before, *after]))
    return [(name, before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)]


def _fields(table, prefix=""):
    found = {}
    for name, value in table.items():
        found |= _fields(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return found


def json_schema() -> dict[str, Any]:
    """JSON Schema of a run's description, for editors: every field with its meaning, bounds and default."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **_with_none(RunConfig.model_json_schema())}


def _with_none(schema: Any) -> Any:
    """Where null may stand, "none" may too: TOML has no null."""
    if isinstance(schema, list):
        return [_with_none(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _with_none(each) for name, each in schema.items()}
    if {"type": "null"} in found.get("anyOf", ()):
        found["anyOf"] = [each for each in found["anyOf"] if each != {"type": "null"}]
        found["anyOf"].append({"enum": ["none", None]})
    return found


def table() -> str:
    """The fields of every section as Markdown, from the schema: what docs/config shows."""
    schema = json_schema()
    parts = [_rows("Top level", schema)]
    parts += [_rows(_heading(name, each), each) for name, each in schema["$defs"].items() if each.get("properties")]
    return "\n".join(parts)


def _heading(name, schema):
    tags = (
        f'{key} = "{schema["properties"][key]["const"]}"'
        for key in ("kind", "law", "family")
        if key in schema["properties"]
    )
    return next(tags, name)


def _rows(heading, schema):
    lines = [f"### {heading}", "", schema.get("description", "").splitlines()[0], ""]
    rows = [
        f"| `{name}` | {_type(each)} | {_default(name, each, schema)} | {_cell(each['description'])} |"
        for name, each in schema["properties"].items()
        if "const" not in each
    ]
    if rows:
        lines += ["| Field | Type | Default | Meaning |", "| --- | --- | --- | --- |", *rows, ""]
    return "\n".join(lines)


def _cell(text):
    return text.replace("|", r"\|")  # which would end the cell


def _default(name, field, schema):
    if name in schema.get("required", ()):
        return "needed"
    default = field.get("default")
    return "none" if default is None else "see there" if isinstance(default, dict) else f"`{json.dumps(default)}`"


_BOUNDS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}


def _type(field):
    if "$ref" in field:
        return "table"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(each)}`" for each in field["enum"] if each is not None)
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    for union in ("anyOf", "oneOf"):
        if union in field:
            return " or ".join(dict.fromkeys(_type(each) for each in field[union]))
    if field["type"] == "array":
        return f"list of {_type(field['items'])}"
    kind = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text"}[field["type"]]
    if "minimum" in field and "maximum" in field:
        return f"{kind}, {field['minimum']} to {field['maximum']}"
    return ", ".join([kind, *(f"{sign} {field[name]}" for name, sign in _BOUNDS.items() if name in field)])
