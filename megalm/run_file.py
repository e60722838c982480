"""The text of a run file: YAML 1.2 in, plain values out, and back.

Plain values are what JSON has: mappings with text keys, lists, text of one line, finite 64-bit numbers, true, false and
null. A date stays the text it was written as.
"""

import math
import warnings
from collections.abc import Mapping
from io import StringIO
from os import PathLike
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.representer import SafeRepresenter

from megalm.errors import UserError

DEEPEST = 16
MOST_VALUES = 100_000
LONGEST_TEXT = 1000
LONGEST_KEY = 100
LARGEST = 2**63 - 1


class _Constructor(SafeConstructor):
    """Reads a date as the text it is."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: loader.construct_scalar(node))


class _Representer(SafeRepresenter):
    """Writes numbers so that readers of YAML 1.1 take them for numbers too."""


def _float(representer: SafeRepresenter, value: float) -> Any:
    mantissa, exponent, power = repr(value).partition("e")
    text = mantissa if "." in mantissa else f"{mantissa}.0"
    return representer.represent_scalar("tag:yaml.org,2002:float", text + exponent + power)


_Representer.add_representer(float, _float)


def _yaml() -> YAML:
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 120
    return yaml


def read(path: str | PathLike[str]) -> dict[str, Any]:
    """Return what the run file says, as plain values.

    Raises:
        UserError: the file cannot be read, is not YAML, or holds something else than sections.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; name a run file.") from error
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UserError(f"cannot read the run file {str(path)!r} ({reason}); check its name.") from error
    tree = parse(text, str(path))
    if tree is None:
        raise UserError(f"{path} is empty; a run file has at least the sections model, data and train.")
    if not isinstance(tree, dict):
        raise UserError(f"{path} holds no sections; write for example 'model:' and its keys below it.")
    return tree


def parse(text: str, source: str) -> Any:
    """Return the plain value that a YAML text stands for.

    Args:
        text: one YAML document.
        source: its name, for the message.

    Raises:
        UserError: it is not YAML (a key given twice is not), or holds what is no plain value.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an anchor defined twice is allowed in YAML
            value = _yaml().load(text)
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        problem = " ".join(str(error.problem or error.context).split())
        raise UserError(f"{source}{line}: {problem}; mend the YAML there.") from error
    except Exception as error:  # the parser meets bad text with errors of many types
        problem = " ".join(str(error).split())[:200]
        raise UserError(f"{source} cannot be read as YAML ({problem}).") from error
    _refuse_what_is_not_plain(value, source)
    return value


def write(tree: Mapping[str, Any]) -> str:
    """Return plain values as a YAML text that ``parse`` reads back equal."""
    stream = StringIO()
    _yaml().dump(tree, stream)
    return stream.getvalue()


def _refuse_what_is_not_plain(tree: Any, source: str) -> None:
    """Raise UserError, naming the dotted key, at the first value that is not plain."""
    waiting: list[tuple[Any, tuple[str, ...]]] = [(tree, ())]
    seen = 0
    while waiting:
        value, key = waiting.pop()
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"{source} holds more than {MOST_VALUES} values; a run file is shorter.")
        fault = _fault(value) if len(key) <= DEEPEST else f"is nested more than {DEEPEST} levels deep"
        if fault is not None:
            raise UserError(f"{'.'.join(key) or source} {fault}.")
        below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        waiting.extend((entry, (*key, str(name))) for name, entry in below)


def _fault(value: Any) -> str | None:
    """Return what makes a value no plain one, or None; what lies below it is not looked at."""
    match value:
        case None | bool() | list():
            return None
        case str() if len(value) > LONGEST_TEXT:
            return f"is text of more than {LONGEST_TEXT} letters"
        case str():
            return None if value.isprintable() else "holds a character that cannot be printed"
        case int():
            return None if abs(value) <= LARGEST else "is a number beyond 64 bits"
        case float():
            return None if math.isfinite(value) else "must be a finite number"
        case dict():
            odd = [name for name in value if not _is_name(name)]
            return f"has the key {repr(odd[0])[:LONGEST_KEY]}, which is no name; take it out" if odd else None
        case _:
            return f"is a YAML {type(value).__name__}, which no key takes"


def _is_name(key: object) -> bool:
    return isinstance(key, str) and key.isprintable() and len(key) <= LONGEST_KEY
