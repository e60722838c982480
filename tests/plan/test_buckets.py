"""Oracle: the buckets that a run builds, on every rank."""

import pytest

from megalm.mesh import Mesh
from megalm.models.decoder_shape import DecoderShape
from megalm.plan.buckets import bucket_elements, local_tensors
from megalm.run_config import RunConfig
from megalm.training.build import build_state
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA, LLAMA_TIED, NEOX, run_file


def built(context: RankContext, config: RunConfig) -> list[int]:
    state = build_state(config, Mesh.build(config.layout))
    return [bucket.values.tensor.numel() for bucket in state.buckets]


@pytest.mark.parametrize(
    ("model", "layout", "stage"),
    [(GPT2, {"tp": 2}, 0), (LLAMA, {"tp": 4}, 0), (LLAMA_TIED, {"dp": 2, "tp": 2}, 1), (NEOX, {"dp": 3}, 3)],
)
def test_the_planned_buckets_are_the_built_ones(
    ranks: RankPool, model: str, layout: dict[str, int], stage: int
) -> None:
    config = run_file(model, layout=layout, zero={"stage": stage})
    planned = bucket_elements(DecoderShape.of(config.model), config.layout.tp, config.shard_size)
    assert ranks.run(config.layout.world_size, built, config) == [planned] * config.layout.world_size


def test_local_tensors_of_all_ranks_cover_the_model() -> None:
    shape = DecoderShape.of(run_file(GPT2).model)
    whole = [sum(tensor.num_elements for tensor in tensors) for tensors in local_tensors(shape, 1, 0)]
    halves = [
        [sum(tensor.num_elements for tensor in tensors) for tensors in local_tensors(shape, 2, rank)]
        for rank in range(2)
    ]
    replicated = [16 * 40, *[6 * 40] * 2, 2 * 40]  # positions; norms and row-parallel biases; the last norm
    assert [a + b - twice for a, b, twice in zip(*halves, replicated, strict=True)] == whole
