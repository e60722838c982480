"""megalm: distributed training of language models with explicit parallelism, where no layout changes the result.

The public names are loaded when they are first used, so that ``import megalm`` and its configs need no torch.
"""

from importlib import import_module

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
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return [*__all__, "__version__"]
