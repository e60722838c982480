"""megalm: distributed training of language models with explicit parallelism, where no layout changes the result.

The public names are loaded when they are first used, so that ``import megalm`` and its configs need no torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megalm import layers
    from megalm.layout import Layout
    from megalm.mesh import Axis, Mesh
    from megalm.run_config import RunConfig
    from megalm.training.build import build_model
    from megalm.training.loop import train
    from megalm.verify.command import verify

__version__ = "0.1.0"

__all__ = ["Axis", "Layout", "Mesh", "RunConfig", "build_model", "layers", "train", "verify"]

_HOMES = (
    ("Layout", "megalm.layout"),
    ("Mesh", "megalm.mesh"),
    ("Axis", "megalm.mesh"),
    ("RunConfig", "megalm.run_config"),
    ("build_model", "megalm.training.build"),
    ("train", "megalm.training.loop"),
    ("verify", "megalm.verify.command"),
)


def __getattr__(name: str) -> object:
    """Load a public name from where it lives, at its first use."""
    if name == "layers":
        return import_module("megalm.layers")
    home = dict(_HOMES).get(name)
    if home is None:
        raise AttributeError(f"module 'megalm' has no attribute {name!r}")
    found: object = getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return [*__all__, "__version__"]


class _Door(ModuleType):
    """This package, where importing a module of the folder ``verify`` does not hide the function of that name."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (isinstance(value, ModuleType) and name in dict(_HOMES)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Door
