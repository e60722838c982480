"""Oracle: docs/run-file.md as it is in the repository, and the keys of the config classes."""

from pathlib import Path

from megalm.cli.reference import run_file_reference
from megalm.run_config import RunConfig
from megalm.validation import dotted_keys

PAGE = Path(__file__).parents[2] / "docs" / "run-file.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == run_file_reference() + "\n", "run: make docs"


def test_every_key_has_a_row() -> None:
    page = run_file_reference()
    sections = set(RunConfig.model_fields)
    for key in dotted_keys(RunConfig):
        if key not in sections:
            assert f"| `{key.replace('.0.', '[].')}` |" in page, key
