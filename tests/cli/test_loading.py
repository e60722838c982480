"""Oracle: what the garbage collector and the interpreter say of themselves."""

import gc
import importlib
import subprocess
import sys

import pytest

from megalm.cli.loading import loading


def test_the_collector_rests_while_modules_load_even_if_one_fails() -> None:
    before = gc.get_freeze_count()
    try:
        with loading():
            assert not gc.isenabled()
        with pytest.raises(ImportError, match="none"), loading():
            importlib.import_module("none")
        assert gc.isenabled()
        assert gc.get_freeze_count() > before
    finally:
        gc.unfreeze()


def test_what_a_rank_loads_leaves_checkpoints_out() -> None:
    code = "import sys, megalm.training.loop; print([name for name in sys.modules if 'distributed.checkpoint' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr
