"""Oracle: the line written by hand, and a terminal made of a string."""

import io
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megalm.errors import UserError
from megalm.training.progress import Progress

FIRST = "step 10/200 | loss 6.1234 | grad_norm 1.23 | lr 5.0e-04 | tokens/s 2345 | eta 0:03:10"


def row(step: int, **other: Any) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 6.12341,
        "grad_norm": 1.2345,
        "lr": 5e-4,
        "tokens_per_s": 2345.4,
        "step_time_s": 1.0,
        **other,
    }


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def plain(stream: io.StringIO) -> Console:
    return Console(file=stream, width=40)  # narrower than a line: it may not be wrapped


def test_the_plain_line_is_stable_and_also_in_the_log(tmp_path: Path) -> None:
    stream = io.StringIO()
    progress = Progress(tmp_path / "log.txt", plain(stream))
    progress.start(10, 200)
    progress.message("[bold]resumed from step 9")
    progress.step(row(10))
    progress.step(row(11, val_loss=5.43210, loss=float("nan"), grad_norm=None))
    progress.step(row(12, loss_mlm=5.0, val_loss=5.5, val_loss_mlm=4.0, val_f1=0.5))
    progress.finish()
    progress.finish()
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["[bold]resumed from step 9", FIRST]
    assert re.fullmatch(
        r"step 11/200 \| loss nan \| grad_norm - \| lr 5.0e-04 \| tokens/s 2345 \| eta \d:\d\d:\d\d \| val_loss 5.4321",
        lines[2],
    )
    assert lines[3].endswith(" | loss_mlm 5.0000 | val_loss 5.5000 | val_loss_mlm 4.0000 | val_f1 0.5000")
    assert (tmp_path / "log.txt").read_text().splitlines() == lines


def test_a_resume_goes_on_in_the_same_log(tmp_path: Path) -> None:
    for text in ("first", "second"):
        progress = Progress(tmp_path / "log.txt", plain(io.StringIO()))
        progress.message(text)
        progress.finish()
    assert (tmp_path / "log.txt").read_text() == "first\nsecond\n"


def test_the_time_left_follows_the_pace_after_the_first_update() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(None, plain(stream), clock)
    progress.start(1, 101)
    for now, step in ((50.0, 1), (52.0, 2), (58.0, 3)):  # a slow first step, then 2 s, then 6 s with an evaluation
        clock.now = now
        progress.step(row(step, step_time_s=50.0))
    etas = re.findall(r"eta (\S+)", stream.getvalue())
    assert etas == ["1:23:20", "0:03:18", "0:06:32"]


def test_on_a_terminal_the_line_is_live_and_only_evaluations_stay(tmp_path: Path) -> None:
    stream, clock = io.StringIO(), Clock()
    console = Console(file=stream, force_terminal=True, width=160, color_system=None)
    progress = Progress(tmp_path / "log.txt", console, clock)
    progress.start(1, 4)
    for step in (1, 2, 3, 4):
        clock.now += 1.0
        progress.step(row(step, **({"val_loss": 5.0} if step == 2 else {})))
    progress.finish()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    kept = [line for line in re.split(r"[\r\n]+", shown) if line.startswith("step 2/4 | loss")]
    assert len(kept) == 1
    assert kept[0].endswith("val_loss 5.0000")
    assert "step 1/4 | loss" not in shown
    for step in (1, 2, 3, 4):
        assert re.search(rf"step {step}/4 +━+ *loss 6.1234 \| .* tokens/s 2345 \| eta 0:00:0{4 - step}", shown)
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1  # the cursor is back
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 4


def test_a_fast_run_is_not_slowed_by_drawing() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(None, Console(file=stream, force_terminal=True, width=160), clock)
    progress.start(1, 1000)
    for step in range(1, 1001):
        clock.now += 0.001
        progress.step(row(step))
    progress.finish()
    assert 8 <= stream.getvalue().count("tokens/s") <= 16


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*log.txt \(No such file or directory\)"):
        Progress(tmp_path / "missing" / "log.txt")
