"""Builds the part of the model that one rank holds: its blocks of the pipeline, its slices of their parameters."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from megalm import registry
from megalm.batch import MicroBatch
from megalm.errors import UserError
from megalm.host import Host
from megalm.mesh import Axis, Mesh
from megalm.models.config import FAMILY_DEFAULTS, ModelConfig
from megalm.models.decoder import build_decoder, fill_tables
from megalm.models.decoder_shape import DECODERS
from megalm.models.electra import build_electra
from megalm.models.electra_shape import ELECTRA
from megalm.models.encoder import build_encoder
from megalm.models.encoder_decoder import build_encoder_decoder
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS
from megalm.models.encoder_shape import ENCODERS
from megalm.models.towers import Towers
from megalm.parallel.data.bucket import Bucket, give_storage, make_bucket
from megalm.parallel.tensor.dropout import name_streams
from megalm.param_spec import ParamSpec
from megalm.parameters import count_blocks, initialize, initialize_box, name_parameters, spec_of
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig
from megalm.training.held import Held, check_blocks
from megalm.training.precision import DTYPES, choose_rounding
from megalm.training.recomputed import choose_offloaded, choose_recomputed

Builder = Callable[..., nn.Module]
"""``(model section, tensor axis, sequence_parallel)`` builds a model; ours take heads of tasks too."""

BUILDERS: Mapping[str, Builder] = {
    **dict.fromkeys(DECODERS, build_decoder),
    **dict.fromkeys(ENCODERS, build_encoder),
    **dict.fromkeys(ENCODER_DECODERS, build_encoder_decoder),
    ELECTRA: build_electra,
}
"""What builds each family."""


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


@dataclass(frozen=True)
class Part:
    """The model as one rank has it.

    Args:
        model: all of it; what other ranks of the pipeline hold has no memory.
        held: this rank's part.
        buckets: its trainable parameters by (stage, block): one bucket a block, and one for each parameter of which
            other ranks of the pipeline hold copies.
        num_blocks: of every stage of the pipeline.
        recomputed: the blocks of the model that keep only their input between forward and backward.
        offloaded: those that keep on the host what they keep.
    """

    model: nn.Module
    held: Held
    buckets: Mapping[tuple[int, int], Sequence[Bucket]]
    num_blocks: Sequence[int]
    recomputed: Sequence[nn.Module]
    offloaded: Sequence[nn.Module]


def whole_model(config: ModelConfig, tp_size: int = 1) -> nn.Module:
    """Build a model without memory, as rank 0 of so many tensor ranks has it: its specs know the cuts of all."""
    build = registry.lookup("model.family", config.family, BUILDERS)
    with torch.device("meta"):
        model = build(config, Axis("tp", tuple(range(tp_size)), 0), False)
    name_parameters(model)
    return model


def whole_specs(config: ModelConfig, tp_size: int = 1) -> dict[str, ParamSpec]:
    """Return the specs of a model's parameters by name, in its order; a tied table has one name here."""
    return {name: spec_of(parameter) for name, parameter in whole_model(config, tp_size).named_parameters()}


def model_positions(mesh: Mesh) -> dict[str, int]:
    """Return this rank's position on each axis that specs name."""
    return {"tp": mesh.tp.rank}


def build_part(
    config: RunConfig,
    mesh: Mesh,
    rank_of_stage: Sequence[int],
    shard: Axis | None,
    host: Host | None = None,
    *,
    drawn: bool = True,
) -> Part:
    """Build this rank's part of the model, with named specs and drawn values.

    The values are a function of (run.seed, parameter name) alone; a rank draws what it owns and nothing else.

    Args:
        config: the run.
        mesh: this rank's axes.
        rank_of_stage: the rank of the pipeline that holds each stage.
        shard: the axis of the data ranks that own a part of its parameters each; ``None`` where another engine shares
            them out: each parameter then has memory of its own, and there are no buckets.
        host: whose memory has what the optimizer updates; ``None`` leaves it on the device.
        drawn: False leaves memory as it is where all values are read next.

    Raises:
        UserError: the model does not fit the stages, or its blocks do not hold all of it.
    """
    build = registry.lookup("model.family", config.model.family, BUILDERS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.run.seed)  # for what a user's own modules draw by themselves
        model = _whole(build, config, mesh.tp)
    name_parameters(model)
    name_streams(model, config.run.seed)
    choose_rounding(config.train.precision, model)
    blocks: Sequence[nn.Module] = model.blocks() if hasattr(model, "blocks") else [OneBlock(model)]  # type: ignore[operator]
    check_blocks(model, blocks)
    count_blocks(blocks)
    if len(blocks) == 1 < len(rank_of_stage) and config.model.family not in FAMILY_DEFAULTS:
        raise UserError(
            f"model.family={config.model.family} has no blocks() that a pipeline of {len(rank_of_stage)} stages could "
            "cut it into; add the method, or set layout.pp=1."
        )
    spans = cut_into_stages(config, len(blocks), len(rank_of_stage))
    held = Held.of(blocks, spans, rank_of_stage, mesh.pp.rank)
    held.release_others(model)
    recomputed = choose_recomputed(config.recompute, blocks)
    offloaded = choose_offloaded(config.recompute, blocks)
    num_blocks = [len(span) for span in spans]
    buckets, plain = _place(held, config, mesh, shard, host)
    if drawn:
        _draw(buckets, plain, config.run.seed, model_positions(mesh))
    return Part(model, held, buckets, num_blocks, recomputed, offloaded)


