"""Oracle: lines written by hand, and the clock."""

import _thread
import os
import threading
import time

import pytest

from megalm.generation.lines import Lines
from megalm.mesh import Mesh


def test_whoever_types_is_asked_for_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    """And left at the beginning of one; the last line needs no end."""
    read_end, write_end = os.pipe()
    os.write(write_end, "a b\r\n\n\u00e9".encode())
    os.close(write_end)
    lines = Lines(Mesh.alone(), read_end, typed=True)
    assert [lines.next() for _ in range(4)] == ["a b", "", "\u00e9", None]
    assert capsys.readouterr().out == "> > > > \n"


def test_ctrl_c_that_comes_just_before_a_wait_is_heard() -> None:
    """Such a signal ends no wait, as little as one that another thread makes up."""
    read_end, write_end = os.pipe()
    lines = Lines(Mesh.alone(), read_end, typed=False)
    begun = time.monotonic()
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        lines.next()
    assert time.monotonic() - begun < 20
    os.close(write_end)
