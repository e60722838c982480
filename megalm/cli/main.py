"""The entry of the command line: exit codes, and errors as one sentence.

0 complete, 1 a failure or a verify mismatch, 2 what the user can mend, 75 preempted and saved, 130 Ctrl-C.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import NoReturn

from megalm.errors import LostRank, SaidByAnother, TrainingError, UserError
from megalm.launcher.agent import AGENT, Notes
from megalm.launcher.parent import die_with
from megalm.launcher.placement import LOCAL_LAUNCHER
from megalm.launcher.verdict import Kind, tell

REFUSED, INTERRUPTED = 2, 130


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
    except SaidByAnother as error:
        tell("refused", REFUSED, str(error), env)
        return _refused(env)
    except UserError as error:
        _ended("refused", REFUSED, str(error), env)
        return _refused(env)
    except TrainingError as error:
        return _ended("refused", 1, str(error), env)
    except LostRank as error:
        return _ended("lost", 1, str(error), env)
    except SystemExit as error:  # a rank whose end is told already
        return _refused(env) if error.code == REFUSED else error.code if isinstance(error.code, int) else 1
    except KeyboardInterrupt:
        return _ended("interrupted", INTERRUPTED, "interrupted.", env)
    except BrokenPipeError:  # the reader of our output, head for example, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception:
        return _ended("crashed", 1, traceback.format_exc(), env)
    tell("finished", code, "", env)
    return code


def _refused(env: Mapping[str, str]) -> int:
    """Let the launcher know, through an agent that sees only a failure, that starting again will not help."""
    notes = Notes.of(env)
    if notes is not None:
        notes.refuse()
    return REFUSED


def _ended(kind: Kind, code: int, text: str, env: Mapping[str, str]) -> int:
    if not tell(kind, code, text, env):
        print(text if kind == "crashed" else f"megalm: {' '.join(text.split())}", file=sys.stderr, flush=True)
    return code
