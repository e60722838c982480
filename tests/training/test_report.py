"""Oracle: html.parser and the XML parser, and the drawn places turned back into the values of metrics.jsonl."""

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.layout import AXES, Coordinates, Layout
from megalm.ledger import Entry, Ledger
from megalm.training.metrics import MetricsFile
from megalm.training.report import write_report
from megalm.training.report_chart import BOTTOM, LEFT, RIGHT, TOP, WIDE, Chart, Series, thinned
from megalm.training.report_layout import layout_section

RUN = """\
run: {dir: runs/x, seed: 1234}
model: {family: gpt2, vocab_size: 8192}
layout: {pp: 1, dp: 2, cp: 1, tp: 2, ep: 1}
train: {steps: 8, precision: fp32}
data: {train: [{path: "a <script>alert('&')</script>"}]}
"""


def row(step: int, **other: Any) -> dict[str, Any]:
    known = {"loss": 9.0 - 0.5 * step, "grad_norm": 1.0 / step, "lr": 1e-4 * step, "tokens": 4096 * step}
    speed = {"tokens_per_s": 2300.0 + step, "step_time_s": 1.75, "memory_gib": 0.8125, "mfu": None}
    return {"step": step, **known, **speed, **other}


ROWS = [row(step, **({"val_loss": 9.2 - 0.5 * step} if step % 2 == 0 else {})) for step in range(1, 9)]


def make_run(run_dir: Path, rows: list[dict[str, Any]], run_file: str = RUN) -> Path:
    (run_dir / "run.yaml").write_text(run_file)
    file = MetricsFile(run_dir / "metrics.jsonl")
    for one in rows:
        file.write(one)
    file.close()
    return run_dir


def report(run_dir: Path) -> str:
    path = write_report(run_dir)
    assert path == run_dir / "report.html"
    return path.read_text(encoding="utf-8")


