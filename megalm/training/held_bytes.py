"""How many bytes a rank's parameters, gradients and optimizer state take, counted on the live tensors."""

from collections.abc import Iterable

from torch import Tensor

from megalm.plan.memory import KeptBytes
from megalm.training.build import TrainingState


def held_bytes(state: TrainingState) -> KeptBytes:
    """Return what this rank holds on its device now: each storage once, frozen parameters and padding included."""
    seen: set[int] = set()
    values = [bucket.values.tensor for bucket in state.buckets] + [bucket.shard for bucket in state.buckets]
    values += [parameter for parameter in state.held.parameters() if not parameter.requires_grad]
    gradients = [bucket.owned_gradients for bucket in state.buckets]
    parameters = storage_bytes(values, seen)
    sums = storage_bytes(gradients, seen) + sum(
        bucket.gradients.num_bytes for bucket in state.buckets if bucket.zero_stage >= 2
    )
    return KeptBytes(parameters, sums, storage_bytes(_updated(state, offloaded=False), seen))


def host_bytes(state: TrainingState) -> KeptBytes:
    """Return what this rank holds on the host because it is offloaded; activations come and go."""
    copies = [bucket.owned_gradients for bucket in state.optimizer.updated if bucket.host is not None]
    return KeptBytes(0, storage_bytes(copies), storage_bytes(_updated(state, offloaded=True)))


def _updated(state: TrainingState, *, offloaded: bool) -> list[Tensor]:
    """Return master copies and what the rule keeps, of the buckets that are offloaded or of the others."""
    return [
        tensor
        for bucket, kept in zip(state.buckets, state.optimizer.state, strict=True)
        if (bucket.host is not None) == offloaded
        for tensor in (*kept.values(), bucket.owned_values)
    ]


def storage_bytes(tensors: Iterable[Tensor], seen: set[int] | None = None) -> int:
    """Return the bytes of the storages that tensors lie in, each once.

    Args:
        tensors: some may share a storage.
        seen: storages that were counted before, by address; those of ``tensors`` are added.
    """
    seen = set() if seen is None else seen
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
