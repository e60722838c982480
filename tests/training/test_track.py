"""Oracle: wandb's own offline files and TensorBoard's own EventAccumulator."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from megalm.errors import UserError
from megalm.training.metric_names import tracked
from megalm.training.track import Tracker, trackers
from megalm.training.track_config import TrackConfig

Record: Any = importlib.import_module("wandb.proto.wandb_internal_pb2").Record
NAMES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "lr": "train/lr", "tokens": "train/tokens"} | {
    key: f"perf/{key}" for key in ("tokens_per_s", "step_time_s", "memory_gib")
}


def row(step: int, **other: Any) -> dict[str, Any]:
    known = {"loss": 1 / 3 + step, "grad_norm": 0.1, "lr": 1e-3, "tokens": 4096 * step, "tokens_per_s": 2345.6}
    return {"step": step, **known, "step_time_s": 1.7, "memory_gib": 0.5, "mfu": None, **other}


def run(tracker: Tracker, run_dir: Path, resumed: bool, *rows: dict[str, Any]) -> None:
    tracker.start({"train": {"steps": 200}}, run_dir, resumed)
    for one in rows:
        tracker.log(one)
    tracker.finish()
    tracker.finish()


def test_the_names_of_a_row() -> None:
    assert tracked(row(1)) == {name: row(1)[key] for key, name in NAMES.items()}
    assert tracked(row(1, val_loss=5.0, mfu=0.4)) == tracked(row(1)) | {"val/loss": 5.0, "perf/mfu": 0.4}
    parts = {"train/loss_rtd": 0.25, "val/loss_rtd": 0.5}
    assert tracked(row(1, loss_rtd=0.25, val_loss_rtd=0.5)) == tracked(row(1)) | parts


def test_nothing_is_imported_unless_asked_for() -> None:
    program = (
        "import sys; from megalm.training.track import trackers; from megalm.training.track_config import TrackConfig; "
        "assert trackers(TrackConfig()) == []; "
        "print({'wandb', 'tensorboard', 'torch'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_a_missing_extra_is_one_sentence(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    really = importlib.import_module

    def without(module: str, *rest: Any) -> ModuleType:
        if module.partition(".")[0] == name:
            raise ModuleNotFoundError(f"No module named {name!r}")
        return really(module, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(UserError) as caught:
        trackers(TrackConfig.model_validate({name: True}))
    assert str(caught.value) == (
        f"track.{name}: true needs {name} (No module named '{name}'); install it with pip install 'megalm[{name}]'"
    )


def test_the_section_is_strict() -> None:
    assert TrackConfig() == TrackConfig(wandb=False, tensorboard=False, project="megalm", name=None, tags=[])
    for wrong in ({"wandb": "yes"}, {"tags": "one"}, {"projekt": "x"}, {"project": ""}):
        with pytest.raises(ValidationError):
            TrackConfig.model_validate(wrong)


def events(run_dir: Path) -> EventAccumulator:
    return EventAccumulator(str(run_dir / "tensorboard")).Reload()


def test_tensorboard_shows_each_row_under_its_names(tmp_path: Path) -> None:
    (tracker,) = trackers(TrackConfig(tensorboard=True))
    run(tracker, tmp_path, False, row(1), row(2, val_loss=5.25, loss=None))
    found = events(tmp_path)
    assert sorted(found.Tags()["scalars"]) == sorted([*NAMES.values(), "val/loss"])
    assert [(event.step, event.value) for event in found.Scalars("train/loss")] == [(1, pytest.approx(4 / 3))]
    assert [(event.step, event.value) for event in found.Scalars("val/loss")] == [(2, 5.25)]
    assert [event.step for event in found.Scalars("perf/tokens_per_s")] == [1, 2]


@pytest.mark.parametrize(("resumed", "first", "steps"), [(True, 3, [1, 2, 3, 4]), (False, 1, [1, 2])])
def test_tensorboard_shows_a_step_once_after_a_resume(
    tmp_path: Path, resumed: bool, first: int, steps: list[int]
) -> None:
    (before,) = trackers(TrackConfig(tensorboard=True))
    run(before, tmp_path, False, *(row(step) for step in (1, 2, 3, 4, 5, 6)))  # the checkpoint is of step 2
    (after,) = trackers(TrackConfig(tensorboard=True))
    run(after, tmp_path, resumed, *(row(step, loss=100.0 + step) for step in (first, first + 1)))
    found = [(event.step, event.value) for event in events(tmp_path).Scalars("train/loss")]
    assert [step for step, _ in found] == steps
    assert found[-2:] == [(first, 100.0 + first), (first + 1, 101.0 + first)]


WANDB_PROGRAM = """
import json, sys
from pathlib import Path
from megalm.training.track import trackers
from megalm.training.track_config import TrackConfig
run_dir, resumed, rows = Path(sys.argv[1]), sys.argv[2] == "resumed", json.loads(sys.argv[3])
(tracker,) = trackers(TrackConfig(wandb=True, project="shelf", name="first", tags=["small", "cpu"]))
tracker.start({"train": {"steps": 200}}, run_dir, resumed)
for row in rows:
    tracker.log(row)