def drawings(text: str) -> list[ET.Element]:
    return [ET.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", text, re.DOTALL)]


class Checker(HTMLParser):
    """Check that each tag is closed in order, and gather the words and the attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.words: list[str] = []
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def checked(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert checker.open == []
    return checker


def test_the_page_is_well_formed_and_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    text = report(make_run(tmp_path, ROWS))
    checker = checked(text)
    assert text.startswith("<!doctype html>\n<html")
    assert not checker.seen & {"script", "link", "img", "iframe", "object", "use", "image", "base"}
    assert not checker.attributes & {"src", "href", "onload", "onclick", "srcset", "action", "style"}
    assert not re.search(r"https?:|//|url\(|@import|@font-face", text)
    assert "prefers-color-scheme: dark" in text
    assert "a <script>alert('&')</script>" in "".join(checker.words)
    assert len(drawings(text)) == 5


def test_the_results_are_said(tmp_path: Path) -> None:
    text = report(make_run(tmp_path, [*ROWS[:7], row(8, val_loss=5.2, loss=math.nan)]))
    words = "\n".join(checked(text).words)
    assert "Validation loss\n8.2000 → 5.2000\nfirst at step 2, last at step 8" in words
    assert "Training loss\n8.5000 → 5.5000" in words
    assert "Steps\n8 of 8" in words
    assert "Tokens\n32,768" in words
    assert "Tokens/s\n2,304" in words
    assert "Peak memory\n0.81 GiB" in words
    assert "Non-finite updates\n1" in words
    assert "MFU" not in words
    assert f"ln(8,192) = {math.log(8192):.2f}, a uniform guess" in words
    assert "model gpt2 · precision fp32 · seed 1234" in words


def test_mfu_is_shown_where_it_is_known(tmp_path: Path) -> None:
    words = "\n".join(checked(report(make_run(tmp_path, [row(1, mfu=0.41234)]))).words)
    assert "MFU\n41.2%" in words


def test_the_lines_lie_where_the_values_are(tmp_path: Path) -> None:
    loss = drawings(report(make_run(tmp_path, ROWS)))[0]
    width, height = WIDE
    ticks = [
        (float(line.get("y1", "")), float((name.text or "").replace(",", "")))
        for line, name in zip(loss, list(loss)[1:], strict=False)
        if line.get("class") == "grid"
    ]
    (y0, v0), (y1, v1) = ticks[0], ticks[-1]
    assert (v0, v1) == (5, 9)
    assert y0 > y1  # y grows downwards: larger values stand higher
    drawn = {line.get("class"): line.get("d", "")[1:].split("L") for line in loss if "line " in line.get("class", "")}
    for look, key in (("line line-0", "loss"), ("line line-1", "val_loss")):
        wanted = [(one["step"], one[key]) for one in ROWS if key in one]
        assert len(drawn[look]) == len(wanted)
        for place, (step, value) in zip(drawn[look], wanted, strict=True):
            x, y = map(float, place.split())
            assert x == pytest.approx(LEFT + (width - LEFT - RIGHT) * (step - 1) / 7, abs=0.1)
            assert v0 + (y - y0) / (y1 - y0) * (v1 - v0) == pytest.approx(value, abs=0.005)
            assert TOP <= y <= height - BOTTOM
    (level,) = [line for line in loss if line.get("class") == "level"]
    assert v0 + (float(level.get("y1", "")) - y0) / (y1 - y0) * (v1 - v0) == pytest.approx(math.log(8192), abs=0.005)
    assert len([dot for dot in loss if dot.get("class") == "dot line-1"]) == 4


def test_the_pointer_names_the_values_of_a_step(tmp_path: Path) -> None:
    loss = drawings(report(make_run(tmp_path, [*ROWS[:7], row(8, loss=math.inf)])))[0]
    bands = [band for band in loss if band.get("class") == "band"]
    titles = [band.findtext("title") for band in bands]
    assert titles[0] == "step 1: training 8.5"
    assert titles[1] == "step 2: training 8, validation 8.2"
    assert titles[7] == "step 8: training not finite"
    edges = [(float(band.get("x", "")), float(band.get("width", ""))) for band in bands]
    assert edges[0][0] == LEFT
    assert sum(width for _, width in edges) == pytest.approx(WIDE[0] - LEFT - RIGHT, abs=0.1)


def test_a_missing_value_is_a_gap() -> None:
    points = [(step, None if step == 3 else float(step)) for step in range(1, 6)]
    figure = Chart("x", [Series("x", points)]).figure()
    paths = [line.get("d", "") for line in figure.iter("path") if line.get("class") == "line line-0"]
    assert [path.count(" ") for path in paths] == [2, 2]


def test_a_line_keeps_its_color_when_another_has_no_value() -> None:
    figure = Chart("x", [Series("first", [(1, None), (2, None)]), Series("second", [(1, 1.0), (2, 2.0)])]).figure()
    assert [line.get("class") for line in figure.iter("path") if "line" in line.get("class", "")] == ["line line-1"]
    assert [(key.text, key.get("class")) for key in figure.iter("span")] == [
        ("first", "key line-0"),
        ("second", "key line-1"),
    ]


def test_a_chart_without_values_says_so() -> None:
    figure = Chart("x", [Series("x", [(1, None)]), Series("y", [])]).figure()
    assert figure.findtext("p") == "No finite value was recorded."
    assert figure.find("svg") is None


def test_a_long_run_is_thinned_and_keeps_its_spikes() -> None:
    points = [(step, 1000.0 if step == 7777 else math.sin(step)) for step in range(20_000)]
    kept = thinned(points, 1000)
    assert len(kept) <= 1000
    assert (7777, 1000.0) in kept
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    figure = Chart("x", [Series("x", points)]).figure()
    assert len(ET.tostring(figure)) < 120_000


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_short_run_has_a_report_too(tmp_path: Path, steps: int) -> None:
    text = report(make_run(tmp_path, ROWS[:steps], "layout: {}\n"))
    checked(text)
    assert ("No step has finished yet" in text) == (steps == 0)


def test_a_run_that_has_not_written_a_row_yet_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    assert "No step has finished yet" in report(tmp_path)


@pytest.mark.parametrize("layout", [Layout(), Layout(dp=2, tp=2), Layout(pp=2, dp=2, cp=2, tp=3, ep=2)])
def test_each_rank_stands_at_its_coordinates(layout: Layout) -> None:
    section = layout_section(layout)
    titles = {cell.findtext("title") for cell in section.iter("g")}
    assert titles == {
        f"rank {rank}: " + ", ".join(f"{axis} {at}" for axis, at in zip(AXES, layout.coordinates(rank), strict=True))
        for rank in range(layout.world_size)
    }
    table = [["".join(cell.itertext()) for cell in line] for line in section.iter("tr")]
    for line in table[1:]:
        size = getattr(layout, line[0])
        assert line[1:3] == [str(size), str(layout.world_size // size)]
        ranks = layout.expert_ranks(0) if line[0] == "ep" else layout.ranks_along((line[0],), 0)
        assert line[3].split(" ", 1)[1] == ", ".join(map(str, ranks))


def test_a_large_layout_shows_the_first_of_each_axis() -> None:
    layout = Layout(pp=16, dp=64, tp=16)
    section = layout_section(layout)
    assert "The picture shows the first of each axis." in "".join(section.itertext())
    cells = {cell.findtext("title") for cell in section.iter("g")}
    assert len(cells) == 8**3
    last = Coordinates(7, 7, 0, 7)
    assert f"rank {layout.rank(last)}: pp 7, dp 7, cp 0, tp 7" in cells


def test_the_counted_communication_is_shown_with_scalars_apart(tmp_path: Path) -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.record(Entry("all_reduce", "dp", "float32", 1 << 20))
        ledger.record(Entry("all_gather", "tp", "float32", 512))
        ledger.record(Entry("all_reduce", "world", "float64", 8, scalar=True))
    (make_run(tmp_path, ROWS) / "communication.json").write_text(json.dumps(ledger.rows()))
    root = ET.fromstring("<body>" + re.findall(r"<h2>Communication</h2>(.*)<h2>Run", report(tmp_path))[0] + "</body>")
    tensors, scalars = [
        [["".join(cell.itertext()) for cell in line] for line in table.iter("tr")][1:] for table in root.iter("table")
    ]
    assert tensors == [
        ["all_reduce", "dp", "float32", "3", "3 MiB", "6 MiB"],
        ["all_gather", "tp", "float32", "3", "1.5 KiB", "1.5 KiB"],
        ["all", "", "", "6", "3.0015 MiB", "6.0015 MiB"],
    ]
    assert scalars[0] == ["all_reduce", "world", "float64", "3", "24 B", "48 B"]


def test_a_run_of_one_process_says_that_it_called_no_collective(tmp_path: Path) -> None:
    (make_run(tmp_path, [row(1)]) / "communication.json").write_text("[]")
    words = "".join(checked(report(tmp_path)).words)
    assert "A step calls no collective" in words
    assert "validation" not in words  # nothing was evaluated: no such line, no such key


@pytest.mark.parametrize("broken", ["{", "[1]", '[{"kind": "all_reduce"}]', '{"a": 1}'])
def test_a_damaged_account_of_communication_is_said_in_the_page(tmp_path: Path, broken: str) -> None:
    (make_run(tmp_path, ROWS) / "communication.json").write_text(broken)
    assert "communication.json could not be read" in report(tmp_path)


@pytest.mark.parametrize(
    ("run_file", "sentence"),
    [
        (None, r"cannot read .*run.yaml \(No such file or directory\); name the directory of a run."),
        ("a: [", r"run.yaml is not YAML"),
        ("- 1", r"run.yaml holds no run"),
        ("layout: {dp: two}", r"run.yaml has no usable layout section"),
    ],
)
def test_what_is_not_a_run_is_refused_in_one_sentence(tmp_path: Path, run_file: str | None, sentence: str) -> None:
    if run_file is not None:
        (tmp_path / "run.yaml").write_text(run_file)
    with pytest.raises(UserError, match=sentence) as caught:
        write_report(tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("report.html*"))


def test_a_page_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    make_run(tmp_path, ROWS)
    (tmp_path / "report.html").mkdir()
    with pytest.raises(UserError, match=r"cannot write .*report.html \(Is a directory\)"):
        write_report(tmp_path)
