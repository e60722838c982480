"""How many bytes a rank's parameters, gradients and optimizer state take, counted on the live tensors."""

from collections.abc import Iterable

from torch import Tensor

from megalm.plan.memory import KeptBytes
from megalm.training.build import TrainingState


def held_bytes(state: TrainingState) -> KeptBytes:
    """Return what this rank holds now: each storage once, frozen parameters and padding included."""
    seen: set[int] = set()
    values = [bucket.values.tensor for bucket in state.buckets] + [bucket.shard for bucket in state.buckets]
    values += [parameter for parameter in state.held.parameters() if not parameter.requires_grad]
    gradients = [bucket.owned_gradients for bucket in state.buckets]
    kept = [tensor for state in state.optimizer.state for tensor in state.values()]
    kept += [bucket.owned_values for bucket in state.buckets]
    parameters = _storages(values, seen)
    sums = _storages(gradients, seen) + sum(
        bucket.gradients.num_bytes for bucket in state.buckets if bucket.zero_stage >= 2
    )
    return KeptBytes(parameters, sums, _storages(kept, seen))


def _storages(tensors: Iterable[Tensor], seen: set[int]) -> int:
    total = 0
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.nbytes() and storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            total += storage.nbytes()
    return total
