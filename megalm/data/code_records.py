"""Records made of Python sources: functions with what their docstrings say of them, so that no download is needed.

=========  =====================================================================================
instruct   asks for the signature of a function that does what the docstring's first sentence says
chat       asks for that, and then back: what the function does
pairs      from the sentence to the signature
labelled   the source of a function, and the package that it is from; modules outside a package, and
           tests, are left out
=========  =====================================================================================
"""

import ast
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path

from megalm.data.records import Kind, Record

SHORTEST_SENTENCE = 20
LONGEST_SENTENCE = 300
TASK = "Write the signature of a Python function that does this."
QUESTION = "And what does it do?"
Function = ast.FunctionDef | ast.AsyncFunctionDef


def code_records(kind: Kind, path: Path) -> Iterator[tuple[str, Record]]:
    """Yield the records that a Python file gives, each with the name of its function; a file that is broken has none.

    Raises:
        OSError: the file cannot be read.
    """
    package = _package(path)
    if kind == "labelled" and (package is None or {"test", "tests"}.intersection(path.parts)):
        return
    try:
        text = path.read_bytes().decode().replace("\r\n", "\n").replace("\r", "\n")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that old code has
            tree = ast.parse(text)
    except (ValueError, SyntaxError, RecursionError):
        return
    lines = text.split("\n")
    for node in ast.walk(tree):
        if not isinstance(node, Function):
            continue
        if kind == "labelled" and package is not None:
            source = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
            yield node.name, {"text": source, "label": package}
        elif (sentence := _sentence(node)) is not None:
            yield node.name, _described(kind, sentence, _signature(node))


def _described(kind: Kind, sentence: str, signature: str) -> Record:
    match kind:
        case "instruct":
            return {"instruction": TASK, "input": sentence, "output": signature}
        case "pairs":
            return {"source": sentence, "target": signature}
    turns = [("user", f"{TASK} {sentence}"), ("assistant", signature), ("user", QUESTION), ("assistant", sentence)]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def _sentence(node: Function) -> str | None:
    """Return the first paragraph of a docstring in one line, where it is one to learn from."""
    sentence = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return sentence if SHORTEST_SENTENCE <= len(sentence) <= LONGEST_SENTENCE else None


def _signature(node: Function) -> str:
    """Return the line that a function begins with, brought to one form."""
    returns = "" if node.returns is None else f" -> {ast.unparse(node.returns)}"
    word = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    return f"{word} {node.name}({ast.unparse(node.args)}){returns}:"


def _package(path: Path) -> str | None:
    """Return the outermost package that a file lies in."""
    found = None
    for folder in path.parents:
        if not (folder / "__init__.py").is_file():
            break
        found = folder.name
    return found
