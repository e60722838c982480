"""Oracle: traces written by hand, whose bubble is counted by hand; and those of a real run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from megalm.errors import UserError
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.loop import train_on
from megalm.training.report import write_report
from megalm.training.timeline import chrome_trace, read_steps, read_timeline
from megalm.training.trace_files import file_of, files_in
from tests.ranks import RankPool
from tests.verify.runs import NEOX, run_file

ONE = [
    ("0F0", 0, 2),
    ("0SEND_F0", 2, 2.5),
    ("0RECV_B0", 2.5, 7),
    ("0B0/1", 7, 9),
    ("0REDUCE_GRAD/1", 9, 9.5),
    ("0B0/0", 9.5, 11),
]
TWO = [("1RECV_F0", 0, 3), ("1F0", 3, 5), ("1B0", 5, 6.5), ("1SEND_B0", 6.5, 6.6)]


def write(path: Path, rows: Mapping[int, Sequence[tuple[str, float, float]]], rest: str = "") -> Path:
    lines = [json.dumps({"step": step, "actions": actions}) for step, actions in rows.items()]
    path.write_text("".join(f"{line}\n" for line in lines) + rest)
    return path


def test_the_bubble_is_the_idle_share_between_the_first_start_and_the_last_end(tmp_path: Path) -> None:
    files = [write(tmp_path / "0", {1: ONE}, rest='{"step": 2, "act'), write(tmp_path / "1", {1: TWO, 2: TWO})]
    timeline = read_timeline(files)
    assert timeline is not None
    assert (timeline.step, timeline.steps) == (1, 1)
    assert timeline.measured.makespan == 11
    assert float(timeline.measured.bubble) == pytest.approx(1 - (2 + 2 + 1.5 + 2 + 1.5) / 22)
    assert float(timeline.predicted.makespan) == pytest.approx(2 + 2 + 1.5 + 3.5)
    assert float(timeline.predicted.bubble) == pytest.approx(1 - 9 / 18)


def test_the_median_step_without_the_first_ones_is_shown(tmp_path: Path) -> None:
    def alone(factor: float) -> list[tuple[str, float, float]]:
        return [("0F0", 3 * factor, 5 * factor), ("0B0", 5 * factor, 6.5 * factor)]

    file = write(tmp_path / "0", {step + 1: alone(factor) for step, factor in enumerate([90, 80, 3, 1, 2])})
    timeline = read_timeline([file])
    assert timeline is not None
    assert (timeline.step, timeline.steps) == (5, 3)


def test_ranks_that_share_no_step_have_no_timeline(tmp_path: Path) -> None:
    assert read_timeline([write(tmp_path / "0", {1: ONE}), write(tmp_path / "1", {2: TWO})]) is None


def test_what_is_no_trace_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "rank-00000.jsonl", {}, rest="nonsense\n")
    with pytest.raises(UserError, match=r"rank-00000\.jsonl cannot be read as a trace"):
        read_steps(path)


def test_the_chrome_trace_has_an_event_for_each_action(tmp_path: Path) -> None:
    events = json.loads(chrome_trace({3: write(tmp_path / "3", {7: TWO})}))["traceEvents"]
    assert [(event["name"], event["tid"], event["ts"], event["dur"]) for event in events[:2]] == [
        ("1RECV_F0", 3, 0, 3e6),
        ("1F0", 3, 3e6, 2e6),
    ]
    assert {event["args"]["step"] for event in events} == {7}


def train_on_rank(_: object, config: RunConfig) -> None:
    train_on(config, Mesh.build(config.layout, ledger=Ledger(), timeout_s=30), "traced")


def test_a_traced_run_shows_its_timeline(ranks: RankPool, tmp_path: Path) -> None:
    config = run_file(
        NEOX,
        layout={"pp": 2, "dp": 2},
        run={"dir": str(tmp_path), "trace": True},
        pipeline={"schedule": "zb-h1"},
        train={"steps": 5, "micro_batch_size": 2, "eval_every": 2},
        checkpoint={"every": 0},
    )
    ranks.run(4, train_on_rank, config)
    assert sorted(files_in(tmp_path, 4)) == [0, 1, 2, 3]
    assert sorted(files_in(tmp_path, 2)) == [0, 1]
    for rank in (0, 3):
        steps = read_steps(file_of(tmp_path, rank))
        assert sorted(steps) == [1, 2, 3, 4, 5]
        words = [str(action) for action, _, _ in steps[3]]
        assert words == [str(action) for action, _, _ in steps[1]]
        times = [time for _, start, end in steps[3] for time in (start, end)]
        assert times == sorted(times)
    timeline = read_timeline([file_of(tmp_path, rank) for rank in (0, 2)])
    assert timeline is not None
    assert 0 < timeline.measured.bubble < 1
    write_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Timeline</h2>" in page
    assert ">measured<" in page
    assert ">predicted<" in page
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    untraced = (tmp_path / "run.yaml").read_text().replace("trace: true", "trace: false")
    (tmp_path / "run.yaml").write_text(untraced)
    write_report(tmp_path)
    assert "<h2>Timeline</h2>" not in (tmp_path / "report.html").read_text()
