"""The one place where layout, model, engines and optimizer meet."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from megalm import registry
from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.host import Host, host_of
from megalm.hugging_face.load import fill_parameters
from megalm.mesh import Axis, Mesh
from megalm.optim.adamw import AdamW
from megalm.optim.adamw8bit import AdamW8bit
from megalm.optim.config import OptimizerConfig
from megalm.optim.lamb import Lamb
from megalm.optim.loss_scale import LossScale
from megalm.optim.lr_schedule import lr_schedule
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.optim.sgd import Sgd
from megalm.parallel.data.bucket import Bucket
from megalm.parallel.data.exchange import Exchange
from megalm.parallel.data.stored import Stored, of_bucket
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.offload import Offload
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Transport
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.backend import Backend
from megalm.training.backends.choose import foreign
from megalm.training.held import Held
from megalm.training.model import Part, build_part, model_positions
from megalm.training.programs import Programs, rank_of_stage
from megalm.training.stored import unlearned
from megalm.weight_half import WeightHalf

RULES: Mapping[str, Callable[[OptimizerConfig], UpdateRule]] = {
    "adamw": AdamW,
    "adamw8bit": AdamW8bit,
    "lamb": Lamb,
    "sgd": Sgd,
}


@dataclass
class TrainingState:
    """All that one rank needs for a step.

    Args:
        mesh: this rank's axes.
        model: the whole model; what other ranks of the pipeline hold has no memory.
        held: this rank's part of it.
        buckets: the trainable parameters and their gradients.
        exchange: sums gradients over ranks, and collects values.
        programs: what is executed.
        engine: executes it.
        optimizer: clips and updates.
        lr_schedule: learning rate of a 0-based step.
        loss_scale: what the loss is multiplied by before the backward.
        host: the host's memory beside the device's; ``None`` where the two are one.
        step: steps done.
    """

    mesh: Mesh
    model: nn.Module
    held: Held
    buckets: list[Bucket]
    exchange: Exchange
    programs: Programs
    engine: Engine
    optimizer: Optimizer
    lr_schedule: Callable[[int], float]
    loss_scale: LossScale
    host: Host | None
    step: int = 0

    @property
    def updates(self) -> int:
        """Updates done."""
        return self.optimizer.updates

    @updates.setter
    def updates(self, count: int) -> None:
        self.optimizer.updates = count

    def run(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Forward, backward and exchange; see ``Backend``."""
        self.exchange.zero()
        scale = self.loss_scale.value
        scaled = [microbatch.scaled(scale) for microbatch in microbatches]
        return self.engine.run(self.programs.training(len(microbatches)), scaled) / scale

    def clip(self) -> float:
        """Clip the gradients by their global norm, and return it."""
        return self.optimizer.clip(self.loss_scale.value)

    def update(self, lr: float) -> None:
        """Change what this rank owns, and give it to the others."""
        self.optimizer.step(lr)
        self.exchange.publish()

    def evaluate(self, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Return this rank's share of the losses' sum."""
        return self.engine.evaluate(self.programs.evaluation(len(microbatches)), microbatches)

    def not_finite(self) -> list[str]:
        """Return the names of parameters whose gradient, as far as this rank owns it, is not finite."""
        return [
            owned.slot.spec.name
            for bucket in self.buckets
            for owned in bucket.owned()
            if not owned.view(bucket.owned_gradients).isfinite().all()
        ]

    def stored(self, *, weights_only: bool = False) -> Iterator[Stored]:
        """Yield what a checkpoint holds of this rank."""
        yield from unlearned(self.model, self.held)
        for bucket, kept in zip(self.buckets, self.optimizer.state, strict=True):
            yield from of_bucket(bucket, "", bucket.owned_values)
            if not weights_only:
                yield from kept.stored("optimizer.")

    def loaded(self) -> None:
        """Give loaded values to all ranks that keep them."""
        for bucket in self.buckets:
            bucket.round_values()
        self.exchange.publish()


def build_model(config: RunConfig, mesh: Mesh) -> nn.Module:
    """Build this rank's slice of the model, with named specs and the values of ``model.from``, or drawn ones.

    Drawn values are a function of (run.seed, parameter name) alone; no rank ever holds more than its slice. With
    several ranks in the pipeline, the blocks of the others stay on the meta device.
    """
    part = build_part(config, mesh, _holders(config), Axis.alone())
    if config.model.from_ is not None:
        fill_parameters(part.held.parameters(), model_positions(mesh), config.model)
    return part.model


def build(config: RunConfig, mesh: Mesh) -> Backend:
    """Build the model and the engine that trains it: the one that ``zero.backend`` names.

    Raises:
        UserError: the engine's package is not installed, or the model does not fit it.
    """
    if config.zero.backend == "native":
        return build_state(config, mesh)
    part = build_part(config, mesh, _holders(config), None)
    schedule = lr_schedule(config.lr_schedule, config.optimizer.lr, config.train.steps)
    return foreign(config, mesh, part, schedule)


def build_state(config: RunConfig, mesh: Mesh) -> TrainingState:
    """Build the model and all of our own that trains it."""
    host = host_of(mesh.device)
    holders = _holders(config)
    shard, replicas = mesh.shards(config.shard_size)
    part = build_part(config, mesh, holders, shard, host if config.zero.offload == "cpu" else None)
    programs = Programs(
        config.pipeline,
        holders,
        config.layout.pp,
        part.num_blocks,
        part.held.shared,
        zero_stage=config.zero_stage,
        prefetch=config.zero.prefetch,
    )
    buckets = [bucket for held in part.buckets.values() for bucket in held]
    ties = _ties(part.held, mesh)
    exchange = Exchange(part.buckets, shard, replicas, {"tp": mesh.tp}, _uses(part), ties)
    exchange.publish()
    offload = None
    if host is not None and part.offloaded:
        offload = Offload(host, mesh.device, part.offloaded, [*part.held.parameters(), *part.held.buffers()])
    half = WeightHalf()
    for parameter in part.held.parameters():
        parameter.weight_half = half  # type: ignore[attr-defined]
    engine = Engine(
        mesh.pp.rank,
        {stage: Stage(blocks, half, part.recomputed, offload) for stage, blocks in part.held.stages.items()},
        Transport(mesh.pp, mesh.pp_upward, mesh.device) if mesh.pp.size > 1 else None,
        exchange,
    )
    engine.enter = mesh.marker.enter
    optimizer = Optimizer(
        _update_rule(config.optimizer),
        buckets,
        axes=[mesh.model, shard],
        holders=[mesh.tp, shard],
        positions=model_positions(mesh),
        layer_lr_decay=config.optimizer.layer_lr_decay,
        clip_grad_norm=config.optimizer.clip_grad_norm,
    )
    schedule = lr_schedule(config.lr_schedule, config.optimizer.lr, config.train.steps)
    scale = LossScale.of(config.train.precision)
    return TrainingState(
        mesh, part.model, part.held, buckets, exchange, programs, engine, optimizer, schedule, scale, host
    )


def _ties(held: Held, mesh: Mesh) -> dict[str, Axis]:
    """Return, for each of this rank's parameters that other ranks of the pipeline hold too, the axis of them all."""
    ties = {}
    for name, holders in held.holders.items():
        if mesh.pp.rank in holders:
            ties[name] = mesh.subset("pp", holders)
        else:
            mesh.leave_out("pp", holders)
    return ties


def _update_rule(config: OptimizerConfig) -> UpdateRule:
    found = registry.lookup("optimizer.name", config.name, RULES)
    rule = found(config) if callable(found) else None
    if not isinstance(rule, UpdateRule):
        raise UserError(
            f"optimizer.name: {config.name} is no update rule; give a class of (config) with state_names and update, "
            "or with state_names, turn and ratio."
        )
    return rule


def _holders(config: RunConfig) -> list[int]:
    return rank_of_stage(config.pipeline, config.layout.pp, config.num_microbatches)


def _uses(part: Part) -> dict[tuple[int, int], list[Bucket]]:
    """Return for each block the buckets of other blocks that hold parameters of it too."""
    home = {slot.parameter: bucket for held in part.buckets.values() for bucket in held for slot in bucket.slots}
    found: dict[tuple[int, int], list[Bucket]] = {}
    for stage, blocks in part.held.stages.items():
        for number, block in enumerate(blocks):
            read = dict.fromkeys(home[parameter] for parameter in block.parameters() if parameter in home)
            found[stage, number] = [bucket for bucket in read if bucket not in part.buckets[stage, number]]
    return found


def named_parameters(state: TrainingState) -> dict[str, nn.Parameter]:
    """Return this rank's parameters by name, frozen ones among them."""
    return {spec_of(parameter).name: parameter for parameter in state.held.parameters()}
