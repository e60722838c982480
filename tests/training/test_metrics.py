"""Oracle: the rows written, read back by the json module of the standard library."""

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.training.line_file import LineFile
from megalm.training.metrics import MetricsFile, rows


def row(step: int, **other: Any) -> dict[str, Any]:
    known = {"loss": 1 / 3 + step, "grad_norm": 0.1, "lr": 1e-3, "tokens": 4096 * step, "tokens_per_s": 2345.6}
    return {"step": step, **known, "step_time_s": 1.7, "memory_gib": 0.5, "mfu": None, **other}


def write(path: Path, *steps: int) -> None:
    file = MetricsFile(path)
    for step in steps:
        file.write(row(step))
    file.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_each_row_is_one_whole_line_at_full_precision(path: Path) -> None:
    write(path, 1, 2)
    lines = path.read_text().split("\n")
    assert lines[2] == ""
    assert [json.loads(line) for line in lines[:2]] == [row(1), row(2)]
    assert rows(path)[0]["loss"] == 1 / 3 + 1


def test_a_row_is_readable_before_the_file_is_closed(path: Path) -> None:
    file = MetricsFile(path)
    file.write(row(1))
    assert rows(path) == [row(1)]
    file.close()


def test_a_number_that_json_cannot_hold_is_null_and_said(path: Path) -> None:
    with_nan, with_infinity = row(1, loss=math.nan), row(2, grad_norm=math.inf)
    file = MetricsFile(path)
    file.write(with_nan)
    file.write(with_infinity)
    file.close()

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    found = [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]
    assert found == [
        with_nan | {"loss": None, "non_finite": True},
        with_infinity | {"grad_norm": None, "non_finite": True},
    ]


def test_a_number_that_json_cannot_hold_is_refused_inside_a_value(path: Path) -> None:
    file = MetricsFile(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.write(row(1, parts={"text": math.nan}))
    file.close()
    assert path.read_text() == ""


def test_a_row_without_a_key_is_refused(path: Path) -> None:
    file = MetricsFile(path)
    incomplete = row(1)
    del incomplete["grad_norm"]
    with pytest.raises(ValueError, match="lacks grad_norm"):
        file.write(incomplete)
    file.close()
    assert path.read_text() == ""


@pytest.mark.parametrize(("step", "kept"), [(0, []), (2, [1, 2]), (3, [1, 2, 3]), (9, [1, 2, 3])])
def test_a_resume_drops_the_rows_after_its_checkpoint(path: Path, step: int, kept: list[int]) -> None:
    write(path, 1, 2, 3)
    file = MetricsFile(path)
    file.truncate_after(step)
    file.write(row(step + 1))
    file.close()
    assert [found["step"] for found in rows(path)] == [*kept, step + 1]


@pytest.mark.parametrize("cut", range(1, len(json.dumps(row(3))) + 1, 7))
def test_a_last_line_cut_short_is_dropped(path: Path, cut: int) -> None:
    write(path, 1, 2, 3)
    os.truncate(path, path.stat().st_size - cut)
    assert [found["step"] for found in rows(path)] == [1, 2]
    file = MetricsFile(path)
    file.truncate_after(3)
    file.write(row(3))
    file.close()
    assert rows(path) == [row(1), row(2), row(3)]


def test_damage_before_the_checkpoint_is_refused_and_after_it_is_cut_off(path: Path) -> None:
    write(path, 1, 2, 3, 4)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\0" * 20 + b"\n" + lines[3])
    with pytest.raises(UserError, match="line 3 is not a row"):
        rows(path)
    file = MetricsFile(path)
    with pytest.raises(UserError, match="line 3 is not a row of metrics, though the checkpoint is of step 4"):
        file.truncate_after(4)
    file.truncate_after(2)
    file.close()
    assert rows(path) == [row(1), row(2)]


def test_flush_reaches_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.readlink(f"/proc/self/fd/{number}")))
    file = MetricsFile(path)
    file.write(row(1))
    assert synced == []
    file.flush()
    assert synced == [str(path)]
    file.close()


def test_a_file_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write .*metrics.jsonl \(No such file or directory\)"):
        MetricsFile(tmp_path / "missing" / "metrics.jsonl")
    with pytest.raises(UserError, match=r"cannot read .*metrics.jsonl"):
        rows(tmp_path / "metrics.jsonl")


def test_a_full_disk_is_one_sentence() -> None:
    full = LineFile(Path("/dev/full"))
    with full, pytest.raises(UserError, match=r"No space left on device.*free some space"):
        full.write("{}")
