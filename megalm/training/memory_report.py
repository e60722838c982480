"""What takes the memory of each rank: planned on paper, and measured on the live tensors of a run's first step."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from megalm import collectives
from megalm.plan.rank_memory import QUANTITIES, planned_memory
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.backends.foreign import Foreign
from megalm.training.build import TrainingState
from megalm.training.held_bytes import held_bytes, host_bytes, storage_bytes
from megalm.training.live_memory import LiveMemory
from megalm.training.memory import peak_resident_bytes
from megalm.training.memory_table import Row


class MemoryReport:
    """Measures this rank in the first step, and tells of all ranks.

    Args:
        config: the run.
        state: of any engine; a foreign one is measured as far as it shows what this rank owns.
    """

    def __init__(self, config: RunConfig, state: Backend) -> None:
        """See the class."""
        self._config, self._state = config, state
        self._live = LiveMemory(state) if isinstance(state, TrainingState) else None
        self._is_done = False

    @contextmanager
    def first_step(self) -> Iterator[None]:
        """Count within this context, the first time that it is entered."""
        if self._live is None or self._is_done:
            yield
            return
        self._is_done = True
        with self._live.counting():
            yield

    def rows(self) -> list[Row]:
        """Return what every rank holds, by rank; each of them calls this after its first step."""
        mesh = self._state.mesh
        return collectives.gather_objects(self._row(), mesh.world, mesh.device)

    def _row(self) -> dict[str, Any]:
        mesh, program, smallest = self._state.mesh, None, None
        if self._live is None:
            found = _of_foreign(self._state)
        else:
            found = _of_native(self._live)
            program = self._live.state.programs.training(self._config.num_microbatches)
            host = self._live.state.host
            smallest = None if host is None else host.smallest
        plan = planned_memory(self._config, mesh.coordinates, program, mesh.device.type, smallest)
        return {
            "rank": mesh.rank,
            "coordinates": mesh.coordinates._asdict(),
            "planned": {name: plan.planned.get(name) for name in QUANTITIES},
            "measured": {name: found.get(name) for name in QUANTITIES},
            "unknown": dict(plan.unknown),
            "padding": plan.padding,
            "peak_resident": peak_resident_bytes(),
            "peak_device": torch.cuda.max_memory_allocated() if mesh.device.type == "cuda" else None,
        }


def _of_native(live: LiveMemory) -> dict[str, int]:
    kept = held_bytes(live.state)
    return {
        "parameters": kept.parameters,
        "gradients": kept.gradients,
        "optimizer": kept.optimizer,
        "activations": live.activations,
        "buffers": storage_bytes(live.state.held.buffers()),
        "gathered": live.gathered,
        "under_way": live.under_way,
        "host_optimizer": host_bytes(live.state).total,
        "host_activations": live.host_activations,
    }


def _of_foreign(state: Backend) -> dict[str, int]:
    """Return what this rank owns, as the engine shows it; copies of what others own are not seen."""
    values = list(_stored(state))
    shares = list(state.shares()) if isinstance(state, Foreign) else []
    return {
        "parameters": _elements(tensor for name, tensor in values if not name.startswith("optimizer.")),
        "gradients": _elements(share.gradient for share in shares if share.gradient is not None),
        "optimizer": _elements(tensor for name, tensor in values if name.startswith("optimizer.")),
    }


def _stored(state: Backend) -> Iterator[tuple[str, Tensor]]:
    for each in state.stored():
        for _, values in each.boxes:
            yield each.name, values


def _elements(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
