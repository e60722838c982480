"""fairscale's FSDP without a GPU: it orders its work by CUDA streams, of which a CPU needs none."""

import sys
from contextlib import nullcontext
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BUCKETS = "fairscale.internal.reduce_scatter_bucketer"
"""Where gradients are reduced: by a collective to which it gives a shape that only nccl takes, unless told not to."""


class OneStream(torch.Stream):
    """The one order in which a CPU works."""

    def wait_stream(self, other: object) -> None:
        """Do nothing: what came before is done."""

    def synchronize(self) -> None:
        """Do nothing: what came before is done."""


class OneStreamCuda:
    """The part of ``torch.cuda`` that FSDP asks for."""

    def __init__(self) -> None:
        """See the class."""
        self._stream = OneStream(device="cpu")

    def is_available(self) -> bool:
        """Say that there are streams."""
        return True

    def current_stream(self) -> OneStream:
        """Return the only one."""
        return self._stream

    def Stream(self) -> OneStream:
        """Return the only one."""
        return self._stream

    def stream(self, stream: OneStream) -> nullcontext[None]:
        """Go on."""
        return nullcontext()

    def synchronize(self) -> None:
        """Do nothing."""


class TorchOnCpu(ModuleType):
    """``torch`` with other streams, as one module of fairscale sees it; what it holds lives as long."""

    def __init__(self) -> None:
        """See the class."""
        super().__init__("torch")
        self.cuda = OneStreamCuda()
        self._kernels = torch.library.Library("aten", "IMPL")
        if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::record_stream", "CPU"):
            self._kernels.impl("record_stream", _remember_nothing, "CPU")

    def __getattr__(self, name: str) -> Any:
        """Return what torch has."""
        return getattr(torch, name)


def _remember_nothing(tensor: Tensor, stream: torch.Stream) -> None:
    """Memory of a CPU is not reused before the work on it is done."""


def let_run_on_cpu(module: ModuleType) -> None:
    """Give fairscale's FSDP module streams that order nothing, once; the rest of torch stays as it is.

    Args:
        module: ``fairscale.nn.data_parallel.fully_sharded_data_parallel``, imported.
    """
    sys.modules[BUCKETS].enable_nccl_base_collectives = False  # type: ignore[attr-defined]
    if not isinstance(module.torch, TorchOnCpu):
        module.torch = TorchOnCpu()  # type: ignore[attr-defined]
