"""Names in a run file: a built-in, or ``package.module:name`` of the user's own."""

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from megalm.errors import UserError, suggestion

T = TypeVar("T")


def lookup(key: str, name: str, builtins: Mapping[str, T]) -> T:
    """Return the built-in called ``name``, or import ``package.module:name``.

    Args:
        key: the run-file key, for the message (``optimizer.name``).

    Raises:
        UserError: no built-in has the name, it is not of that form, or the module or the attribute is not there.
    """
    if ":" not in name:
        if name in builtins:
            return builtins[name]
        hint = suggestion(name, builtins) or "."
        raise UserError(
            f"{key}: {name!r} is not known{hint} Choose one of {', '.join(builtins)}, or give package.module:name."
        )
    module_name, _, attribute = name.partition(":")
    if not all(word.isidentifier() for word in (*module_name.split("."), attribute)):
        raise UserError(f"{key}: {name!r} cannot be imported; write it as package.module:name.")
    if str(Path.cwd()) not in sys.path:  # a user's module lies where the command is typed
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{key}: cannot import {module_name!r} ({error}); run the command where it lies.") from error
    if not hasattr(module, attribute):
        raise UserError(
            f"{key}: module {module_name!r} has no {attribute!r}{suggestion(attribute, dir(module)) or '.'}"
        )
    found: T = getattr(module, attribute)
    return found
