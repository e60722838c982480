"""Oracle: this machine, which can train, and faults planted one at a time."""

import importlib
import importlib.metadata
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console

from megalm import __version__, doctor, doctor_checks
from megalm.doctor import run_doctor
from megalm.doctor_checks import Finding

OK = Finding("process groups", "gloo", "2 ranks met")


@pytest.fixture
def without_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks start once in this file; elsewhere they are taken as met."""
    monkeypatch.setattr(doctor_checks, "process_groups", lambda torch: [OK])


def examined(terminal: bool = False) -> tuple[int, str]:
    stream = io.StringIO()
    console = Console(file=stream, width=100, force_terminal=terminal, color_system=None)
    return run_doctor(console), stream.getvalue()


def test_this_machine_can_train() -> None:
    code, said = examined()
    assert code == 0
    lines = said.splitlines()
    assert lines[-1] == "Training can work here."
    assert all(re.match(r"(ok|absent) +\S", line) for line in lines[:-1])
    found = {(line[8:24].strip(), line[24:38].strip()): line[38:] for line in lines[:-1]}
    assert found["versions", "megalm"] == __version__
    assert found["versions", "torch"] == torch.__version__
    assert found["devices", "cpu"].startswith(f"{len(os.sched_getaffinity(0))} cores")
    assert found["backends", "gloo"] == "there"
    assert re.fullmatch(r"2 ranks met and summed in \d+\.\d s", found["process groups", "gloo"])
    assert os.getcwd() in found["disk", "here"]
    assert tempfile.gettempdir() in found["disk", "temporary"]
    assert found["extras", "wandb"] == f"wandb {importlib.metadata.version('wandb')}"


@pytest.mark.usefixtures("without_ranks")
@pytest.mark.parametrize("terminal", [False, True])
def test_a_missing_extra_has_its_install_line_and_stops_nothing(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = importlib.metadata.version

    def version(package: str) -> str:
        if package == "fairscale":
            raise importlib.metadata.PackageNotFoundError(package)
        return really(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    code, said = examined(terminal)
    assert code == 0
    (line,) = [line for line in said.splitlines() if "pip install 'megalm[fairscale]'" in line]
    assert "absent" in line


def test_ranks_that_fail_are_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    program.write_text(
        "#!/bin/sh\n[ $3 = 0 ] && exit 0\necho Traceback >&2\necho RuntimeError: no route. >&2\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    assert doctor_checks.two_ranks("cpu") == "RuntimeError: no route"
    program.write_text("#!/bin/sh\nexit 3\n")
    assert doctor_checks.two_ranks("cpu") == "a rank ended with exit code 3"


def test_ranks_that_do_not_answer_are_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    really = subprocess.Popen

    def popen(*words: Any, **options: Any) -> "subprocess.Popen[str]":
        started.append(really(*words, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", popen)
    assert doctor_checks.two_ranks("cpu", timeout_s=0.2) == "no answer within 0 s"
    assert len(started) == 2
    assert [process.returncode for process in started] == [-signal.SIGKILL] * 2


def without_torch(patch: pytest.MonkeyPatch) -> None:
    really = importlib.import_module

    def import_module(name: str) -> ModuleType:
        if name == "torch":
            raise OSError("libtorch_cpu.so: file too short")
        return really(name)

    patch.setattr(importlib, "import_module", import_module)


def without_gloo(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.distributed, "is_gloo_available", lambda: False)


def without_numpy(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor_checks, "CORE_PACKAGES", ("numpy", "no-such-package"))


def without_ranks_that_meet(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(doctor_checks, "two_ranks", lambda device_type: "connection refused")
    patch.setattr(doctor_checks, "process_groups", PROCESS_GROUPS)


def without_space(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))


def without_permission(patch: pytest.MonkeyPatch) -> None:
    def refuse(dir: object) -> Iterator[None]:
        raise PermissionError(13, "Permission denied")

    patch.setattr(tempfile, "TemporaryFile", refuse)


PROCESS_GROUPS = doctor_checks.process_groups


@pytest.mark.usefixtures("without_ranks")
@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize(
    ("plant", "sentence"),
    [
        (without_torch, "torch cannot be imported; install it again"),
        (without_gloo, "This build of torch has no gloo"),
        (without_numpy, "no-such-package is not installed"),
        (without_ranks_that_meet, "Two ranks on this machine cannot meet over gloo (connection refused);"),
        (without_space, "has 0.5 GiB free; free at least 1 GiB"),
        (without_permission, "No file can be made in"),
    ],
)
def test_what_stops_training_is_said_with_what_to_mend(
    plant: Any, sentence: str, terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    code, said = examined(terminal)
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith("Training cannot work here yet. ")
    assert sentence in last
    assert sum("broken" in line for line in said.splitlines()) >= 1


def test_two_gpus_are_asked_to_meet_over_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(doctor_checks, "two_ranks", lambda device_type: asked.append(device_type))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [found.name for found in doctor_checks.process_groups(torch)] == ["gloo", "nccl"]
    assert asked == ["cpu", "cuda"]


def test_the_memory_is_that_of_the_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for text, wanted in (("max\n", total), (str(2**31), 2**31), (str(2**60), total)):
        monkeypatch.setattr(Path, "exists", lambda path: True)
        monkeypatch.setattr(Path, "read_text", lambda path, text=text: text)
        assert doctor_checks._memory_bytes() == wanted


def test_the_table_names_each_part_once() -> None:
    found = [Finding("a", "one", "1"), Finding("a", "two", "2"), Finding("b", "three", "[red]3")]
    stream = io.StringIO()
    Console(file=stream, width=80).print(doctor._table(found))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in stream.getvalue().splitlines() if "│" in line]
    assert cells == [["a", "one", "1", "ok"], ["", "two", "2", "ok"], ["b", "three", "[red]3", "ok"]]
