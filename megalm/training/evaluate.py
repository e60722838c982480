"""Mean loss on held-out samples, by the same engine as training."""

from megalm import collectives
from megalm.data.loader import ValidationData
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.feed import Feed, objective_of


def evaluate(state: Backend, config: RunConfig, held_out: ValidationData) -> float | None:
    """Return the mean loss of the held-out tokens, ``None`` where nothing is held out.

    The same samples are read every time: the first ``train.eval_batches`` global batches of the held-out split.
    """
    feed = Feed(config, state.mesh, held_out, objective_of(config))
    size = config.train.global_batch_size
    num_batches = min(config.train.eval_batches, -(-held_out.num_samples // size))
    batch_sizes = [min(size, held_out.num_samples - step * size) for step in range(num_batches)]
    valid = feed.count_held_out(batch_sizes)
    total = 0.0
    state.model.eval()
    state.mesh.marker.enter("evaluating")
    for step, batch_size in enumerate(batch_sizes):
        loss = state.evaluate(feed.evaluation_step(step, batch_size, valid)).cpu()
        collectives.all_reduce(loss, state.mesh.data, scalar=True)
        total += collectives.all_reduce(loss, state.mesh.pp, scalar=True).item()
    state.model.train()
    return total if any(valid) else None
