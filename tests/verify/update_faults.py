"""Faults of the update: what a rule gets wrong that sees matrices or blocks of which a rank owns only a part."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from unittest import mock

from torch import Tensor

from megalm.mesh import Axis
from megalm.optim import layer_update
from megalm.optim.blocks import Place
from megalm.optim.cut_blocks import CutBlocks
from megalm.optim.layer_update import LayerUpdate
from megalm.parallel.data.bucket import Slot


def _ratios_of_own_slices() -> Any:
    """LAMB's norms are not summed over the tensor ranks."""
    return _lamb_sums_over(lambda axis: axis.name != "tp")


def _ratios_of_own_shard() -> Any:
    """LAMB's norms are not summed over the ranks that own other parts."""
    return _lamb_sums_over(lambda axis: axis.name == "tp")


def _lamb_sums_over(chosen: Callable[[Axis], bool]) -> Any:
    original = LayerUpdate._ratios

    def ratios(self: LayerUpdate, *arguments: Any) -> list[float]:
        self._holders = [axis for axis in self._holders if chosen(axis)]
        return original(self, *arguments)

    return mock.patch.object(LayerUpdate, "_ratios", ratios)


def _ratios_of_vectors() -> Any:
    """LAMB gives norms and biases a ratio too."""
    return mock.patch.object(layer_update, "_grouped", lambda slots: ((True, [slot]) for slot in slots))


def _ratios_count_shared_rows() -> Any:
    """LAMB's norms count the rows that two tensor ranks share once for each."""
    return mock.patch.object(layer_update, "_counted", lambda slot, positions: [(slot.start, slot.stop)])


def _ratios_skip_copies() -> Any:
    """LAMB's norms of a tied copy are not counted where it lies, as if they came from the original's rank."""
    original = layer_update._counted

    def counted(slot: Slot, positions: Mapping[str, int]) -> Iterator[tuple[int, int]]:
        return original(slot, positions) if slot.spec.tied_to is None else iter(())

    return mock.patch.object(layer_update, "_counted", counted)


def _absmax_of_own_slices() -> Any:
    """The largest number of a block of 8-bit state is not taken over the tensor ranks."""
    return _absmax_over(lambda axis: axis.name != "tp")


def _absmax_of_own_shard() -> Any:
    """The largest number of a block of 8-bit state is not taken over the ranks that own other parts."""
    return _absmax_over(lambda axis: axis.name == "tp")


def _absmax_over(chosen: Callable[[Axis], bool]) -> Any:
    original = CutBlocks.reduce

    def reduce(self: CutBlocks, maxima: Tensor) -> None:
        self._holders = [axis for axis in self._holders if chosen(axis)]
        original(self, maxima)

    return mock.patch.object(CutBlocks, "reduce", reduce)


def _local_blocks() -> Any:
    """Blocks of 8-bit state are counted from where a rank's slice of a row begins."""
    grid = Place.grid.fget  # type: ignore[attr-defined]
    return mock.patch.object(Place, "grid", property(lambda place: grid(replace(place, first=0))))


UPDATE_FAULTS: Mapping[str, Callable[[], Any]] = {
    "ratios not summed over tp": _ratios_of_own_slices,
    "ratios of the own shard": _ratios_of_own_shard,
    "ratios of vectors": _ratios_of_vectors,
    "ratios count shared rows twice": _ratios_count_shared_rows,
    "ratios skip tied copies": _ratios_skip_copies,
    "absmax of the own slices": _absmax_of_own_slices,
    "absmax of the own shard": _absmax_of_own_shard,
    "absmax of local blocks": _local_blocks,
}
