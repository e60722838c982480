"""The bytes of parameters, gradients and optimizer state that a rank keeps, in closed form.

With Psi parameters over N data-parallel ranks, in float32 with two moments: 16 Psi at stage 0, 8 Psi + 8 Psi / N at 1,
4 Psi + 12 Psi / N at 2, 16 Psi / N at 3; with 16-bit parameters, whose master copy and gradient sums are float32:
18 Psi, 6 Psi + 12 Psi / N, 2 Psi + 16 Psi / N, 18 Psi / N (Rajbhandari et al. 2020, section 5). No torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from megalm.models.decoder_shape import DecoderShape
from megalm.plan.buckets import by_bucket, in_shares, rooms
from megalm.plan.data_exchange import Sharing


@dataclass(frozen=True)
class KeptBytes:
    """What a rank keeps between steps; of its buckets' padding it keeps as much, in proportion.

    Args:
        parameters: the values that the model reads.
        gradients: their sums.
        optimizer: what the update rule keeps, and the master copy of 16-bit parameters.
    """

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.parameters + self.gradients + self.optimizer


@dataclass(frozen=True)
class ElementBytes:
    """Bytes of one element.

    Args:
        value: of a parameter.
        total: of a gradient sum, of a moment and of the master copy: at least four.
        num_moments: tensors that the update rule keeps.
    """

    value: int
    total: int
    num_moments: int

    @property
    def state(self) -> int:
        """Bytes of the optimizer for one parameter."""
        return self.total * (self.num_moments + (self.value < self.total))


def kept_bytes(num_elements: int, sharing: Sharing, size: ElementBytes) -> KeptBytes:
    """Return what a rank keeps of ``num_elements`` parameters, which the shard size divides.

    Args:
        num_elements: with or without padding.
        sharing: the ZeRO stage and its ranks.
        size: of one element.
    """
    share = num_elements // sharing.shard_size
    values = num_elements if sharing.stage < 3 else share
    gradients = num_elements if sharing.stage < 2 else share
    return KeptBytes(values * size.value, gradients * size.total, share * size.state)


def offloaded_bytes(num_elements: int, sharing: Sharing, size: ElementBytes) -> tuple[KeptBytes, KeptBytes]:
    """Return what a rank keeps on its device, and on the host, when what the optimizer updates is offloaded.

    The host has a master copy of all that the rank owns, what the rule keeps of it, and a copy of its gradients; the
    device keeps nothing of the optimizer. See ``kept_bytes``.
    """
    share = num_elements // sharing.shard_size
    on_host = KeptBytes(0, share * size.total, share * size.total * (1 + size.num_moments))
    return replace(kept_bytes(num_elements, sharing, size), optimizer=0), on_host


def buckets_of_rank(
    shape: DecoderShape, tp_size: int, shard_size: int, blocks: Sequence[int], *, apart: bool = False
) -> list[int]:
    """Return the elements of each bucket of a rank, padding included.

    Args:
        shape: the model.
        tp_size: tensor-parallel ranks.
        shard_size: ranks that own a part each.
        blocks: numbers of the blocks that the rank holds: 0 the embedding, then the layers, then the head.
        apart: whether a tied table lies in a bucket of its own, since two ranks of the pipeline hold a copy.
    """
    return [in_shares(sum(sizes), shard_size) for sizes in by_bucket(rooms(shape, tp_size), shape, blocks, apart)]
