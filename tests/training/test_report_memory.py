"""Oracle: the bytes of memory.json, found again in the bars' widths and in the table."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from megalm.plan.rank_memory import QUANTITIES
from megalm.training.memory_table import name_of
from megalm.training.report_markup import node
from megalm.training.report_memory import memory_section
from megalm.training.report_style import STYLE
from tests.training.memory_rows import MIB, row


def section_of(tmp_path: Path, rows: Sequence[dict[str, Any]]) -> ET.Element:
    (tmp_path / "memory.json").write_text(json.dumps(rows))
    return node("body", *memory_section(tmp_path / "memory.json"))


def test_each_bar_is_as_long_as_its_bytes(tmp_path: Path) -> None:
    there = {"host_optimizer": 3 * MIB, "host_activations": MIB}
    rows = [row(0), row(1, planned={"optimizer": None, **there}, measured={"activations": 14 * MIB})]
    section = section_of(tmp_path, rows)
    bars = {str(bar.findtext("title")): float(bar.attrib["width"]) for bar in section.iter("rect")}
    unit = bars["rank 0 planned: parameters 1 MiB"]
    for each in rows:
        for of in ("planned", "measured"):
            for name in QUANTITIES:
                size = each[of][name]
                title = f"rank {each['rank']} {of}: {name_of(name)} {size // MIB if size else 0} MiB"
                assert bars.pop(title, None) == (None if not size else pytest.approx(size / MIB * unit, rel=0.01))
    assert not bars
    largest = max(float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in section.iter("rect"))
    (picture,) = section.iter("svg")
    assert largest == pytest.approx(float(picture.attrib["width"]), abs=0.1)
    assert picture.attrib["aria-label"]
    assert all(f".part-{number} {{" in STYLE for number in range(len(QUANTITIES)))


def test_the_table_has_the_numbers_and_the_page_says_what_was_planned_wrong(tmp_path: Path) -> None:
    section = section_of(tmp_path, [row(0, measured={"gradients": 6 * MIB}, unknown={"buffers": "of a reason"})])
    table = [["".join(cell.itertext()) for cell in line] for line in section.iter("tr")]
    assert table[1][:5] == ["0", "planned", "1 MiB", "2 MiB", "3 MiB"]
    assert table[2][:5] == ["", "measured", "1 MiB", "6 MiB", "3 MiB"]
    assert table[2][-1] == "512 MiB"
    said = ["".join(paragraph.itertext()) for paragraph in section.iter("p")]
    assert any("Warning: rank 0 holds 6,291,456 bytes of gradients" in sentence for sentence in said)
    assert any("since of a reason" in sentence for sentence in said)


def test_of_many_ranks_two_are_drawn(tmp_path: Path) -> None:
    section = section_of(tmp_path, [row(rank) for rank in range(20)])
    assert "Of 20 ranks those that hold least and most" in "".join(section.itertext())
    assert len(list(section.iter("tr"))) == 5


@pytest.mark.parametrize("broken", ["{", "[1]", '[{"rank": 0}]', '{"a": 1}'])
def test_a_damaged_account_is_said_in_the_page(tmp_path: Path, broken: str) -> None:
    (tmp_path / "memory.json").write_text(broken)
    said = "".join(node("body", *memory_section(tmp_path / "memory.json")).itertext())
    assert re.search(r"memory.json could not be read \(\w+", said)


def test_a_run_that_measured_nothing_has_no_section(tmp_path: Path) -> None:
    assert memory_section(tmp_path / "memory.json") == []
