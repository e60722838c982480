"""The optional packages: what each is for, whether it is there, how to get it; imported only when asked for."""

import importlib
import importlib.metadata
from dataclasses import dataclass
from types import ModuleType

from megalm.errors import UserError


@dataclass(frozen=True)
class Extra:
    """One optional part of the installation.

    Args:
        name: of the extra, as in ``pip install 'megalm[name]'``.
        package: the distribution it brings.
        purpose: what a user gets from it.
    """

    name: str
    package: str
    purpose: str

    @property
    def install_line(self) -> str:
        """The command that brings it."""
        return f"pip install 'megalm[{self.name}]'"

    @property
    def version(self) -> str | None:
        """The installed version, or ``None``; the package is not imported."""
        try:
            return importlib.metadata.version(self.package)
        except importlib.metadata.PackageNotFoundError:
            return None


EXTRAS = (
    Extra("wandb", "wandb", "tracking on Weights & Biases"),
    Extra("tensorboard", "tensorboard", "tracking in TensorBoard"),
    Extra("deepspeed", "deepspeed", "the DeepSpeed backend of ZeRO"),
    Extra("fairscale", "fairscale", "the fairscale backend of ZeRO"),
    Extra("mpi", "mpi4py", "starting ranks by mpirun"),
)


def import_extra(name: str, key: str, module: str | None = None) -> ModuleType:
    """Import an optional package because a key of the run file asks for it.

    Args:
        name: of the extra.
        key: the run-file setting, for the message (``track.wandb: true``).
        module: what to import; the package itself by default.

    Raises:
        UserError: it is not installed, or cannot be imported.
    """
    extra = next(extra for extra in EXTRAS if extra.name == name)
    try:
        return importlib.import_module(module or extra.package)
    except ImportError as error:
        raise UserError(f"{key} needs {extra.package} ({error}); install it with {extra.install_line}") from error
