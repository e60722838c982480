"""Oracle: the extras that setup.py declares, and the packages of this environment."""

import ast
import importlib.metadata
import json
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.extras import EXTRAS, Extra, import_extra

SETUP = Path(__file__).parents[1] / "setup.py"


def declared() -> dict[str, list[str]]:
    for node in ast.walk(ast.parse(SETUP.read_text())):
        if isinstance(node, ast.keyword) and node.arg == "extras_require":
            found: dict[str, list[str]] = ast.literal_eval(node.value)
            return found
    raise AssertionError("setup.py declares no extras")


def test_each_extra_is_declared_with_its_package() -> None:
    known = declared()
    assert {extra.name for extra in EXTRAS} == known.keys() - {"dev"}
    for extra in EXTRAS:
        assert any(line.startswith(f"{extra.package}>=") for line in known[extra.name])
        assert extra.install_line == f"pip install 'megalm[{extra.name}]'"


def test_the_version_is_that_of_the_distribution_or_none() -> None:
    assert Extra("x", "numpy", "").version == importlib.metadata.version("numpy")
    assert Extra("x", "no-such-package", "").version is None


def test_an_extra_is_imported_by_name_or_a_module_of_it() -> None:
    assert import_extra("tensorboard", "track.tensorboard: true").__name__ == "tensorboard"
    assert import_extra("tensorboard", "key", "json") is json


def test_a_missing_extra_names_the_key_and_the_install_line() -> None:
    with pytest.raises(UserError) as caught:
        import_extra("fairscale", "zero.backend: fairscale", "no_such_module")
    assert str(caught.value) == (
        "zero.backend: fairscale needs fairscale (No module named 'no_such_module'); "
        "install it with pip install 'megalm[fairscale]'"
    )
