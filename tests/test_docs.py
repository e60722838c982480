"""Oracle: the files of the project, the verbs of the command line and the config classes of the run file."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from megalm.cli.app import app
from megalm.cli.reference import run_file_reference
from megalm.run_config import RunConfig

ROOT = Path(__file__).parents[1]
PLACES = ("*.md", "docs/**/*.md", "docker/**/*.md", "launch/*.md")
PAGES = sorted(page for place in PLACES for page in ROOT.glob(place))
KEY = re.compile(r"`?\b((?:%s)(?:\.[a-z_]+|\.\d+|\[\])+)(?:=|`|\[)" % "|".join(RunConfig.model_fields))  # noqa: UP031
CODE = re.compile(r"```.*?```|`[^`]+`", re.DOTALL)
VERB = re.compile(r"(?:^|`|-m )megalm ([a-z-]+)", re.MULTILINE)
FILES = (".py", ".md", ".yaml")


def keys_of(text: str) -> set[str]:
    """Return the run-file keys that a page names, as ``section.key``."""
    return {match[1] for match in KEY.finditer(text) if not match[1].endswith(FILES)}


def known_keys(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield every key of the run file; those of a list's entries without their position."""
    for name, value in schema.get("properties", {}).items():
        yield f"{path}{name}"
        forms = (value, *value.get("anyOf", ()))
        below = (*forms, *(form.get("items", {}) for form in forms))
        for reference in (form["$ref"] for form in below if "$ref" in form):
            yield from known_keys(root_schema()["$defs"][reference.rpartition("/")[2]], f"{path}{name}.")


def root_schema() -> dict[str, Any]:
    return RunConfig.model_json_schema()


def broken_links(page: Path) -> list[str]:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    return [link for link in links if "://" not in link and not (page.parent / link).exists()]


def unknown_keys(text: str) -> list[str]:
    known = set(known_keys(root_schema()))
    return sorted(key for key in keys_of(text) if re.sub(r"\.\d+|\[\]", "", key) not in known)


def unknown_verbs(text: str) -> list[str]:
    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return sorted({verb for code in CODE.findall(text) for verb in VERB.findall(code)} - set(known))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_only_what_there_is(page: Path) -> None:
    text = page.read_text()
    assert broken_links(page) == []
    assert unknown_keys(text) == []
    assert unknown_verbs(text.split("not yet", 1)[0] if page.name == "README.md" else text) == []


def test_what_there_is_not_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) and [b](page.md#part), `layout.tq=2`, `data.train[].paths`, `megalm plann RUN.yaml`")
    assert broken_links(page) == ["gone.md"]
    assert unknown_keys(page.read_text()) == ["data.train[].paths", "layout.tq"]
    assert unknown_verbs(page.read_text()) == ["plann"]


def test_the_reference_of_the_run_file_is_current() -> None:
    assert (ROOT / "docs" / "run-file.md").read_text() == run_file_reference() + "\n", "run: make docs"


def test_the_example_of_the_api_page_runs() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "python-api.md").read_text(), re.DOTALL)
    exec(compile(example, "docs/python-api.md", "exec"), {"__name__": "example"})


def test_the_map_names_every_folder_of_the_package() -> None:
    shown = (ROOT / "ARCHITECTURE.md").read_text()
    folders = {path.parent.relative_to(ROOT / "megalm").parts[0] for path in (ROOT / "megalm").glob("*/__init__.py")}
    assert sorted(folder for folder in folders if folder not in shown) == []
