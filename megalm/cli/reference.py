"""The reference of the run file, made from the config classes: what stands in docs/run-file.md."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from megalm.run_config import RunConfig

HEAD = """\
# The run file

`megalm VERB RUN.yaml key.sub=value ...` reads a run from one YAML 1.2 file. Values after the file replace those in it:
`layout.tp=2`, `optimizer.lr=1e-3`, `data.train.0.path=data/mine`, `track.tags=[a, b]`; a number in a key is a position
in a list, and the position one past the end appends. Only `model`, `data` and `train` are required. An unknown key, a
value of another type and a key given twice are refused. `megalm schema` prints all of this as a JSON schema, for
editors.

This page is made by `megalm schema --markdown`.
"""

TYPES: Mapping[str, str] = {
    "boolean": "true or false",
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "object": "keys",
    "null": "null",
}
BOUNDS: Mapping[str, str] = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}

Schema = Mapping[str, Any]


def run_file_reference() -> str:
    """Return docs/run-file.md."""
    schema = RunConfig.model_json_schema()
    parts = [HEAD]
    for name, section in schema["properties"].items():
        if "$ref" not in section:
            continue
        section = _resolved(schema, section)
        parts.append(f"\n## {name}\n\n{_one_line(section['description'])}\n")
        parts.extend(_tables(schema, name, section))
    return "\n".join(parts)


def _tables(schema: Schema, name: str, section: Schema) -> Iterator[str]:
    """Yield the table of a section's keys, then those of the sections in them."""
    required = section.get("required", [])
    rows = ["| key | value | default | what it does |", "|---|---|---|---|"]
    below = []
    for key, value in section["properties"].items():
        default = "required" if key in required else f"`{json.dumps(value.get('default', _empty(value)))}`"
        description = _one_line(value.get("description", "")).replace("|", "\\|")
        rows.append(f"| `{name}.{key}` | {_type(value)} | {default} | {description} |")
        for one in (value, *value.get("anyOf", [])):
            if "$ref" in one:
                below.append((f"{name}.{key}", "The keys of", _resolved(schema, one)))
            if "$ref" in one.get("items", {}):
                below.append((f"{name}.{key}[]", "Each entry of", _resolved(schema, one["items"])))
    yield "\n".join(rows) + "\n"
    for path, what, entry in below:
        yield f"{what} `{path}`:\n"
        yield from _tables(schema, path, entry)


def _type(value: Schema) -> str:
    if "anyOf" in value:
        return " or ".join(map(_type, value["anyOf"]))
    if "enum" in value or "const" in value:
        return ", ".join(f"`{word}`" for word in value.get("enum", [value.get("const")]))
    if value.get("type") == "array":
        return f"list of {_type(value['items'])}"
    if "$ref" in value:
        return "sections"
    bounds = [f"{sign} {value[name]}" for name, sign in BOUNDS.items() if name in value]
    return " ".join([TYPES.get(value.get("type", ""), "any value"), *([", ".join(bounds)] if bounds else [])])


def _empty(value: Schema) -> list[Any] | dict[str, Any]:
    """Return what a key without a default in the schema starts from: a list or keys, with nothing in it."""
    return [] if value.get("type") == "array" else {}


def _resolved(schema: Schema, value: Schema) -> Schema:
    found: Schema = schema["$defs"][value["$ref"].rpartition("/")[2]]
    return found


def _one_line(text: str) -> str:
    return " ".join(text.split())
