"""Known keys and verbs whose feature is not built yet, refused by name. Building a feature deletes its line here."""

from collections.abc import Mapping
from typing import Any

from megalm.errors import UserError
from megalm.section import Section

ONLY: Mapping[str, Any] = {
    "layout.cp": 1,
    "layout.ep": 1,
}
"""Keys of which one value is built."""

VERBS = (
    "dry-run",
    "bench",
)
"""Verbs of the command line that will come."""


def refuse_what_is_not_built(config: Section) -> None:
    """Raise UserError at the first key of the run file that asks for what is not built yet."""
    for key, built in ONLY.items():
        asked = _value(config, key)
        if asked != built:
            raise UserError(f"{key}={_shown(asked)} is not built yet; leave it at {_shown(built)}.")


def _value(config: Section, key: str) -> Any:
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _shown(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
