"""What the command line may say of a trained model's run, and of nothing else. No torch."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from megalm import overrides as dotted
from megalm.errors import UserError
from megalm.layout import Layout
from megalm.section import Section
from megalm.training.config import RunSection
from megalm.validation import validate

KEYS = ("layout.tp", "layout.pp", "run.device", "run.timeout", "train.precision")
"""What of a run may be another here; the layout is one process unless it is said."""


def tree_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what the overrides say, section by section.

    Raises:
        UserError: one is not understood, or has no effect here.
    """
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key not in KEYS:
            raise UserError(f"{key} has no effect here; what may be set is {', '.join(KEYS)}.")
    tree: dict[str, Any] = {}
    dotted.apply(tree, overrides)
    return tree


class Asked(Section):
    """Those of the keys that are read before there is a run.

    Attributes:
        layout: one process unless it is said.
        run: the device, and how long ranks wait.
    """

    layout: Layout = Field(default_factory=Layout)
    run: RunSection = Field(default_factory=RunSection)


def asked(overrides: Sequence[str]) -> Asked:
    """Return the layout and the device that the overrides ask for.

    Raises:
        UserError: one is not understood, or has no effect here.
    """
    tree = tree_of(overrides)
    return validate(Asked, {name: tree[name] for name in Asked.model_fields if name in tree})
