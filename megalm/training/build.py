"""The one place where layout, model, engines and optimizer meet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megalm import registry
from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.mesh import Axis, Mesh
from megalm.models.config import FAMILY_DEFAULTS, ModelConfig
from megalm.models.decoder import build_decoder, fill_tables
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig
from megalm.optim.lr_schedule import lr_schedule
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.parallel.data.bucket import Bucket, give_storage, make_bucket
from megalm.parallel.data.exchange import GradientExchange
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.tensor.dropout import name_streams
from megalm.parameters import initialize, name_parameters, spec_of
from megalm.run_config import RunConfig

Builder = Callable[[ModelConfig, Axis, bool], nn.Module]
DTYPES = {"fp64": torch.float64, "fp32": torch.float32}
RULES: Mapping[str, Callable[[OptimizerConfig], UpdateRule]] = {"adamw": AdamW}


class OneBlock(nn.Module):
    """A model without ``blocks()``: one block that maps a micro-batch to its share of the loss."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap the model."""
        super().__init__()
        self.model = model

    def forward(self, _: Tensor | None, batch: MicroBatch) -> Tensor:
        """Return the micro-batch's share of the global batch's loss."""
        loss: Tensor = self.model(batch)
        return loss


@dataclass
class TrainingState:
    """All that one rank needs for a step.

    Args:
        mesh: this rank's axes.
        model: its slice of the model.
        buckets: the trainable parameters and their gradients, one bucket a block.
        exchange: sums gradients over ranks.
        engine: executes the program.
        optimizer: clips and updates.
        lr_schedule: learning rate of a 0-based step.
        step: steps done.
    """

    mesh: Mesh
    model: nn.Module
    buckets: list[Bucket]
    exchange: GradientExchange
    engine: Engine
    optimizer: Optimizer
    lr_schedule: Callable[[int], float]
    step: int = 0


def model_positions(mesh: Mesh) -> dict[str, int]:
    """Return this rank's position on each axis that specs name."""
    return {"tp": mesh.tp.rank}


def build_model(config: RunConfig, mesh: Mesh) -> nn.Module:
    """Build this rank's slice of the model, with named specs and drawn values.

    The values are a function of (run.seed, parameter name) alone; no rank ever holds more than its slice.
    """
    model, _ = _build(config, mesh)
    return model


def build_state(config: RunConfig, mesh: Mesh) -> TrainingState:
    """Build the model and all that trains it."""
    model, buckets = _build(config, mesh)
    exchange = GradientExchange(buckets, mesh.data, {"tp": mesh.tp})
    rule = registry.lookup("optimizer.name", config.optimizer.name, RULES)(config.optimizer)
    optimizer = Optimizer(
        rule,
        buckets,
        model=mesh.model,
        positions=model_positions(mesh),
        clip_grad_norm=config.optimizer.clip_grad_norm,
    )
    engine = Engine(Stage(_blocks(model)), exchange.reduce, exchange.finish)
    schedule = lr_schedule(config.lr_schedule, config.optimizer.lr, config.train.steps)
    return TrainingState(mesh, model, buckets, exchange, engine, optimizer, schedule)


def _build(config: RunConfig, mesh: Mesh) -> tuple[nn.Module, list[Bucket]]:
    builders: dict[str, Builder] = dict.fromkeys(FAMILY_DEFAULTS, build_decoder)
    build = registry.lookup("model.family", config.model.family, builders)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)  # for what a user's own modules draw by themselves
        model = build(config.model, mesh.tp, config.tensor.sequence_parallel)
    name_parameters(model)
    name_streams(model, config.run.seed)
    dtype = DTYPES[config.train.precision]
    buckets = [make_bucket(parameters, mesh.device, dtype) for parameters in _parameters_by_block(_blocks(model))]
    _refuse_lost_parameters(model, buckets)
    for parameter in model.parameters():
        if not parameter.requires_grad:
            give_storage(parameter, torch.empty(parameter.shape, device=mesh.device, dtype=dtype))
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            moved = torch.empty_like(buffer, device=mesh.device) if buffer.is_meta else buffer.to(mesh.device)
            setattr(module, name, moved.to(dtype) if buffer.is_floating_point() else moved)
    fill_tables(model)
    initialize(model, config.run.seed, model_positions(mesh))
    return model, buckets


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    blocks: Sequence[nn.Module] = model.blocks() if hasattr(model, "blocks") else [OneBlock(model)]  # type: ignore[operator]
    return blocks


def _refuse_lost_parameters(model: nn.Module, buckets: Sequence[Bucket]) -> None:
    """Refuse a model with a trainable parameter in none of its blocks: it would silently never learn."""
    placed = {id(slot.parameter) for bucket in buckets for slot in bucket.slots}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and id(parameter) not in placed:
            raise UserError(
                f"model.family: parameter {name} is in none of the model's blocks(); add it to one, or freeze it."
            )


def _parameters_by_block(blocks: Sequence[nn.Module]) -> list[list[nn.Parameter]]:
    """Return each block's trainable parameters; a shared one belongs to the first block, whose backward is last."""
    seen: set[int] = set()
    by_block: list[list[nn.Parameter]] = []
    for block in blocks:
        fresh = [p for p in block.parameters() if p.requires_grad and id(p) not in seen]
        seen.update(map(id, fresh))
        by_block.append(fresh)
    return by_block


def named_parameters(state: TrainingState) -> dict[str, nn.Parameter]:
    """Return this rank's parameters by name, frozen ones among them."""
    return {spec_of(parameter).name: parameter for parameter in state.model.parameters()}
