"""Updates by a rule whose state is kept in 8 bits: pieces of it become wide, are updated, and become codes again.

A value is changed by the wide state of its step, before that is rounded. Each block's numbers are divided by the
largest among them, its absmax, and rounded to the nearest number of the dynamic map. Where a block is cut, its absmax
must be known before any part of it can be rounded; so the tiles that have such parts are updated twice, the first time
only for their largest numbers, of which all holders then take the largest. No wide state outlives its tile.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm.mesh import Axis
from megalm.optim.cut_blocks import CutBlocks
from megalm.optim.dynamic_map import DynamicMap
from megalm.optim.quantized_state import QuantizedState, Tile
from megalm.optim.rule import QuantizedRule
from megalm.param_spec import aligned


@dataclass(frozen=True)
class _Work:
    """A tile to be updated.

    Args:
        tile: which part of a matrix.
        state: of its bucket.
        rate: the factor of its learning rate.
        cut: which of its blocks other ranks have parts of.
        listed: where these are in the list of cut blocks.
    """

    tile: Tile
    state: QuantizedState
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
        self.buckets = [state.bucket for state in states]
        self._rule, self._states, self._rates = rule, states, rates
        self._some = states[0].bucket.owned_values[:0] if states else torch.empty(0)
        device = self._some.device
        self._maps = {name: DynamicMap(signed=rule.signed[name], device=device) for name in rule.state_names}
        self._cut = CutBlocks(states, holders, positions)
        self._work: list[_Work] = []
        for state, rate, owned, listed in zip(states, rates, self._cut.owned, self._cut.listed, strict=True):
            for tile in state.tiles():
                low, high = torch.searchsorted(owned, torch.tensor([tile.absmax.start, tile.absmax.stop])).tolist()
                cut = (owned[low:high] - tile.absmax.start).to(device)
                self._work.append(_Work(tile, state, rate, cut, listed[low:high].to(device)))
        self._room = max((aligned(work.tile.num_elements) for work in self._work), default=0)

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        scratch = {name: self._some.new_empty(self._room) for name in ("values", "gradients", *self._maps)}
        maxima = self._cut.new_maxima(len(self._maps), self._some)
        for work in self._work:
            if len(work.cut):
                self._turn(work, scratch, lr, step)
                for number, absmax in enumerate(self._absmax(work, scratch)):
                    maxima[work.listed, number] = absmax[work.cut]
        self._cut.reduce(maxima)
        for work in self._work:
            values = self._turn(work, scratch, lr, step)
            work.state.bucket.owned_values[work.tile.span] = values
            for number, (name, absmax) in enumerate(zip(self._maps, self._absmax(work, scratch), strict=True)):
                absmax[work.cut] = maxima[work.listed, number]
                self._keep(work, name, scratch[name], absmax)
        for state, rate in zip(self._states, self._rates, strict=True):
            self._update_vectors(state, lr * rate, step)

    def _turn(self, work: _Work, scratch: Mapping[str, Tensor], lr: float, step: int) -> Tensor:
        """Update a tile in scratch memory, its state there becomes wide; return the values, and change nothing else.

        Kernels may treat the elements left over at the end of a range otherwise in the last bit; so whole vectors of
        them are given, whatever the tile's length.
        """
        tile, bucket, size = work.tile, work.state.bucket, work.tile.num_elements
        part = {name: tensor[: aligned(size)] for name, tensor in scratch.items()}
        for tensor in part.values():
            tensor[size:].zero_()
        part["values"][:size] = bucket.owned_values[tile.span]
        part["gradients"][:size] = bucket.owned_gradients[tile.span]
        for name, dynamic_map in self._maps.items():
            part[name][:size] = dynamic_map.numbers(work.state[f"{name}_codes"][tile.codes])
            for numbers, absmax in tile.by_block(part[name][:size], work.state[f"{name}_absmax"][tile.absmax]):
                numbers.mul_(absmax)
        self._rule.update(
            part["values"],
            part["gradients"],
            {name: part[name] for name in self._maps},
            lr=lr * work.rate,
            decay=tile.decay,
            step=step,
        )
        return part["values"][:size]

    def _absmax(self, work: _Work, scratch: Mapping[str, Tensor]) -> Iterator[Tensor]:
        """Yield of each name the largest wide number of every block of a tile, as far as the tile has it."""
        for name in self._maps:
            found = self._some.new_empty(work.tile.absmax.stop - work.tile.absmax.start)
            for numbers, absmax in work.tile.by_block(scratch[name][: work.tile.num_elements], found):
                torch.amax(numbers.abs(), -1, keepdim=True, out=absmax)
            yield found

    def _keep(self, work: _Work, name: str, wide: Tensor, absmax: Tensor) -> None:
        """Round wide numbers to codes."""
        tile = work.tile
        work.state[f"{name}_absmax"][tile.absmax] = absmax
        divisors = work.state[f"{name}_absmax"][tile.absmax]
        divisors = divisors.masked_fill(divisors == 0, 1.0)
        quotients = wide[: tile.num_elements]
        for numbers, divisor in tile.by_block(quotients, divisors):
            numbers.div_(divisor)
        work.state[f"{name}_codes"][tile.codes] = self._maps[name].codes(quotients.float())

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
