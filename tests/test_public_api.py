"""Oracle: the design's list of public names, and the modules where they live, in fresh interpreters."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import megalm

HOMES = {
    "Layout": "megalm.layout",
    "Mesh": "megalm.mesh",
    "Axis": "megalm.mesh",
    "RunConfig": "megalm.run_config",
    "build_model": "megalm.training.build",
    "train": "megalm.training.loop",
    "verify": "megalm.verify.command",
}


def printed(program: str) -> str:
    """Run a program in a fresh interpreter, where nothing of megalm is loaded, and return what it printed."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_are_complete() -> None:
    assert sorted(megalm.__all__) == sorted([*HOMES, "layers"])
    assert set(megalm.__all__) < set(dir(megalm))


def test_each_name_is_the_object_of_its_home_at_every_use() -> None:
    uses = "; ".join(f"assert megalm.{name} is megalm.{name} is at({home!r}, {name!r})" for name, home in HOMES.items())
    at = "at = lambda home, name: getattr(importlib.import_module(home), name)"
    assert printed(f"import importlib, megalm; {at}; {uses}; print(megalm.layers.__name__)") == "megalm.layers\n"


def test_a_module_imported_first_does_not_hide_the_function_of_its_folders_name() -> None:
    program = "from megalm.verify.compare import compare; from megalm import verify; print(verify.__name__, verify)"
    assert printed(program).startswith("verify <function verify")


def test_type_checkers_are_told_the_same_homes() -> None:
    tree = ast.parse(Path(megalm.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    told = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    assert {name.name: node.module for node in told for name in node.names} == {**HOMES, "layers": "megalm"}


def test_import_loads_no_torch_and_no_home() -> None:
    program = (
        "import megalm, sys; print([name for name in sys.modules if name == 'torch' or name.startswith('megalm.')])"
    )
    assert printed(program) == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = megalm.trian
