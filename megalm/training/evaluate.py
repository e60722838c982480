"""Mean loss on held-out samples, by the same engine as training."""

from megalm import collectives
from megalm.data.loader import ValidationData
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.feed import Feed, count_valid, objective_of


def evaluate(state: Backend, config: RunConfig, held_out: ValidationData) -> float | None:
    """Return the mean loss of the held-out tokens, ``None`` where nothing is held out.

    The same samples are read every time: the first ``train.eval_batches`` global batches of the held-out split.
    """
    feed = Feed(config, state.mesh, held_out, objective_of(config))
    size = config.train.global_batch_size
    total, num_valid = 0.0, 0
    state.model.eval()
    state.mesh.marker.enter("evaluating")
    for step in range(min(config.train.eval_batches, -(-held_out.num_samples // size))):
        microbatches = feed.evaluation_step(step, min(size, held_out.num_samples - step * size))
        loss = state.evaluate(microbatches).cpu()
        collectives.all_reduce(loss, state.mesh.data, scalar=True)
        total += collectives.all_reduce(loss, state.mesh.pp, scalar=True).item()
        num_valid += count_valid([microbatch.labels_bs for microbatch in microbatches], state.mesh.data)
    state.model.train()
    return total / num_valid if num_valid else None
