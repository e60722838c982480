"""DeepSpeed's stage 3 with values and moments in files: one group of them after the other is in memory.

DeepSpeed cuts what a rank owns into groups, and reads them from the disk one by one when it updates. What it does not
compile a reader for, and groups of less than 1 MiB, stay in memory. Rajbhandari et al. 2021, "ZeRO-Infinity".
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megalm.errors import UserError
from megalm.extras import import_extra

GROUP_SIZE = 50_000_000
"""Elements of a group at most, if no single parameter has more: four buffers of as many are what stays in memory."""


def file_options(path: str) -> dict[str, Any]:
    """Return what DeepSpeed's configuration of ZeRO says of files.

    Args:
        path: the directory that they are in.
    """
    return {"offload_optimizer": {"device": "nvme", "nvme_path": path}, "sub_group_size": GROUP_SIZE}


def check_files(path: str) -> None:
    """Refuse what DeepSpeed would fail at later.

    Raises:
        UserError: its reads and writes cannot be compiled, or the directory cannot be made.
    """
    builders: Any = import_extra("deepspeed", "zero.offload: nvme", "deepspeed.ops.op_builder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # DeepSpeed still compiles its trial by distutils
        compiles = builders.AsyncIOBuilder().is_compatible()
    if not compiles:
        raise UserError(
            "zero.offload=nvme reads and writes by libaio, and a program that uses it cannot be compiled here; install "
            "its headers and a C++ compiler (Debian and Ubuntu: apt-get install libaio-dev g++), or set "
            "zero.offload=cpu."
        )
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"zero.offload_path={path} cannot be made ({error.strerror}); name a directory of a local disk to which "
            "you may write."
        ) from error


@contextmanager
def in_memory(optimizer: Any, group: int, *, changes_state: bool = False) -> Iterator[None]:
    """Have a group in memory; its gradients are written back after that.

    Args:
        optimizer: DeepSpeed's for stage 3.
        group: its position; nothing is to be done where it is not in files.
        changes_state: whether values and moments are written back too.
    """
    if not optimizer._swappable_optimizer_subgroup(group):
        yield
        return
    optimizer._optimizer_states_and_gradient_swap_in(group)
    try:
        yield
    finally:
        optimizer._writeback_swap_state(group, write_opt_state=changes_state, write_gradients=True)
