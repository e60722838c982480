"""Oracle: pictures drawn by hand, and an XML parser."""

import xml.etree.ElementTree as ET
from fractions import Fraction

import pytest
from hypothesis import given

from megalm.parallel.pipeline.clock import Number, StageCost, Timetable, time_program
from megalm.parallel.pipeline.draw import COLOURS, draw_svg, draw_text
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.schedules import one_f_one_b, zb_h1
from megalm.parallel.pipeline.v_schedules import dualpipe_v
from tests.parallel.pipeline.programs import patient, read, schedule_programs

SVG = "{http://www.w3.org/2000/svg}"


def timed(program: Program, *seconds: Number) -> Timetable:
    return time_program(program, [StageCost(*seconds)] * program.num_stages)


def test_text_by_hand() -> None:
    assert draw_text(timed(one_f_one_b(2, 2), 1, 1, 1)) == (
        "rank 0  0F0-0F1-........0B0-----....0B1-----\nrank 1  ....1F0-1B0-----1F1-1B1-----........"
    )


def test_the_docstring_shows_a_picture() -> None:
    drawn = [line.strip() for line in (draw_text.__doc__ or "").splitlines() if line.strip().startswith("rank ")]
    assert drawn == draw_text(timed(one_f_one_b(2, 2), 1, 1, 1)).splitlines()


@pytest.mark.parametrize(
    ("width", "drawn"),
    [
        (24, "0F0---0F1---0B0---------"),
        (8, "F0F1B0B1"),
        (4, "FFBB"),
    ],
)
def test_text_of_a_given_width(width: int, drawn: str) -> None:
    program = read("0F0 0F1 0B0") if width == 24 else read("0F0 0F1 0B0 0B1")
    seconds = (1, 1, 1) if width == 24 else (1, 1, 0)
    assert draw_text(timed(program, *seconds), width) == f"rank 0  {drawn}"


def test_text_without_a_width_is_never_endless() -> None:
    assert [len(line) for line in draw_text(timed(one_f_one_b(2, 2), 1e-6, 1e3, 1)).splitlines()] == [10_008] * 2


def test_text_of_nothing() -> None:
    assert draw_text(timed(read("", ""), 1, 1, 1)) == "rank 0  \nrank 1  "


@patient
@given(schedule_programs(ranks=12, microbatches=12))
def test_text_shows_every_word_to_scale(program: Program) -> None:
    timetable = timed(program, 1, Fraction(2, 3), Fraction(5, 7))
    lines = draw_text(timetable).splitlines()
    assert len({len(line) for line in lines}) == 1
    for rank, line in enumerate(lines):
        name, drawn = line.rsplit("  ", 1)
        assert int(name.removeprefix("rank")) == rank
        shown = drawn.replace("-", " ").replace(".", " ").split()
        assert shown == [str(action) for action in program.ranks[rank]]
        for span in timetable.spans:
            if span.rank == rank:
                place = Fraction(span.start) * len(drawn) / Fraction(timetable.makespan)
                near = range(max(0, round(place) - 1), round(place) + 2)
                assert any(drawn[column:].startswith(str(span.action)) for column in near)


def boxes(picture: str) -> list[ET.Element]:
    return [group for group in ET.fromstring(picture).iter(SVG + "g") if group.find(SVG + "title") is not None]


def test_svg_has_a_box_for_each_action_that_tells_what_it_is() -> None:
    program = zb_h1(2, 3)
    picture = draw_svg(timed(program, 1, 1, 1), "zb-h1 <2 ranks>")
    told = [title.text for box in boxes(picture) for title in box.iter(SVG + "title")]
    assert told[0] == "0F0: forward on rank 0, 0 to 1 s"
    assert [text.split(":")[0] for text in told if text] == [str(action) for _, action in program.actions()]
    texts = [text.text for text in ET.fromstring(picture).iter(SVG + "text")]
    assert texts[:5] == ["zb-h1 <2 ranks>", "forward", "backward of the input", "backward of the weights", "idle 10.0%"]
    legend = [float(text.get("x", "")) for text in ET.fromstring(picture).iter(SVG + "text") if text.get("y") == "43"]
    assert legend == sorted(set(legend))
    assert legend[-1] < float(ET.fromstring(picture).get("width", "")) - 60
    assert texts[5:7] == ["rank 0", "rank 1"]
    assert texts[7:] == [str(action) for _, action in program.actions()]


def test_svg_is_to_scale_and_coloured_by_kind() -> None:
    timetable = timed(dualpipe_v(2, 4), 1, 1, 2)
    for span, box in zip(timetable.spans, boxes(draw_svg(timetable, "")), strict=True):
        rect = box.find(SVG + "rect")
        assert rect is not None
        assert rect.get("fill") == COLOURS[span.action.kind][0]
        first = boxes(draw_svg(timetable, ""))[0].find(SVG + "rect")
        assert first is not None
        unit = float(first.get("width", ""))
        assert float(rect.get("width", "")) == pytest.approx(unit * float(span.end - span.start), abs=0.02)
        assert float(rect.get("x", "")) == pytest.approx(64 + unit * float(span.start), abs=0.05)


def test_svg_of_a_wide_or_empty_timetable_can_still_be_looked_at() -> None:
    wide = ET.fromstring(draw_svg(timed(one_f_one_b(2, 2), 1e-6, 1e3, 1), ""))
    assert float(wide.get("width", "")) < 17_000
    assert ET.fromstring(draw_svg(timed(read(""), 1, 1, 1), "nothing")).tag == SVG + "svg"


def test_a_picture_of_a_given_width_is_to_scale() -> None:
    timetable = time_program(one_f_one_b(2, 2), [StageCost(1, 1, 1)] * 2)
    root = ET.fromstring(draw_svg(timetable, "narrow", width=900))
    assert float(root.attrib["width"]) == pytest.approx(900 + 74)
    last = [float(box.attrib["width"]) for box in root.iter(f"{SVG}rect")][-1]
    assert last == pytest.approx(2 * 900 / float(timetable.makespan), abs=0.01)
