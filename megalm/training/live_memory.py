"""What a rank holds while a step runs, at most between two of its actions: counted, not estimated.

Activations are what is kept for backwards, each storage once, parameters and buffers left out: what autograd and stages
save, which passes through hooks, and what put-off products hold, for which stages are asked. Nothing lives longer for
it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from megalm.parallel.pipeline.action import COMPUTE, Action, Kind
from megalm.saved_tensors import storage_id
from megalm.training.build import TrainingState


class LiveMemory:
    """Counts during a step.

    Args:
        state: of our own engine.

    Attributes:
        state: as given.
        activations: the most bytes that were kept for backwards on the device.
        host_activations: the most that were on the host.
        gathered: the most bytes of values that were whole at stage 3.
        under_way: the most bytes of gradients from stage 2 on that were not in their owners' ranges yet.
    """

    def __init__(self, state: TrainingState) -> None:
        """See the class."""
        self.activations = self.host_activations = self.gathered = self.under_way = 0
        self.state = state
        self._ignored = {storage_id(tensor) for tensor in (*state.held.parameters(), *state.held.buffers())}
        self._saved: dict[int, _Saved] = {}

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the engine does within this context; another that records it goes on being told."""
        engine = self.state.engine
        told = engine.record

        def record(action: Action, start: float, end: float) -> None:
            self._look(action)
            if told is not None:
                told(action, start, end)

        engine.record = record
        try:
            with saved_tensors_hooks(lambda tensor: _Held(tensor.detach(), self._saved), lambda held: held.tensor):
                yield
        finally:
            engine.record = told

    def _look(self, action: Action) -> None:
        if action.kind in COMPUTE and not self._is_amid(action):
            self.activations = max(self.activations, self._kept())
            on_host = sum(stage.bytes_on_host for stage in self.state.engine.stages.values())
            self.host_activations = max(self.host_activations, on_host)
        shared = [bucket for bucket in self.state.buckets if bucket.zero_stage >= 2]
        gathered = sum(bucket.values.num_bytes for bucket in shared if bucket.zero_stage == 3)
        made = sum(bucket.gradients.num_bytes for bucket in shared)
        self.gathered = max(self.gathered, gathered)
        if shared:
            self.under_way = max(self.under_way, made + self.state.exchange.bytes_under_way)

    def _is_amid(self, action: Action) -> bool:
        """Whether blocks of the same stage follow in the same pass."""
        last = len(self.state.engine.stages[action.stage].blocks) - 1 if action.kind is Kind.FORWARD else 0
        return action.block not in (None, last)

    def _kept(self) -> int:
        found = {place: saved.num_bytes for place, saved in self._saved.items()}
        for stage in self.state.engine.stages.values():
            found.update((storage_id(tensor), tensor.untyped_storage().nbytes()) for tensor in stage.holds())
        return sum(size for place, size in found.items() if place not in self._ignored)


class _Saved:
    """A storage that autograd keeps: its bytes, and how often it is kept."""

    def __init__(self, num_bytes: int) -> None:
        self.num_bytes, self.times = num_bytes, 0


class _Held:
    """One tensor that autograd has saved, until it lets it go."""

    def __init__(self, tensor: Tensor, saved: dict[int, _Saved]) -> None:
        self.tensor, self._saved, self._place = tensor, saved, storage_id(tensor)
        entry = saved.setdefault(self._place, _Saved(tensor.untyped_storage().nbytes()))
        entry.times += 1

    def __del__(self) -> None:
        entry = self._saved[self._place]
        entry.times -= 1
        if not entry.times:
            del self._saved[self._place]
