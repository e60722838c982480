"""What the memory of one rank will go to, by the run file and the rank's list of actions alone. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megalm.layout import Coordinates
from megalm.models.activations import Kept, MicroBatchSize, kept_by_block
from megalm.models.config import FAMILY_DEFAULTS
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.clock import Keeps, peak_kept
from megalm.parallel.pipeline.program import Program
from megalm.plan.data_exchange import Sharing
from megalm.plan.memory import ElementBytes, kept_bytes
from megalm.plan.rank_buckets import RankBuckets
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig

KEPT = ("parameters", "gradients", "optimizer", "activations", "buffers")
"""What a rank holds: activations at their peak between two actions of a step, the rest between steps."""
PASSING = ("gathered", "under_way")
"""What else it holds while a step runs, at most: values that are gathered, gradients that are made or being summed."""

ELEMENTS: Mapping[str, tuple[int, int]] = {"fp64": (8, 8), "fp32": (4, 4), "bf16": (2, 4), "fp16": (2, 4)}
"""Bytes of a parameter and of a gradient sum, by ``train.precision``."""


@dataclass(frozen=True)
class RankMemory:
    """What is known before a run starts.

    Args:
        planned: bytes by quantity, of ``KEPT`` and ``PASSING``.
        padding: how many of the bytes of parameters, gradients and optimizer state are the padding of buckets.
        unknown: why a quantity is not known in closed form, by quantity.
    """

    planned: Mapping[str, int]
    padding: int = 0
    unknown: Mapping[str, str] = field(default_factory=dict)


def planned_memory(config: RunConfig, place: Coordinates, program: Program | None, device_type: str) -> RankMemory:
    """Return what a rank will hold.

    Args:
        config: the run.
        place: of the rank.
        program: what its pipeline executes in a training step; ``None`` where another engine does.
        device_type: ``cpu`` or ``cuda``.
    """
    if program is None:
        return _unknown((*KEPT, *PASSING), f"zero.backend={config.zero.backend} keeps its memory in its own way")
    if config.model.family not in FAMILY_DEFAULTS:
        return _unknown((*KEPT, *PASSING), f"model.family={config.model.family} is not one of the built-in ones")
    if config.train.precision not in ELEMENTS:
        return _unknown((*KEPT, *PASSING), f"train.precision={config.train.precision} has none yet")
    shape, pp = DecoderShape.of(config.model), place.pp
    all_spans = cut_into_stages(config, shape.num_layers + 2, program.num_stages)
    spans = {stage: all_spans[stage] for stage in program.stages_of(pp)}
    buckets = RankBuckets.of(
        shape,
        spans,
        tp_size=config.layout.tp,
        tp_rank=place.tp,
        shard_size=config.shard_size,
        apart=shape.tied and program.rank_of_stage[0] != program.rank_of_stage[program.num_stages - 1],
    )
    value, total = ELEMENTS[config.train.precision]
    actions = program.ranks[pp]
    planned, unknown = {}, {}
    moments = _num_moments(config)
    if moments is None:
        unknown["optimizer"] = f"optimizer.name={config.optimizer.name} is not one whose state has one"
    sharing = Sharing(config.layout.dp * config.layout.cp, config.zero_stage, config.shard_size)
    elements = sum(buckets.elements)
    kept = kept_bytes(elements, sharing, ElementBytes(value, total, moments or 0))
    planned["parameters"], planned["gradients"] = kept.parameters, kept.gradients
    if moments is not None:
        planned["optimizer"] = kept.optimizer
    why = _activations_unknown(config, shape, device_type)
    if why is None:
        planned["activations"] = _activations(config, shape, place, program, spans)
    else:
        unknown["activations"] = why
    rotates = any(0 < block <= shape.num_layers for span in spans.values() for block in span)
    planned["buffers"] = 2 * shape.max_positions * (shape.rotary_dim // 2) * max(value, 4) if rotates else 0
    planned["gathered"] = buckets.gathered_at_most(actions) * value if config.zero_stage == 3 else 0
    planned["under_way"] = buckets.summed_at_most(actions) * total if config.zero_stage >= 2 else 0
    padding = kept.total * (elements - buckets.filled) // elements if elements else 0
    return RankMemory(planned, padding, unknown)


def _unknown(quantities: Sequence[str], why: str) -> RankMemory:
    return RankMemory({}, unknown=dict.fromkeys(quantities, why))


def _num_moments(config: RunConfig) -> int | None:
    """Return the tensors that the update rule keeps; ``None`` for one that is not known on paper."""
    return {"adamw": 2, "lamb": 2, "sgd": 1 if config.optimizer.momentum else 0}.get(config.optimizer.name)


def _activations_unknown(config: RunConfig, shape: DecoderShape, device_type: str) -> str | None:
    """Return why the bytes of activations are not known in closed form, or ``None`` where they are."""
    if shape.embedding_dropout or shape.attention_dropout or shape.hidden_dropout:
        return "the model has dropout, whose masks are not counted"
    if config.data.reset_attention:
        return "data.reset_attention=true gives attention a mask, which is not counted"
    if device_type != "cpu":
        return f"it counts what a CPU's kernels save, and the run is on {device_type}"
    return None


def _activations(
    config: RunConfig, shape: DecoderShape, place: Coordinates, program: Program, spans: Mapping[int, range]
) -> int:
    """Return the most that is kept at once for backwards; of micro-batches the last may be smaller."""
    train, layout = config.train, config.layout
    whole, rest = divmod(train.global_batch_size // layout.dp, train.micro_batch_size)

    def kept_of(samples: int) -> list[Kept]:
        value, _ = ELEMENTS[train.precision]
        sequence_parallel = config.tensor.sequence_parallel
        size = MicroBatchSize(samples, train.seq_length, value, layout.tp, place.tp, sequence_parallel)
        return kept_by_block(shape, size, config.recompute)

    full, last = kept_of(train.micro_batch_size), kept_of(rest)

    def kept(stage: int, microbatch: int) -> Keeps:
        blocks = [(full if microbatch < whole else last)[block] for block in spans[stage]]
        return Keeps(sum(block.for_backward for block in blocks), sum(block.for_weight for block in blocks))

    return int(peak_kept(program.ranks[place.pp], kept))
