"""``megalm doctor``: can a run work here, and if not, what to mend?"""

from collections.abc import Iterator
from importlib import import_module

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megalm import doctor_checks
from megalm.doctor_checks import Finding

STYLES = (("ok", "green"), ("absent", "yellow"), ("broken", "bold red"))


def run_doctor(console: Console | None = None) -> int:
    """Look at this machine and installation, print what is there, and say in one sentence whether training can work.

    Args:
        console: where to print: a table on a terminal, plain lines ``state  part  name  value`` otherwise.

    Returns:
        The exit code: 0 if training can work, 1 if something must be mended first.
    """
    console = console or Console()
    found = []
    if console.is_terminal:
        with console.status("looking at this machine"):
            found = list(findings())
        console.print(_table(found))
    else:
        for finding in findings():
            found.append(finding)
            _print(console, f"{finding.state:8}{finding.part:16}{finding.name:14}{finding.value}")
    broken = [finding for finding in found if finding.state == "broken"]
    if broken:
        _print(console, f"Training cannot work here yet. {broken[0].mend}")
        return 1
    _print(console, "Training can work here.")
    return 0


def findings() -> Iterator[Finding]:
    """Yield everything that the doctor looks at, part by part; without torch only what needs none."""
    seen = doctor_checks.versions()
    yield from seen
    if not any(finding.state == "broken" for finding in seen):
        torch = import_module("torch")
        yield from doctor_checks.devices(torch)
        yield from doctor_checks.backends(torch)
        yield from doctor_checks.process_groups(torch)
    yield from doctor_checks.disk()
    yield from doctor_checks.tools()
    yield from doctor_checks.extras()


def _table(found: list[Finding]) -> Table:
    table = Table("part", "what", "found", "")
    styles = dict(STYLES)
    for before, finding in zip([None, *found], found, strict=False):
        first = before is None or before.part != finding.part
        if first and before is not None:
            table.add_section()
        state = Text(finding.state, styles[finding.state])
        table.add_row(finding.part if first else "", finding.name, Text(finding.value), state)
    return table


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.file.flush()
