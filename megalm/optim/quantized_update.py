"""Updates by a rule whose state is kept in 8 bits: pieces of it become wide, are updated, and become codes again.

A value is changed by the wide state of its step, before that is rounded. Each block's numbers are divided by the
largest among them, its absmax, and rounded to the nearest number of the dynamic map. Where a block is cut, its absmax
must be known before any part of it can be rounded; so the tiles that have such parts are updated twice, the first time
only for their largest numbers, of which all holders then take the largest. No wide state outlives its tile.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm.mesh import Axis
from megalm.optim.cut_blocks import CutBlocks
from megalm.optim.dynamic_map import DynamicMap
from megalm.optim.quantized_state import QuantizedState, Tile
from megalm.optim.rule import QuantizedRule
from megalm.optim.tile_memory import TileMemory, WideTile
from megalm.parallel.data.bucket import Bucket
from megalm.param_spec import aligned


@dataclass(frozen=True)
class _Work:
    """A tile to be updated; all tensors are views of what this rank owns.

    Args:
        tile: which part of a matrix.
        values: flat.
        gradients: flat.
        kept: by name, codes and the absmax of the blocks.
        rate: the factor of its learning rate.
        cut: which of its blocks other ranks have parts of.
        listed: where these are in the list of cut blocks.
    """

    tile: Tile
    values: Tensor
    gradients: Tensor
    kept: Mapping[str, tuple[Tensor, Tensor]]
    rate: float
    cut: Tensor
    listed: Tensor


class QuantizedUpdate:
    """Updates what this rank owns.

    Args:
        rule: the update rule.
        states: of each bucket, whose values and complete gradients they go with.
        rates: of each bucket, the factor of its learning rate.
        holders: the ranks of these axes together own one copy of each parameter.
        positions: this rank's position on each model axis, by name.
    """

    def __init__(
        self,
        rule: QuantizedRule,
        states: Sequence[QuantizedState],
        rates: Sequence[float],
        *,
        holders: Sequence[Axis],
        positions: Mapping[str, int],
    ) -> None:
        """See the class."""
        self.buckets: Sequence[Bucket] = [state.bucket for state in states]
        self._rule, self._states, self._rates = rule, states, rates
        self._some = states[0].bucket.owned_values[:0] if states else torch.empty(0)
        device = self._some.device
        self._maps = {name: DynamicMap(signed=rule.signed[name], device=device) for name in rule.state_names}
        self._cut = CutBlocks(states, holders, positions)
        self._work: list[_Work] = []
        for state, rate, owned, listed in zip(states, rates, self._cut.owned, self._cut.listed, strict=True):
            for tile in state.tiles():
                low, high = torch.searchsorted(owned, torch.tensor([tile.absmax.start, tile.absmax.stop])).tolist()
                work = _Work(
                    tile,
                    state.bucket.owned_values[tile.span],
                    state.bucket.owned_gradients[tile.span],
                    {
                        name: (state[f"{name}_codes"][tile.codes], state[f"{name}_absmax"][tile.absmax])
                        for name in self._maps
                    },
                    rate,
                    (owned[low:high] - tile.absmax.start).to(device),
                    listed[low:high].to(device),
                )
                self._work.append(work)
        self._room = max((aligned(work.tile.num_elements) for work in self._work), default=0)

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        memory = TileMemory(("values", "gradients", *self._maps), self._room, self._some)
        maxima = self._cut.new_maxima(len(self._maps), self._some)
        for work in self._work:
            if len(work.cut):
                wide = self._turn(work, memory, lr, step)
                for number, name in enumerate(self._maps):
                    maxima[work.listed, number] = wide.find_absmax(name)[work.cut]
        self._cut.reduce(maxima)
        for work in self._work:
            wide = self._turn(work, memory, lr, step)
            work.values.copy_(wide.flat["values"])
            for number, (name, dynamic_map) in enumerate(self._maps.items()):
                absmax = wide.find_absmax(name)
                if len(work.cut):
                    absmax[work.cut] = maxima[work.listed, number]
                wide.round(name, *work.kept[name], dynamic_map)
        for state, rate in zip(self._states, self._rates, strict=True):
            self._update_vectors(state, lr * rate, step)

    def _turn(self, work: _Work, memory: TileMemory, lr: float, step: int) -> WideTile:
        """Return a tile with its state wide and all of it updated; the tile itself stays."""
        wide = memory.of(work.tile)
        wide.fill(work.values, work.gradients)
        for name, dynamic_map in self._maps.items():
            wide.widen(name, *work.kept[name], dynamic_map)
        self._rule.update(
            wide.padded["values"],
            wide.padded["gradients"],
            {name: wide.padded[name] for name in self._maps},
            lr=lr * work.rate,
            decay=work.tile.decay,
            step=step,
        )
        return wide

    def _update_vectors(self, state: QuantizedState, lr: float, step: int) -> None:
        for vector in state.vectors:
            if vector.span.start < vector.span.stop:
                self._rule.update(
                    state.bucket.owned_values[vector.span],
                    state.bucket.owned_gradients[vector.span],
                    {name: state[name][vector.wide] for name in self._maps},
                    lr=lr,
                    decay=vector.slot.spec.decay,
                    step=step,
                )
