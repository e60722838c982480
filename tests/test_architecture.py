"""Oracle: the house rules of ARCHITECTURE.md, each first seen to fail on a small tree planted with a breach of it."""

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import house_rules as rules
from tests.house_rules import Source

ROOT = Path(__file__).parents[1]

RULES_AND_BREACHES: list[tuple[Callable[[Sequence[Source]], list[str]], str, str, str]] = [
    (
        rules.imports_point_down,
        "layout.py",
        "from megalm.models.config import ModelConfig",
        "layout imports models.config",
    ),
    (rules.imports_point_down, "data/loader.py", "def f():\n    import megalm.training.loop", "above it"),
    (rules.imports_point_down, "attic.py", "", "attic has no floor"),
    (rules.engines_are_strangers, "data/loader.py", "from megalm.checkpoint import store", "imports checkpoint"),
    (rules.engines_are_strangers, "parallel/data/b.py", "from megalm.parallel.tensor import region", "parallel.tensor"),
    (rules.no_circles, "errors.py", "from megalm import section", "errors is in a circle"),
    (rules.torch_distributed_stays_below, "rng.py", "import torch.distributed as dist", "rng uses torch.distributed"),
    (rules.torch_distributed_stays_below, "rng.py", "import torch\ntorch.distributed.barrier()", "rng uses"),
    (rules.torch_distributed_stays_below, "rng.py", "from torch import distributed", "rng uses torch.distributed"),
    (
        rules.torch_distributed_stays_below,
        "mesh.py",
        "import torch.distributed as dist\ndist.all_gather_into_tensor(a, b)",
        "mesh communicates: dist.all_gather_into_tensor",
    ),
    (rules.extras_load_when_asked, "training/track.py", "from wandb import init", "imports wandb"),
    (rules.no_module_state, "rng.py", "SEED = 0\ndef f():\n    global SEED\n    SEED = 1", "has a global statement"),
    (rules.no_module_state, "rng.py", "from collections import Counter\nSEEN: Counter = Counter()", "starts empty"),
    (rules.no_module_state, "rng.py", "TABLE = {1: 2}\ndef f():\n    TABLE[3] = 4", "f changes TABLE"),
    (rules.no_module_state, "rng.py", "TABLE = [1]\ndef f():\n    TABLE.append(2)", "f changes TABLE"),
    (
        rules.no_module_state,
        "rng.py",
        "@functools.cache\ndef mesh():\n    return object()",
        "caches one object for all",
    ),
    (rules.files_are_small_and_named, "rng.py", "x = 1\n" * 401, "401 lines"),
    (rules.files_are_small_and_named, "data/utils.py", "", "named for no idea"),
    (rules.files_are_small_and_named, "helpers/__init__.py", "", "named for no idea"),
    (rules.files_are_small_and_named, "rng.py", "x = 1  # TO" + "DO: two", "rng has a TO" + "DO"),
    (rules.packages_hold_a_docstring, "data/__init__.py", '"""Data."""\nimport torch', "docstring only"),
    (rules.packages_hold_a_docstring, "data/__init__.py", "", "docstring only"),
    (rules.tests_name_their_oracle, "test_rng.py", '"""Tests of the rng."""', "does not name its oracle"),
]

BUILT = {
    "__init__.py": '"""A small tree that keeps every rule."""\n\n__version__ = "1"',
    "errors.py": "class UserError(Exception): ...",
    "section.py": "from megalm.errors import UserError",
    "layout.py": "from megalm.section import Section",
    "mesh.py": "import torch.distributed as dist\nGROUP = dist.new_group\nfrom megalm.layout import Layout",
    "collectives.py": "import torch.distributed as dist\nimport megalm.mesh\nREDUCE = dist.all_reduce",
    "data/__init__.py": '"""Data."""',
    "data/loader.py": "from megalm import errors\nTABLE = {1: 2}\ndef f(rows):\n    rows.append(TABLE[1])",
    "checkpoint/__init__.py": '"""Checkpoints."""',
    "checkpoint/store.py": "import torch.distributed.checkpoint as dcp",
    "parallel/tensor/region.py": "from megalm import collectives",
    "models/config.py": "from megalm.section import Section",
    "run_config.py": "from megalm.models.config import ModelConfig\nfrom megalm.training.config import TrainConfig",
    "training/config.py": "from megalm.section import Section",
    "training/loop.py": "from megalm.data import loader\nfrom megalm.checkpoint import store\nimport megalm.checkpoint",
    "training/track.py": "def start():\n    import wandb\n    return wandb",
    "test_rng.py": '"""Oracle: by hand."""',
}


def plant(folder: Path, files: dict[str, str]) -> list[Source]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return rules.read(folder)


@pytest.fixture(scope="module")
def package() -> list[Source]:
    return rules.read(ROOT / "megalm")


@pytest.mark.parametrize(
    "rule", dict.fromkeys(rule for rule, _, _, _ in RULES_AND_BREACHES if "tests" not in rule.__name__)
)
def test_the_package_keeps(rule: Callable[[Sequence[Source]], list[str]], package: list[Source]) -> None:
    assert rule(package) == []


@pytest.mark.parametrize(("rule", "name", "text", "told"), RULES_AND_BREACHES)
def test_a_planted_breach_is_told(
    rule: Callable[[Sequence[Source]], list[str]], name: str, text: str, told: str, tmp_path: Path
) -> None:
    built = {key: value for key, value in BUILT.items() if key != "test_rng.py" or name == key}
    whole = plant(tmp_path, built)
    assert name == "test_rng.py" or rule(whole) == []
    broken = plant(tmp_path, {name: text})
    assert any(told in breach for breach in rule(broken)), rule(broken)


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks"])
def test_files_around_the_package_are_small_and_named(folder: str) -> None:
    ours = [source for source in rules.read(ROOT / folder) if source.name != "house_rules"]
    assert rules.files_are_small_and_named(ours) == []


def test_tests_name_their_oracle_and_mirror_the_modules() -> None:
    tests = rules.read(ROOT / "tests")
    assert rules.tests_name_their_oracle(tests) == []
    assert rules.tests_mirror_modules(tests, ROOT) == []


def test_a_test_in_the_wrong_folder_is_told(tmp_path: Path) -> None:
    plant(tmp_path / "megalm", BUILT)
    kept = {"data/test_loader.py": "", "data/test_kills.py": "from megalm.data.loader import f", "test_all.py": ""}
    assert rules.tests_mirror_modules(plant(tmp_path / "tests", kept), tmp_path) == []
    strayed = plant(tmp_path / "tests", {"data/test_layout.py": "from megalm.layout import Layout"})
    assert rules.tests_mirror_modules(strayed, tmp_path) == [
        "tests/data/test_layout.py mirrors no module of data and imports none"
    ]


@pytest.mark.parametrize("planted", [None, "errors"])
def test_no_torch_on_paper(planted: str | None, tmp_path: Path) -> None:
    """The import of each module of the paper half, one after the other, in a fresh interpreter, leaves torch out."""
    told = subprocess.run(
        [sys.executable, "-c", PAPER_PROGRAM, planted or "", *rules.PAPER],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == (f"megalm.{planted} imports torch\n" if planted else "no torch\n")


PAPER_PROGRAM = """
import importlib, sys
planted, *names = sys.argv[1:]
for name in names:
    importlib.import_module(name)
    if name == "megalm." + planted:
        import torch
    if "torch" in sys.modules:
        sys.exit(print(name, "imports torch"))
print("no torch")
"""
