"""Oracle: one bit that is turned over on one rank by hand; tensors that differ in one bit, or in their order."""

from pathlib import Path
from unittest import mock

import pytest
import torch

from megalm.errors import TrainingError
from megalm.ledger import Ledger
from megalm.mesh import Mesh
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.feed import Feed, objective_of
from megalm.training.loop import train_on
from megalm.training.replicas import Replicas, fingerprint
from megalm.training.step import train_step
from tests.ranks import RankContext, RankPool
from tests.verify.runs import GPT2, LLAMA, run_file, windows_of


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_fingerprint_depends_on_every_bit_and_its_place(dtype: torch.dtype) -> None:
    flat = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    seen = {int(fingerprint(flat))}
    for place in (0, 17, 39):
        for bit in range(8 * flat.element_size()):
            seen.add(int(fingerprint(turned_over(flat.clone(), place, bit))))
    seen.add(int(fingerprint(flat.flip(0))))
    seen.add(int(fingerprint(flat.roll(1))))
    assert len(seen) == 1 + 3 * 8 * flat.element_size() + 2
    assert int(fingerprint(flat)) == int(fingerprint(flat.clone()))
    assert int(fingerprint(flat[:0])) == 0


def turned_over(flat: torch.Tensor, place: int, bit: int) -> torch.Tensor:
    bits = flat.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()])
    width = 8 * flat.element_size()
    bits[place] ^= (1 << bit) - ((1 << width) if bit == width - 1 else 0)
    return flat


def verdict(context: RankContext, config: RunConfig, name: str, sick_rank: int) -> list[str]:
    """Return what is said after a step, and after one bit of a parameter has been turned over on one rank."""
    state = build_state(config, Mesh.build(config.layout, timeout_s=30))
    feed = Feed(config, state.mesh, windows_of(config), objective_of(config))
    replicas = Replicas(state, config.shard_size)
    train_step(state, feed.training_step(0))
    replicas.check(1)
    if context.rank == sick_rank:
        (flat,) = (
            bucket.shard if bucket.zero_stage == 3 else slot.view(bucket.values.tensor).view(-1)
            for bucket in state.buckets
            for slot in bucket.slots
            if slot.spec.name == name
        )
        turned_over(flat, 3, 0)
    try:
        replicas.check(2)
    except TrainingError as error:
        return [str(error)]
    return []


NORM = "model.layers.1.input_layernorm.weight"
UP = "model.layers.0.mlp.up_proj.weight"
TABLE = "model.embed_tokens.weight"


@pytest.mark.parametrize(
    ("model", "sections", "name", "sick_rank", "said"),
    [
        (GPT2, {"layout": {"dp": 3}}, UP, 2, f"{UP} on rank 2 differs from its 2 replicas"),
        (GPT2, {"layout": {"dp": 3}, "zero": {"stage": 2}}, UP, 0, f"{UP} on rank 0 differs from its 2 replicas"),
        (GPT2, {"layout": {"dp": 2, "tp": 2}}, UP, 1, f"{UP} differs between its replicas on ranks 1, 3"),
        (LLAMA, {"layout": {"tp": 3}}, NORM, 1, f"{NORM} on rank 1 differs from its 2 replicas"),
        (GPT2, {"layout": {"pp": 2}}, TABLE, 1, f"{TABLE} differs between its replicas on ranks 0, 1"),
        (
            GPT2,
            {"layout": {"dp": 4}, "zero": {"stage": 3, "shard_size": 2}},
            UP,
            3,
            "differs between its replicas on ranks 1, 3",
        ),
    ],
)
def test_a_bit_that_is_turned_over_is_named_on_all_ranks(
    ranks: RankPool, model: str, sections: dict[str, dict[str, int]], name: str, sick_rank: int, said: str
) -> None:
    config = run_file(model, **sections, train={"precision": "fp32", "micro_batch_size": 3})
    found = ranks.run(config.layout.world_size, verdict, config, name, sick_rank)
    assert found == [found[0]] * len(found)
    ((sentence,),) = {tuple(each) for each in found}
    assert sentence.startswith("step 2: ")
    assert said in sentence


def run_with_drift(context: RankContext, config: RunConfig) -> str:
    """Train; after the third update one bit on rank 1 is wrong."""
    update = TrainingState.update

    def err(state: TrainingState, lr: float) -> None:
        update(state, lr)
        if context.rank == 1 and state.step == 2:
            turned_over(state.buckets[0].values.tensor, 0, 20)

    with mock.patch.object(TrainingState, "update", err), pytest.raises(TrainingError) as refused:
        train_on(config, Mesh.build(config.layout, ledger=Ledger(), timeout_s=30), "drifting")
    return str(refused.value)


def test_a_run_ends_before_it_saves_what_has_drifted(ranks: RankPool, tmp_path: Path) -> None:
    """Oracle: the step after which the bit was turned over, and the checkpoints that there are."""
    config = run_file(
        GPT2,
        layout={"dp": 2},
        run={"dir": str(tmp_path), "check_replicas": 1},
        train={"steps": 6, "micro_batch_size": 3, "eval_every": 0},
        checkpoint={"every": 1},
    )
    told = ranks.run(2, run_with_drift, config)
    assert told[0] == told[1]
    assert told[0].startswith("step 3: model.embed_tokens.weight differs between its replicas on ranks 0, 1")
    assert sorted(folder.name for folder in (tmp_path / "checkpoints").glob("step-*")) == [
        "step-00000001",
        "step-00000002",
    ]
