"""torchrun's agent as ``megalm launch torchrun`` starts it: it dies with the launcher, and fails with one sentence.

``python -m megalm.launcher.torchrun.agent`` takes the arguments of ``python -m torch.distributed.run``.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousClosedError,
    RendezvousConnectionError,
    RendezvousError,
    RendezvousTimeoutError,
)
from torch.distributed.run import main as torchrun

from megalm.launcher.exit_codes import SIGNALLED
from megalm.launcher.parent import die_with
from megalm.launcher.torchrun.notes import AGENT
from megalm.launcher.torchrun.rendezvous import register

CAUSES = {
    RendezvousConnectionError: "the machine where the nodes meet is gone, or cannot be reached",
    RendezvousClosedError: "the other nodes have ended the run already",
    RendezvousTimeoutError: "too few nodes came in time",
}


def run(arguments: Sequence[str]) -> int:
    """Run torchrun and return its exit code; say why the nodes did not meet."""
    try:
        torchrun(arguments)
    except ChildFailedError:  # a rank has said why
        return 1
    except SignalException as error:
        return SIGNALLED + error.sigval
    except RendezvousError as error:
        cause = CAUSES.get(type(error), str(error).splitlines()[0])
        endpoint = next(word.partition("=")[2] for word in arguments if word.startswith("--rdzv-endpoint="))
        print(
            f"megalm: torchrun's nodes do not meet at {endpoint}: {cause}; start the same command on all nodes again.",
            file=sys.stderr,
            flush=True,
        )
        return 1
    return 0


def main() -> NoReturn:
    """Run torchrun below the launcher and end this process with its exit code."""
    die_with(os.getppid())
    os.environ[AGENT] = str(os.getpid())
    logging.getLogger("torch.distributed.elastic").setLevel(os.environ["LOGLEVEL"])
    register()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
