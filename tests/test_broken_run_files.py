"""Oracle: a run file, broken at random, is a valid config or one sentence, never a traceback."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.run_config import RunConfig
from megalm.validation import dotted_keys

NUM_FILES = 10_000 if os.environ.get("MEGALM_TEST_FULL") == "1" else 500

BASES: tuple[dict[str, Any], ...] = (
    {
        "run": {"dir": "runs/x", "seed": 1, "device": "cpu"},
        "model": {
            "family": "gpt2",
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "vocab_size": 512,
        },
        "layout": {"dp": 2, "tp": 1},
        "optimizer": {"lr": 0.001, "betas": [0.9, 0.95]},
        "data": {"train": [{"path": "data/a", "weight": 1.0}, {"path": "data/b"}]},
        "train": {"steps": 10, "global_batch_size": 8, "seq_length": 64},
    },
    {
        "model": {"preset": "llama-1b", "rope_theta": 500000.0},
        "lr_schedule": {"name": "wsd", "warmup_steps": 3, "decay_steps": 2},
        "checkpoint": {"every": 5, "async": False},
        "data": {"train": [{"path": "data/a"}], "validation": ["data/v"]},
        "train": {"precision": "fp64", "stop_after": 3},
        "track": {"tags": ["a"], "name": "n"},
    },
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    3,
    7,
    10**9,
    2**63,
    -(2**64),
    0.0,
    -0.0,
    0.5,
    1.5,
    -1e300,
    1e-320,
    "",
    " ",
    "0",
    "1e-3",
    "auto",
    "null",
    "a.b:c",
    ":",
    "a:",
    "../x",
    "ü\u202e\U0001f600",
    "\t\n",
    "x" * 5000,
    [],
    [[]],
    [None],
    [1, "a", {}],
    {},
    {"a": 1},
    {"": None},
    {"path": "p"},
    {"0": 0},
    {"weight": -1},
)
ODD_TEXTS = (
    ":",
    "- ",
    "? ",
    "#",
    "'",
    '"',
    "&a ",
    "*a",
    "!!",
    "!!int ",
    "!!python/name:os.system ",
    "{",
    "}",
    "[",
    "]",
    ",",
    "|\n",
    ">\n",
    "%YAML 1.1\n",
    "---\n",
    "...\n",
    "\t",
    "\n",
    "  ",
    "\x07",
    "\u2028",
    "\ufeff",
    "@",
    "`",
    "<<: ",
    ".inf",
    ".nan",
    "1e999",
    "0x",
    "0o9",
    "9" * 30,
    "~",
    "= ",
    "\\ud800",
    "é",
)
KEYS = tuple(dotted_keys(RunConfig))


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a tree."""
    found = []
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        found.append((tree, key))
        found += places(tree[key])
    return found


def replace_value(tree: Any, dice: random.Random) -> None:
    container, key = dice.choice(places(tree))
    container[key] = dice.choice(ODD_VALUES)


def swap_values(tree: Any, dice: random.Random) -> None:
    (container, key), (other, other_key) = dice.choice(places(tree)), dice.choice(places(tree))
    container[key] = json.loads(json.dumps(other[other_key]))


def remove_key(tree: Any, dice: random.Random) -> None:
    container, key = dice.choice(places(tree))
    del container[key]


def misspell_key(tree: Any, dice: random.Random) -> None:
    container, key = dice.choice([place for place in places(tree) if isinstance(place[0], dict)])
    at = dice.randrange(len(key) + 1)
    container[key[:at] + dice.choice(["x", "", ".", " ", "é", "0"]) + key[at + dice.randrange(2) :]] = container.pop(
        key
    )


def set_known_key(tree: Any, dice: random.Random) -> None:
    *path, last = dice.choice([key for key in KEYS if ".0." not in key]).split(".")
    for name in path:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[last] = dice.choice(ODD_VALUES)


TREE_FAULTS: tuple[Callable[[Any, random.Random], None], ...] = (
    replace_value,
    replace_value,
    swap_values,
    remove_key,
    misspell_key,
    set_known_key,
    set_known_key,
)


def break_text(text: str, dice: random.Random) -> str:
    for _ in range(dice.randrange(1, 4)):
        at, until = sorted(dice.randrange(len(text) + 1) for _ in range(2))
        match dice.randrange(3):
            case 0:
                text = text[:at] + dice.choice(ODD_TEXTS) + text[at:]
            case 1:
                text = text[:at] + text[min(until, at + 9) :]
            case _:
                text = text[:at] + text[at : at + 20] * 2 + text[at:]
    return text


def override(dice: random.Random) -> str:
    key = dice.choice([*KEYS, "data.train.9.path", "data.train.x", "layout.tp.y", "a", "", ".", "train."])
    value = dice.choice([json.dumps(dice.choice(ODD_VALUES)), dice.choice(ODD_TEXTS), "2"])
    return key + dice.choice(["=", "=", "=", "", "=="]) + value


def broken_run(seed: int) -> tuple[str, list[str]]:
    """Return the text of a run file and overrides, with a few faults."""
    dice = random.Random(seed)
    tree = json.loads(json.dumps(dice.choice(BASES)))
    for _ in range(dice.randrange(3)):
        if places(tree):
            dice.choice(TREE_FAULTS)(tree, dice)
    text = json.dumps(tree, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, 1]))
    if dice.random() < 0.3:
        text = break_text(text, dice)
    return text, [override(dice) for _ in range(dice.choice([0, 0, 1, 2]))]


def test_a_broken_run_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    outcomes = {"refused": 0, "valid": 0}
    for seed in range(NUM_FILES):
        text, overrides = broken_run(seed)
        path.write_text(text, encoding="utf-8")
        try:
            config = RunConfig.load(path, overrides)
        except UserError as error:
            sentence = str(error)
            assert sentence.isprintable(), f"seed {seed}: {sentence!r}"
            assert len(sentence) < 2000, f"seed {seed}: {len(sentence)} letters"
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {type(error).__name__} {error}: {overrides} on {text}") from error
        else:
            path.write_text(config.to_yaml(), encoding="utf-8")
            assert RunConfig.load(path) == config, f"seed {seed}"
            outcomes["valid"] += 1
    assert min(outcomes.values()) > NUM_FILES // 20, outcomes
