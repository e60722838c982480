"""The files of ``launch/``, which people copy and the launchers fill in: each exists once.

In a checkout they lie at its top, where a person finds them. ``setup.py`` puts them into the package when it builds one
to install, since an installed package has no top level of its own.
"""

from importlib import resources
from pathlib import Path

from megalm.errors import UserError

FOLDER = "launch"


def template(name: str) -> str:
    """Return the text of a file of ``launch/``.

    Raises:
        UserError: it is not there.
    """
    installed = resources.files("megalm") / FOLDER / name
    checkout = Path(__file__).parents[2] / FOLDER / name
    for place in (installed, checkout):
        if place.is_file():
            return place.read_text(encoding="utf-8")
    raise UserError(f"{FOLDER}/{name} is missing from this installation; install megalm anew.")


def read(path: Path) -> str:
    """Return the text of a template of the user's own.

    Raises:
        UserError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the template {path} cannot be read ({error}); name a file like {FOLDER}/{path.name}."
        ) from error
