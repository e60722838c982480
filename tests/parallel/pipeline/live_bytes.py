"""Counts the bytes that a run keeps for its backwards, each storage once, as autograd and the weight half hold them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from megalm.weight_half import WeightHalf, Work


class LiveBytes:
    """The storages that are held now, and the most that were held at once.

    Args:
        ignored: parameters and other storages that do not count.
    """

    def __init__(self, ignored: Iterator[Tensor]) -> None:
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in ignored}
        self._held: dict[int, list[int]] = {}
        self.now = self.peak = 0

    def hold(self, tensor: Tensor) -> "Held":
        return Held(tensor, self)

    def add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage.data_ptr() in self._ignored:
            return
        entry = self._held.setdefault(storage.data_ptr(), [0, storage.nbytes()])
        entry[0] += 1
        if entry[0] == 1:
            self.now += entry[1]
            self.peak = max(self.peak, self.now)

    def remove(self, tensor: Tensor) -> None:
        place = tensor.untyped_storage().data_ptr()
        if place in self._ignored:
            return
        entry = self._held[place]
        entry[0] -= 1
        if entry[0] == 0:
            self.now -= entry[1]
            del self._held[place]

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what autograd saves within this context."""
        with saved_tensors_hooks(self.hold, lambda held: held.tensor):
            yield


class Held:
    """One use of a tensor, until it is let go."""

    def __init__(self, tensor: Tensor, live: LiveBytes) -> None:
        self.tensor, self._live = tensor.detach(), live
        live.add(self.tensor)

    def __del__(self) -> None:
        self._live.remove(self.tensor)


class CountedHalf(WeightHalf):
    """A weight half whose products count what they hold."""

    def __init__(self, live: LiveBytes) -> None:
        super().__init__()
        self._live = live

    def take(self, work: Work) -> bool:
        return super().take(_Counted(work, self._live)) if self.is_putting_off else False


class _Counted:
    def __init__(self, work: Work, live: LiveBytes) -> None:
        self._work: Callable[[], object] = work
        self._held = [live.hold(work.rows), *(live.hold(gradient) for _, gradient in work.learned)]  # type: ignore[attr-defined]

    def __call__(self) -> object:
        return self._work()
