"""From plain values to a section, with every refusal told in one sentence that names the dotted key."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from megalm.errors import UserError
from megalm.section import Section

S = TypeVar("S", bound=Section)

EXPECTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a section of keys",
    "model_type": "a section of keys",
    "model_attributes_type": "a section of keys",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "too_short": "a list of {min_length} or more",
    "too_long": "a list of at most {max_length}",
    "string_too_short": "text of {min_length} or more letters",
    "literal_error": "{expected}",
}
"""What the message says after "must be", by the type of pydantic's error; its own words serve for the others."""


def validate(section: type[S], tree: Mapping[str, Any]) -> S:
    """Return ``tree`` as a ``section``.

    Numbers and text are taken as JSON does: nothing is coerced, but a list serves as a tuple and text as a path.

    Raises:
        UserError: the first thing that is wrong; unknown keys come first, because a misspelt key is also a missing one.
    """
    try:
        return section.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        raise UserError(_sentence(section, tree, error.errors(include_url=False))) from error


def keys_of(section: type[Section]) -> list[str]:
    """Return the names of a section's keys, as a run file writes them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def section_at(section: type[Section], keys: Sequence[str]) -> type[Section] | None:
    """Return the section that lies below ``keys``, positions in lists among them, or None if a value lies there."""
    for key in keys:
        if key.isdigit():
            continue
        below = dict(_sections_below(section)).get(key)
        if below is None:
            return None
        section = below
    return section


def dotted_keys(section: type[Section], prefix: str = "") -> Iterator[str]:
    """Yield every dotted key of a section and of those below it; a list of sections shows its first place."""
    below = dict(_sections_below(section))
    for name, field in zip(keys_of(section), section.model_fields.values(), strict=True):
        yield prefix + name
        if name in below:
            yield from dotted_keys(below[name], f"{prefix}{name}.{'0.' if _has_list(field.annotation) else ''}")


def _sections_below(section: type[Section]) -> Iterator[tuple[str, type[Section]]]:
    for name, field in zip(keys_of(section), section.model_fields.values(), strict=True):
        found = _section_in(field.annotation)
        if found is not None:
            yield name, found


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)


def _has_list(annotation: Any) -> bool:
    return get_origin(annotation) is list or any(map(_has_list, get_args(annotation)))


def _sentence(section: type[Section], tree: Mapping[str, Any], errors: Sequence[ErrorDetails]) -> str:
    by_type = sorted(errors, key=lambda error: error["type"] != "extra_forbidden")
    first, keys = by_type[0], _keys(by_type[0], tree)
    dotted = ".".join(keys) or "the run file"
    if first["type"] == "extra_forbidden":
        return _unknown(section, keys)
    if first["type"] == "missing":
        return f"{dotted} is missing and has no default; add it."
    if first["type"] == "value_error":
        return f"{dotted}: {' '.join(str(first['ctx']['error']).split())}"
    same = [error for error in by_type if _keys(error, tree) == keys]
    expected = " or ".join(dict.fromkeys(map(_expected, same)))
    return f"{dotted} must be {expected}, not {_shown(first['input'])}{_hint(first)}"


def _keys(error: ErrorDetails, tree: Any) -> list[str]:
    """Return the keys that an error is about: pydantic's location without the names of its own machinery."""
    keys, node = [], tree
    for part in error["loc"]:
        if isinstance(node, list) and isinstance(part, int) and part < len(node):
            node = node[part]
        elif isinstance(node, Mapping) and part in node:
            node = node[str(part)]
        elif error["type"] != "missing" or part is not error["loc"][-1]:
            continue
        keys.append(str(part))
    return keys


def _expected(error: ErrorDetails) -> str:
    template = EXPECTED.get(error["type"])
    if template is None:
        return error["msg"].removeprefix("Input should be ")
    return template.format_map(error.get("ctx", {}))


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    text = text if text.isprintable() else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _hint(error: ErrorDetails) -> str:
    """Return the end of the sentence: what to write instead, where that can be guessed."""
    value = error["input"]
    if error["type"] == "string_type" and isinstance(value, bool | int | float):
        return "; quote it."
    if error["type"] == "literal_error" and isinstance(value, str):
        near = difflib.get_close_matches(value, re.findall(r"'(.+?)'", error["ctx"]["expected"]), n=1)
        return f"; did you mean {near[0]}?" if near else "."
    return "."


def _unknown(section: type[Section], keys: Sequence[str]) -> str:
    *path, word = keys
    dotted = ".".join(keys)
    parent = section_at(section, path)
    known = keys_of(parent) if parent is not None else []
    here = difflib.get_close_matches(word, known, n=1)
    if here:
        return f"unknown key {dotted}; did you mean {'.'.join([*path, here[0]])}?"
    nearest_first = sorted(dotted_keys(section), key=lambda key: key.count("."))
    everywhere = {key.rpartition(".")[2]: key for key in reversed(nearest_first)}
    elsewhere = difflib.get_close_matches(word, everywhere, n=1, cutoff=0.8)
    if elsewhere:
        return f"unknown key {dotted}; did you mean {everywhere[elsewhere[0]]}?"
    where = f"{'.'.join(path)} has" if path else "a run file has"
    return f"unknown key {dotted}; {where} the keys {', '.join(known)}."