tracker.finish()
"""


def run_wandb(
    run_dir: Path, how: str, *rows: dict[str, Any], mode: str = "offline"
) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"WANDB_MODE": "offline", "HOME": str(run_dir), "NETRC": str(run_dir / "netrc")}
    command = [sys.executable, "-c", WANDB_PROGRAM, str(run_dir), how, json.dumps(rows)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL
    )


def wandb_records(path: Path) -> list[Any]:
    """Read an offline file: a head of 7 bytes, then LevelDB's log format, blocks of 32 KiB of checked fragments."""
    data, place, block = path.read_bytes(), 7, 32768
    found, whole = [], b""
    while place + 7 <= len(data):
        if block - place % block < 7:
            place += block - place % block
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last fragment of one
            found.append(Record.FromString(whole))
            whole = b""
    return found


def wandb_history(path: Path) -> list[dict[str, Any]]:
    rows = [record.history for record in wandb_records(path) if record.HasField("history")]
    return [{item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in row.item} for row in rows]


def test_wandb_offline_keeps_each_row_and_a_resume_goes_on_in_the_same_run(tmp_path: Path) -> None:
    assert run_wandb(tmp_path, "new", row(1), row(2, val_loss=5.25)).returncode == 0
    (first,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    run_id = (tmp_path / "wandb-run-id").read_text().strip()
    assert first.name == f"run-{run_id}.wandb"
    (about,) = [record.run for record in wandb_records(first) if record.HasField("run")]
    assert (about.run_id, about.project, about.display_name, list(about.tags)) == (
        run_id,
        "shelf",
        "first",
        ["small", "cpu"],
    )
    assert {item.key: json.loads(item.value_json) for item in about.config.update}["train"] == {"steps": 200}
    history = wandb_history(first)
    assert [shown["_step"] for shown in history] == [1, 2]
    assert history[0].items() >= tracked(row(1)).items()
    assert history[1].items() >= tracked(row(2, val_loss=5.25)).items()
    assert "perf/mfu" not in history[0]

    assert run_wandb(tmp_path, "resumed", row(3)).returncode == 0
    (second,) = set((tmp_path / "wandb").glob("offline-run-*/*.wandb")) - {first}
    assert second.name == first.name
    assert [shown["_step"] for shown in wandb_history(second)] == [3]


class Service:
    """A stand-in for the wandb module: an online run that has steps from before a crash."""

    class Error(Exception):
        """As wandb.Error."""

    def __init__(self, next_step: int = 0, refusal: str = "") -> None:
        self.step, self.refusal = next_step, refusal
        self.asked: dict[str, Any] = {}
        self.sent: list[int] = []

    def init(self, **asked: Any) -> "Service":
        if self.refusal:
            raise self.Error(self.refusal)
        self.asked = asked
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.sent.append(step)

    def finish(self) -> None:
        self.sent.append(-1)


def with_service(service: Service, monkeypatch: pytest.MonkeyPatch) -> Tracker:
    monkeypatch.setitem(sys.modules, "wandb", service)
    (tracker,) = trackers(TrackConfig(wandb=True))
    return tracker


def test_only_a_resume_goes_on_in_the_kept_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    for resumed in (True, False, True, True):
        service = Service()
        run(with_service(service, monkeypatch), tmp_path, resumed, row(1))
        assert (tmp_path / "wandb-run-id").read_text() == f"{service.asked['id']}\n"
        asked.append((service.asked["id"], service.asked["resume"]))
    assert [resume for _, resume in asked] == [None, None, "allow", "allow"]
    assert asked[0][0] != asked[1][0] == asked[2][0] == asked[3][0]


def test_rows_that_the_service_already_has_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(next_step=5)
    run(with_service(service, monkeypatch), tmp_path, True, *(row(step) for step in (3, 4, 5, 6)))
    assert service.sent == [5, 6, -1]


def test_wandb_without_a_login_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = with_service(Service(refusal="No API key configured.\nSee the docs."), monkeypatch)
    with pytest.raises(UserError) as caught:
        run(tracker, tmp_path, False)
    assert str(caught.value) == (
        "track.wandb: true, but wandb did not start (No API key configured); "
        "run `wandb login`, or set WANDB_MODE=offline."
    )