def _whole(build: Builder, config: RunConfig, axis: Axis) -> nn.Module:
    """Build the model, with the heads of tasks, or a model for each task."""
    objective, sequence_parallel = config.objective, config.tensor.sequence_parallel
    if objective.sharing == "soft":
        towers = {
            task.name: build(config.of_task(task).model, axis, sequence_parallel) for task in objective.tasks or []
        }
        return Towers(towers, axis)
    heads = [objective.num_labels] if objective.num_labels else []
    return build(config.model, axis, sequence_parallel, *heads)


def _place(
    held: Held, config: RunConfig, mesh: Mesh, shard: Axis | None, host: Host | None
) -> tuple[dict[tuple[int, int], list[Bucket]], list[nn.Parameter]]:
    """Give this rank's parameters and buffers their memory; return the buckets, and the parameters that are in none."""
    dtype = DTYPES[config.train.precision]
    zero_stage = config.zero_stage if shard is not None and shard.size > 1 else 0
    for parameter in held.parameters():
        holders = held.holders.get(spec_of(parameter).name, [mesh.pp.rank])
        if mesh.pp.rank != holders[0]:  # a copy: counted and saved where the first one lies
            parameter.spec = replace(spec_of(parameter), tied_to=spec_of(parameter).name)  # type: ignore[attr-defined]
    buckets = {
        place: [
            make_bucket(group, mesh.device, dtype, shard=shard, zero_stage=zero_stage, host=host)
            for group in _apart(parameters, held)
        ]
        for place, parameters in held.parameters_by_block().items()
        if shard is not None
    }
    plain = [parameter for parameter in held.parameters() if shard is None or not parameter.requires_grad]
    for parameter in plain:
        storage = torch.empty(parameter.shape, device=mesh.device, dtype=dtype)
        if not parameter.is_meta:
            storage.copy_(parameter.data)
        give_storage(parameter, storage)
    for module in held.modules():
        for name, buffer in module.named_buffers(recurse=False):
            moved = torch.empty_like(buffer, device=mesh.device) if buffer.is_meta else buffer.to(mesh.device)
            wide = torch.promote_types(dtype, torch.float32)  # tables and statistics stay exact beside 16-bit values
            setattr(module, name, moved.to(wide) if buffer.is_floating_point() else moved)
    fill_tables(held.modules())
    return buckets, plain


def _apart(parameters: Sequence[nn.Parameter], held: Held) -> list[list[nn.Parameter]]:
    """Put parameters of which other ranks hold copies into groups of their own: shards of copies must be alike."""
    tied = [parameter for parameter in parameters if spec_of(parameter).name in held.holders]
    return [[p for p in parameters if all(p is not other for other in tied)], *([parameter] for parameter in tied)]


def _draw(
    buckets: Mapping[tuple[int, int], Sequence[Bucket]],
    plain: Sequence[nn.Parameter],
    seed: int,
    positions: Mapping[str, int],
) -> None:
    """Draw what this rank owns, from streams named by (seed, parameter name)."""
    initialize(plain, seed, positions)
    for bucket in (bucket for held in buckets.values() for bucket in held):
        for owned in bucket.owned():
            initialize_box(owned.view(bucket.owned_values), owned.slot.spec, seed, positions, owned.box.offsets)
        bucket.round_values()
