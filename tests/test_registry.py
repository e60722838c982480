"""Oracle: the objects themselves, and the sentences a user should read."""

import collections
import sys
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.registry import lookup

BUILT_IN = {"adamw": 1, "lamb": 2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory of the user's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def refusal(name: str) -> str:
    with pytest.raises(UserError) as error:
        lookup("optimizer.name", name, BUILT_IN)
    return str(error.value)


def test_a_built_in_is_found_by_its_name() -> None:
    assert lookup("optimizer.name", "lamb", BUILT_IN) == 2


def test_a_module_of_the_current_directory_is_imported(folder: Path) -> None:
    (folder / "rules_of_mine.py").write_text("class Rule: pass\n")
    rule: object = lookup("optimizer.name", "rules_of_mine:Rule", {})
    assert rule is sys.modules["rules_of_mine"].Rule


def test_a_module_of_a_package_is_imported() -> None:
    found: object = lookup("optimizer.name", "collections:OrderedDict", {})
    assert found is collections.OrderedDict


def test_a_misspelt_built_in_is_told_with_the_nearest_and_all() -> None:
    assert refusal("adamv") == (
        "optimizer.name: 'adamv' is not known; did you mean 'adamw'? Choose one of adamw, lamb, or give "
        "package.module:name."
    )
    assert "'zzz' is not known. Choose one of" in refusal("zzz")


def test_a_module_that_is_not_there_is_told(folder: Path) -> None:
    assert refusal("no_such_module_here:Rule").startswith("optimizer.name: cannot import 'no_such_module_here' (No mod")


def test_a_module_whose_own_import_fails_is_told(folder: Path) -> None:
    (folder / "halfway_there.py").write_text("import no_such_module_here\n")
    assert "cannot import 'halfway_there' (No module named 'no_such_module_here')" in refusal("halfway_there:Rule")


def test_an_attribute_that_is_not_there_is_told_with_the_nearest() -> None:
    message = "optimizer.name: module 'collections' has no 'OrderdDict'; did you mean 'OrderedDict'?"
    assert refusal("collections:OrderdDict") == message


@pytest.mark.parametrize("name", [":Rule", ".rules:Rule", "a..b:Rule", "collections:", "a b:c", "collections:a:b"])
def test_a_name_that_no_module_can_have_is_one_sentence(name: str) -> None:
    assert refusal(name) == f"optimizer.name: {name!r} cannot be imported; write it as package.module:name."
