"""Dotted overrides of a run file: ``layout.tp=2``, ``data.train.0.path=data/mine``."""

from collections.abc import Sequence
from typing import Any

from megalm.errors import UserError
from megalm.run_file import LONGEST_KEY, parse


def apply(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write each ``key.sub=value`` into ``tree``, in order; the value is YAML, and nothing after ``=`` is null.

    A number in a key is a position in a list; the position one past the end appends.

    Raises:
        UserError: it is not ``key=value``, or its key leads through something that is no section and no list.
    """
    for override in overrides:
        dotted, equals, text = override.partition("=")
        keys = dotted.strip().split(".")
        if not equals or not all(keys) or not dotted.isprintable() or len(dotted) > LONGEST_KEY:
            raise UserError(f"{override[:LONGEST_KEY]!r} is not understood; write an override as key.sub=value.")
        _put(tree, keys, parse(text, f"the value of {dotted}"))


def _put(tree: dict[str, Any], keys: Sequence[str], value: Any) -> None:
    node: Any = tree
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        place: Any = key
        if isinstance(node, list):
            place = _position(keys, depth, len(node))
            if place == len(node):
                node.append(None)
        elif not isinstance(node, dict):
            path = ".".join(keys[:depth])
            raise UserError(f"{'.'.join(keys)} cannot be set, because {path} is {node!r} and has no keys below it.")
        if last:
            node[place] = value
            return
        below = node[place] if isinstance(node, list) else node.get(place)
        if below is None:
            below = [] if _is_position(keys[depth + 1]) else {}
        node[place] = below = (
            below.copy() if isinstance(below, dict | list) else below
        )  # an alias is not written through
        node = below


def _is_position(key: str) -> bool:
    return key.isascii() and key.isdigit()


def _position(keys: Sequence[str], depth: int, length: int) -> int:
    path, key = ".".join(keys[:depth]), keys[depth]
    if not _is_position(key):
        raise UserError(f"{'.'.join(keys)}: {path} is a list; give a position, as in {path}.0.")
    if len(key) > 9 or int(key) > length:
        raise UserError(f"{'.'.join(keys)}: {path} has {length} entries; positions go from 0, and {length} appends.")
    return int(key)
