"""Keys and values of the tokens that were read already, so that a token costs one row and not its whole past."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


class KeyValueCache:
    """What the attention layers of one rank keep of some sequences, each of its own length.

    Every layer has memory [sequences, local key heads, room, head size] for keys and for values; a sequence's token of
    position p lies at place p. What stands behind a shorter sequence is seen by nobody, and written over later.

    Args:
        num_sequences: how many there are at first.
        room: the longest that a sequence will be.

    Attributes:
        lengths: how many tokens of each sequence are kept.
    """

    def __init__(self, num_sequences: int, room: int) -> None:
        """See the class."""
        self.lengths = [0] * num_sequences
        self._room = room
        self._layers: dict[object, tuple[Tensor, Tensor]] = {}
        self._sources: dict[object, tuple[Tensor, Tensor]] = {}
        self._of_lengths: dict[tuple[str, int], Tensor] = {}
        """What all layers ask for between two changes of the lengths, made once."""

    @property
    def is_new(self) -> bool:
        """Whether nothing was read yet."""
        return not any(self.lengths)

    @property
    def longest(self) -> int:
        """How many tokens of the longest sequence are kept."""
        return max(self.lengths)

    def extended(self, layer: object, k_bshd: Tensor, v_bshd: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the keys and values of new tokens, and return those of all, [sequences, longest, heads, head size].

        Args:
            layer: whose they are.
            k_bshd: new keys, as many for each sequence.
            v_bshd: new values.
        """
        b, s, heads, head_dim = k_bshd.shape
        if layer not in self._layers:
            shape = (b, heads, self._room, head_dim)
            self._layers[layer] = (k_bshd.new_empty(shape), v_bshd.new_empty(shape))
        longest = self.longest
        found = []
        for kept_bhsd, new_bshd in zip(self._layers[layer], (k_bshd, v_bshd), strict=True):
            if self._is_even:
                kept_bhsd[:, :, longest : longest + s] = new_bshd.transpose(1, 2)
            else:
                rows = torch.arange(b, device=k_bshd.device).unsqueeze(1)
                kept_bhsd[:, :, longest : longest + s] = 0  # unseen, but 0 times what is not a number would be none
                kept_bhsd[rows, :, self.places(s, k_bshd.device)] = new_bshd
            found.append(kept_bhsd[:, :, : longest + s].transpose(1, 2))
        return found[0], found[1]

    def of_source(self, layer: object, make: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Return the keys and values, rows [sequences x s, features], of what an encoder read for the sequences.

        Args:
            layer: whose they are.
            make: gives them when the layer asks for the first time.
        """
        if layer not in self._sources:
            self._sources[layer] = make()
        return self._sources[layer]

    def hides(self, num_new: int) -> bool:
        """Tell whether ``num_new`` tokens of each sequence see otherwise than by their order alone.

        They do not where the sequences are new, or where there is one new token for sequences of one length: it is the
        last of each, and sees all.
        """
        return not self.is_new and not (self._is_even and num_new == 1)

    def places(self, num_new: int, device: torch.device) -> Tensor:
        """Return the places int64 [sequences, num_new] of new tokens."""

        def make() -> Tensor:
            return torch.tensor(self.lengths, device=device).unsqueeze(1) + torch.arange(num_new, device=device)

        return self._once("places", num_new, make)

    def visible(self, num_new: int, device: torch.device) -> Tensor:
        """Return bool [sequences, num_new, longest]: which keys each new token sees, those up to its own."""

        def make() -> Tensor:
            keys = torch.arange(self.longest + num_new, device=device)
            return keys <= self.places(num_new, device).unsqueeze(2)

        return self._once("visible", num_new, make)

    def advance(self, counts: Sequence[int]) -> None:
        """Take so many new tokens of each sequence as kept, when all layers have them."""
        self._change([length + count for length, count in zip(self.lengths, counts, strict=True)])

    def cut(self, lengths: Sequence[int]) -> None:
        """Forget what stands behind so many tokens of each sequence."""
        self._change([min(length, most) for length, most in zip(self.lengths, lengths, strict=True)])

    def select(self, parents: Sequence[int]) -> None:
        """Let sequence i be what sequence ``parents[i]`` was."""
        if list(parents) == list(range(len(self.lengths))):
            return
        count, longest = len(self.lengths), self.longest
        for layer, (k_bhsd, v_bhsd) in self._layers.items():
            index = torch.tensor(parents, device=k_bhsd.device)
            self._layers[layer] = (_selected(k_bhsd, index, longest), _selected(v_bhsd, index, longest))
        for layer, (k, v) in self._sources.items():
            index = torch.tensor(parents, device=k.device)
            self._sources[layer] = (_selected_rows(k, index, count), _selected_rows(v, index, count))
        self._change([self.lengths[parent] for parent in parents])

    def _change(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self._of_lengths.clear()

    def _once(self, name: str, num_new: int, make: Callable[[], Tensor]) -> Tensor:
        if (name, num_new) not in self._of_lengths:
            self._of_lengths[name, num_new] = make()
        return self._of_lengths[name, num_new]

    @property
    def _is_even(self) -> bool:
        return len(set(self.lengths)) == 1


def _selected(kept_bhsd: Tensor, index: Tensor, longest: int) -> Tensor:
    """Return memory of the same room with some sequences of another, as far as they reach."""
    made = kept_bhsd.new_empty(len(index), *kept_bhsd.shape[1:])
    made[:, :, :longest] = kept_bhsd[:, :, :longest].index_select(0, index)
    return made


def _selected_rows(rows: Tensor, index: Tensor, num_sequences: int) -> Tensor:
    """Return the rows of some sequences out of those of all, which are equally many each."""
    length = rows.shape[0] // num_sequences
    return rows.view(num_sequences, length, -1).index_select(0, index).flatten(0, 1)
