"""The entry of the command line: exit codes, and errors as one sentence.

0 complete, 1 a failure or a verify mismatch, 2 what the user can mend, 75 preempted and saved, 130 Ctrl-C.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from megalm.errors import SaidByAnother
from megalm.launcher.exit_codes import FAILED, REFUSED
from megalm.launcher.parent import die_with
from megalm.launcher.placement import LOCAL_LAUNCHER
from megalm.launcher.torchrun.notes import AGENT, Notes
from megalm.launcher.verdict import said_of, tell


def main() -> NoReturn:
    """Run the ``megalm`` command and end the process with its exit code."""
    for parent in (LOCAL_LAUNCHER, AGENT):
        if parent in os.environ:
            die_with(int(os.environ[parent]))
    code = run(sys.argv[1:], os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    if code and "torch" in sys.modules:  # its threads may hang or abort at the interpreter's end, if ranks are gone
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str], env: Mapping[str, str]) -> int:
    """Carry out one command and return its exit code.

    A rank of a local run tells its launcher why it failed; every other process tells the screen.
    """
    try:
        from megalm.cli.app import invoke  # inside, so that Ctrl-C during the imports is one line too

        code = invoke(arguments)
    except SystemExit as error:  # a rank whose end is told already
        return _refused(env) if error.code == REFUSED else error.code if isinstance(error.code, int) else FAILED
    except BrokenPipeError:  # the reader of our output, head for example, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except (Exception, KeyboardInterrupt) as error:
        said = said_of(error)
        if not tell(*said, env) and not isinstance(error, SaidByAnother):
            text = said.text if said.kind == "crashed" else f"megalm: {' '.join(said.text.split())}"
            print(text, file=sys.stderr, flush=True)
        return _refused(env) if said.code == REFUSED else said.code
    tell("finished", code, "", env)
    return code


def _refused(env: Mapping[str, str]) -> int:
    """Let the launcher know, through an agent that sees only a failure, that starting again will not help."""
    notes = Notes.of(env)
    if notes is not None:
        notes.refuse()
    return REFUSED
