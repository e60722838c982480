"""The one place where layout, model, engines and optimizer meet."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from megalm import registry
from megalm.mesh import Mesh
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig
from megalm.optim.lr_schedule import lr_schedule
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import Bucket
from megalm.parallel.data.exchange import GradientExchange
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Transport
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.held import Held
from megalm.training.model import build_part, model_positions
from megalm.training.programs import Programs, rank_of_stage
from megalm.weight_half import WeightHalf

RULES: Mapping[str, Callable[[OptimizerConfig], UpdateRule]] = {"adamw": AdamW}


@dataclass
class TrainingState:
    """All that one rank needs for a step.

    Args:
        mesh: this rank's axes.
        model: the whole model; what other ranks of the pipeline hold has no memory.
        held: this rank's part of it.
        buckets: the trainable parameters and their gradients, one bucket a block.
        exchange: sums gradients over ranks.
        programs: what is executed.
        engine: executes it.
        optimizer: clips and updates.
        lr_schedule: learning rate of a 0-based step.
        step: steps done.
    """

    mesh: Mesh
    model: nn.Module
    held: Held
    buckets: list[Bucket]
    exchange: GradientExchange
    programs: Programs
    engine: Engine
    optimizer: Optimizer
    lr_schedule: Callable[[int], float]
    step: int = 0


def build_model(config: RunConfig, mesh: Mesh) -> nn.Module:
    """Build this rank's slice of the model, with named specs and drawn values.

    The values are a function of (run.seed, parameter name) alone; no rank ever holds more than its slice. With several
    ranks in the pipeline, the blocks of the others stay on the meta device.
    """
    return build_part(config, mesh, _holders(config)).model


def build_state(config: RunConfig, mesh: Mesh) -> TrainingState:
    """Build the model and all that trains it."""
    holders = _holders(config)
    part = build_part(config, mesh, holders)
    programs = Programs(config.pipeline, holders, config.layout.pp, part.num_blocks, part.held.shared)
    buckets = list(part.buckets.values())
    ties = {name: mesh.subset("pp", ranks) for name, ranks in part.held.holders.items() if mesh.pp.rank in ranks}
    exchange = GradientExchange(buckets, mesh.data, {"tp": mesh.tp}, ties)
    half = WeightHalf()
    for parameter in part.held.parameters():
        parameter.weight_half = half  # type: ignore[attr-defined]
    number = {place: index for index, place in enumerate(part.buckets)}
    engine = Engine(
        mesh.pp.rank,
        {stage: Stage(blocks, half) for stage, blocks in part.held.stages.items()},
        Transport(mesh.pp, mesh.pp_upward, mesh.device) if mesh.pp.size > 1 else None,
        reduce=lambda stage, block: exchange.reduce(number[stage, block]),
        finish=exchange.finish,
    )
    rule = registry.lookup("optimizer.name", config.optimizer.name, RULES)(config.optimizer)
    optimizer = Optimizer(
        rule,
        buckets,
        model=mesh.model,
        positions=model_positions(mesh),
        clip_grad_norm=config.optimizer.clip_grad_norm,
    )
    schedule = lr_schedule(config.lr_schedule, config.optimizer.lr, config.train.steps)
    return TrainingState(mesh, part.model, part.held, buckets, exchange, programs, engine, optimizer, schedule)


def _holders(config: RunConfig) -> list[int]:
    return rank_of_stage(config.pipeline, config.layout.pp, config.num_microbatches)


def named_parameters(state: TrainingState) -> dict[str, nn.Parameter]:
    """Return this rank's parameters by name, frozen ones among them."""
    return {spec_of(parameter).name: parameter for parameter in state.held.parameters()}
