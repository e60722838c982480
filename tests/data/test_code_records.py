"""Oracle: a source file of known functions, and what the interpreter itself says of the standard library's."""

import inspect
import textwrap
from pathlib import Path

from megalm.data.code_records import code_records
from megalm.data.records import Kind

SOURCE = '''
def f(a, b=1, *, c: int) -> str:
    """Say something of
    two lines.

    And more."""

async def g(self): "An asynchronous function."

def short(): "No."

class C:
    def m(self):
        """A method of a class, with a docstring."""
        return "\\d"
'''


def test_functions(tmp_path: Path) -> None:
    path = tmp_path / "x.py"
    path.write_text(SOURCE)
    task = "Write the signature of a Python function that does this."
    assert [record for _, record in code_records("instruct", path)] == [
        {"instruction": task, "input": "Say something of two lines.", "output": "def f(a, b=1, *, c: int) -> str:"},
        {"instruction": task, "input": "An asynchronous function.", "output": "async def g(self):"},
        {"instruction": task, "input": "A method of a class, with a docstring.", "output": "def m(self):"},
    ]
    assert [name for name, _ in code_records("pairs", path)] == ["f", "g", "m"]
    assert next(code_records("pairs", path))[1]["target"] == "def f(a, b=1, *, c: int) -> str:"
    messages = next(code_records("chat", path))[1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert messages[1]["content"] == "def f(a, b=1, *, c: int) -> str:"
    assert messages[3]["content"] == "Say something of two lines."
    assert list(code_records("labelled", path)) == []


def test_packages_are_labels(tmp_path: Path) -> None:
    for folder in ("outer", "outer/inner", "outer/test"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text(SOURCE)
    records = [record for _, record in code_records("labelled", tmp_path / "outer" / "inner" / "__init__.py")]
    assert {record["label"] for record in records} == {"outer"}
    assert len(records) == 4
    assert records[-1]["text"].splitlines()[0] == "def m(self):"
    assert records[-1]["text"].splitlines()[-1] == '    return "\\d"'
    assert list(code_records("labelled", tmp_path / "outer" / "test" / "__init__.py")) == []


def test_files_that_are_broken_have_none(tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("instruct", "labelled")
    for number, content in enumerate((b"def f(:", b"\xff", b"a = 1\x00")):
        (tmp_path / "__init__.py").write_bytes(content)
        assert [list(code_records(kind, tmp_path / "__init__.py")) for kind in kinds] == [[], []], number


def test_the_standard_library_is_told_as_it_is() -> None:
    described = {record["target"]: record["source"] for _, record in code_records("pairs", Path(textwrap.__file__))}
    signature = f"def dedent{inspect.signature(textwrap.dedent)}:"
    assert described[signature] == "Remove any common leading whitespace from every line in `text`."
