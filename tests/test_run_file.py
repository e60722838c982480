"""Oracle: the YAML 1.2 core schema, and JSON's notion of a plain value."""

import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megalm.errors import UserError
from megalm.run_file import parse, read, write


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("-7", -7),
        ("0o17", 15),
        ("yes", "yes"),
        ("on", "on"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("'5'", "5"),
        ("~", None),
        ("", None),
        ("{a: [1, true]}", {"a": [1, True]}),
        ("a: &x {b: 1}\nc: *x", {"a": {"b": 1}, "c": {"b": 1}}),
        ("c: {<<: {a: 1}, b: 2}", {"c": {"a": 1, "b": 2}}),
    ],
)
def test_text_means_what_yaml_1_2_says(text: str, value: object) -> None:
    parsed = parse(text, "here")
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", 'line 2: found duplicate key "a"'),
        ("a: [1", "line 1"),
        ("a: .inf", "a must be a finite number"),
        ("a: [.nan]", "a.0 must be a finite number"),
        ("a: 1e999", "a must be a finite number"),
        ("a: 99999999999999999999", "a is a number beyond 64 bits"),
        ("a: " + "9" * 5000, "cannot be read as YAML"),
        ("a: " + "b" * 1001, "a is text of more than 1000 letters"),
        ("b" * 101 + ": 1", "which is no name"),
        ("1: a", "has the key 1"),
        ("{[a]: b}", "has the key ('a',)"),
        ("a: !!binary aGk=", "a is a YAML bytes"),
        ("a: !!set {b, c}", "a is a YAML set"),
        ("a: !!python/object:os.system x", "line 1"),
        ("a: !!int x", "cannot be read as YAML"),
        ("a: &x [*x]", "is nested more than"),
        ("[" * 3000, "cannot be read as YAML"),
        ('a: "\\ud800"', "a holds a character that cannot be printed"),
        ('a: "\\0"', "a holds a character that cannot be printed"),
        ("a: |\n  two\n  lines", "a holds a character that cannot be printed"),
        ("a: 1\n---\nb: 2", "line 2"),
        ("x: *nowhere", "line 1"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n"
            + "\n".join(
                f"{name}: &{name} [{', '.join(['*' + below] * 10)}]"
                for below, name in zip("abcdefg", "bcdefgh", strict=True)
            ),
            "holds more than",
        ),
    ],
)
def test_what_is_no_plain_yaml_is_refused_in_one_line(text: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(text, "here")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "is empty"), (b"# nothing\n", "is empty"), (b"- a\n", "holds no sections"), (b"\xff\xfe", "is not UTF-8")],
)
def test_a_file_without_sections_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=said):
        read(path)


@pytest.mark.parametrize("name", ["missing.yaml", "", "a\0b"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot read the run file"):
        read(tmp_path / name)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S"])),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.sampled_from("abcxyz"), below, max_size=3),
    max_leaves=8,
)


# The first draw makes tables of all characters.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from("abc"), plain, max_size=3))
def test_what_is_written_reads_back_equal(tree: dict[str, object]) -> None:
    assert parse(write(tree), "here") == tree


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_every_digit_and_reads_as_a_number_in_yaml_1_1_too(value: float) -> None:
    text = write({"a": value}).removeprefix("a: ").strip()
    assert float(text) == value
    assert math.copysign(1, float(text)) == math.copysign(1, value)
    assert "." in text
