"""Oracle: small sections written here, whose keys and limits are in plain sight."""

import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, field_validator

from megalm.errors import UserError
from megalm.section import Section
from megalm.validation import dotted_keys, keys_of, section_at, validate


class Leaf(Section):
    size: int = Field(1, ge=1, le=9)
    share: float = Field(0.5, gt=0, lt=1)
    mode: Literal["slow", "fast"] = "slow"

    @field_validator("size")
    @classmethod
    def _odd(cls, size: int) -> int:
        if size % 2 == 0:
            raise ValueError("an even size\nis not what we want.")
        return size


class Tree(Section):
    leaf: Leaf
    leaves: list[Leaf] = Field(default_factory=list, max_length=2)
    pair: tuple[float, float] = (0.0, 1.0)
    path: Path | None = None
    async_: bool = Field(False, alias="async")
    name: str = Field("n", min_length=1)


def refusal(tree: Any) -> str:
    with pytest.raises(UserError) as refused:
        validate(Tree, tree)
    return str(refused.value)


def test_lists_serve_as_tuples_and_text_as_paths_but_nothing_is_coerced() -> None:
    tree = validate(Tree, {"leaf": {}, "pair": [1, 2.5], "path": "a/b", "async": True})
    assert (tree.pair, tree.path, tree.async_) == ((1.0, 2.5), Path("a/b"), True)


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"leaf": {"size": 10}}, "leaf.size must be at most 9, not 10."),
        ({"leaf": {"share": 0}}, "leaf.share must be above 0.0, not 0."),
        ({"leaf": {"share": 1}}, "leaf.share must be below 1.0, not 1."),
        ({"leaf": {"size": 4}}, "leaf.size: an even size is not what we want."),
        ({"leaf": {"mode": "fats"}}, "leaf.mode must be 'slow' or 'fast', not \"fats\"; did you mean fast?"),
        ({"leaf": {"mode": 3}}, "leaf.mode must be 'slow' or 'fast', not 3."),
        ({"leaf": {}, "leaves": [{}, {"size": "a"}]}, 'leaves.1.size must be a whole number, not "a".'),
        ({"leaf": {}, "leaves": [{}, {}, {}]}, "leaves must be a list of at most 2, not [{}, {}, {}]."),
        ({"leaf": {}, "pair": [1]}, "pair.1 is missing and has no default; add it."),
        ({"leaf": {}, "name": ""}, 'name must be text of 1 or more letters, not "".'),
        ({"leaf": {}, "async": 1}, "async must be true or false, not 1."),
        ({"leaf": {}, "async_": True}, "unknown key async_; did you mean async?"),
        ({"leaf": {}, "size": 3}, "unknown key size; did you mean leaf.size?"),
        ({"laef": {}}, "unknown key laef; did you mean leaf?"),
        ({"leaf": {}, "name": ["\ufeff"]}, 'name must be text, not ["\\ufeff"].'),
        ({"leaf": {}, "name": list(range(50))}, f"name must be text, not {json.dumps(list(range(50)))[:57]}...."),
    ],
)
def test_each_refusal_names_the_key_and_what_was_expected(tree: Any, sentence: str) -> None:
    assert refusal(tree) == sentence


def test_a_section_tells_its_keys_and_what_lies_below() -> None:
    assert keys_of(Tree) == ["leaf", "leaves", "pair", "path", "async", "name"]
    assert section_at(Tree, ["leaf"]) is Leaf
    assert section_at(Tree, ["leaves", "1"]) is Leaf
    assert section_at(Tree, ["name"]) is None
    assert {"leaf.size", "leaves.0.size", "async"} <= set(dotted_keys(Tree))
