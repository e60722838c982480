"""The errors a user can mend."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, told in one sentence: what is wrong and what to do; the command line ends with exit code 2."""


class SaidByAnother(UserError):
    """What another rank finds and tells as well: this one ends with exit code 2 and adds nothing to the screen."""


class TrainingError(Exception):
    """A run that cannot go on (a non-finite loss, a broken checkpoint), told in one sentence; exit code 1."""


class LostRank(Exception):
    """Another rank is gone or silent: what this rank waited for, in one sentence. It is seldom the cause itself."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
