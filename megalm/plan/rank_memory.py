"""What the memory of one rank will go to, by the run file and the rank's list of actions alone. No torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from megalm.layout import Coordinates
from megalm.models.decoder_shape import DecoderShape, has_closed_forms
from megalm.parallel.pipeline.program import Program
from megalm.plan.data_exchange import Sharing
from megalm.plan.memory import ElementBytes, KeptBytes, kept_bytes, offloaded_bytes
from megalm.plan.quantized import RankPlace, state_sizes
from megalm.plan.rank_activations import RankActivations, activations_unknown
from megalm.plan.rank_buckets import RankBuckets
from megalm.plan.stages import cut_into_stages
from megalm.run_config import RunConfig

KEPT = ("parameters", "gradients", "optimizer", "activations", "buffers")
"""What a rank holds on its device: activations at their peak between two actions of a step, the rest between steps."""
HOST = ("host_optimizer", "host_activations")
"""What it holds on the host because it is offloaded: the first with a copy of the gradients, the second at its peak."""
PASSING = ("gathered", "under_way")
"""What else it holds while a step runs, at most: values that are gathered, gradients that are made or being summed."""

QUANTITIES = (*KEPT, *PASSING, *HOST)

ELEMENTS: Mapping[str, tuple[int, int]] = {
    "fp64": (8, 8),
    "fp32": (4, 4),
    "bf16": (2, 4),
    "fp16": (2, 4),
    "fp8": (2, 4),
}
"""Bytes of a parameter and of a gradient sum, by ``train.precision``."""
QUANTIZED: Mapping[str, int] = {"adamw8bit": 2}
"""How many moments of 8 bits a rule keeps, by ``optimizer.name``."""


@dataclass(frozen=True)
class RankMemory:
    """What is known before a run starts.

    Args:
        planned: bytes by quantity, of ``QUANTITIES``.
        padding: how many of the bytes of parameters, gradients and optimizer state are the padding of buckets.
        unknown: why a quantity is not known in closed form, by quantity.
    """

    planned: Mapping[str, int]
    padding: int = 0
    unknown: Mapping[str, str] = field(default_factory=dict)


def planned_memory(
    config: RunConfig,
    place: Coordinates,
    program: Program | None,
    device_type: str,
    smallest_offloaded: int | None = None,
) -> RankMemory:
    """Return what a rank will hold.

    Args:
        config: the run.
        place: of the rank.
        program: what its pipeline executes in a training step; ``None`` where another engine does.
        device_type: ``cpu`` or ``cuda``.
        smallest_offloaded: bytes of the smallest activation that is worth a transfer to the host; ``None`` where the
            device's memory is the host's, so that nothing is offloaded.
    """
    if program is None:
        return _unknown(QUANTITIES, f"zero.backend={config.zero.backend} keeps its memory in its own way")
    if config.objective.tasks is not None:
        return _unknown(QUANTITIES, "objective.name=multitask has no closed form of what it holds")
    if not has_closed_forms(config.model):
        return _unknown(QUANTITIES, f"model.family={config.model.family} has no closed form of what it holds")
    shape, pp = DecoderShape.of(config.model), place.pp
    all_spans = cut_into_stages(config, shape.num_layers + 2, program.num_stages)
    spans = {stage: all_spans[stage] for stage in program.stages_of(pp)}
    apart = shape.tied and program.rank_of_stage[0] != program.rank_of_stage[program.num_stages - 1]
    buckets = RankBuckets.of(
        shape,
        spans,
        tp_size=config.layout.tp,
        tp_rank=place.tp,
        shard_size=config.shard_size,
        apart=apart,
    )
    value, total = ELEMENTS[config.train.precision]
    actions = program.ranks[pp]
    planned, unknown = {}, {}
    moments = _num_moments(config)
    sharing = Sharing(config.layout.dp * config.layout.cp, config.zero_stage, config.shard_size)
    elements = sum(buckets.elements)
    element = ElementBytes(value, total, moments or 0)
    kept, there = kept_bytes(elements, sharing, element), KeptBytes(0, 0, 0)
    is_offloaded = config.zero.offload != "none" and smallest_offloaded is not None
    if is_offloaded:
        kept, there = offloaded_bytes(elements, sharing, element)
    planned["parameters"], planned["gradients"] = kept.parameters, kept.gradients
    planned["optimizer"], planned["host_optimizer"] = kept.optimizer, there.total
    if config.optimizer.name in QUANTIZED:
        quantized = _quantized_bytes(config, shape, place, spans, total, apart)
        planned["host_optimizer" if is_offloaded else "optimizer"] += quantized
    if moments is None:
        quantity = "host_optimizer" if is_offloaded else "optimizer"
        unknown[quantity] = f"optimizer.name={config.optimizer.name} is not one whose state has one"
    why = activations_unknown(config, shape, device_type)
    if why is None:
        activations = RankActivations(config, shape, place, spans, value, smallest_offloaded)
        planned["activations"], planned["host_activations"] = activations.peaks(program)
    else:
        unknown["activations"] = why
        planned["host_activations"] = 0
        if config.recompute.offload != "none" and smallest_offloaded is not None:
            unknown["host_activations"] = why
    rotates = any(0 < block <= shape.num_layers for span in spans.values() for block in span)
    planned["buffers"] = 2 * shape.max_positions * (shape.rotary_dim // 2) * max(value, 4) if rotates else 0
    planned["gathered"] = buckets.gathered_at_most(actions) * value if config.zero_stage == 3 else 0
    planned["under_way"] = buckets.summed_at_most(actions) * total if config.zero_stage >= 2 else 0
    padding = (kept.total + there.total) * (elements - buckets.filled) // elements if elements else 0
    known = {quantity: size for quantity, size in planned.items() if quantity not in unknown}
    return RankMemory(known, padding, unknown)


def _unknown(quantities: Sequence[str], why: str) -> RankMemory:
    return RankMemory({}, unknown=dict.fromkeys(quantities, why))


def _num_moments(config: RunConfig) -> int | None:
    """Return the wide tensors that the update rule keeps; ``None`` for one that is not known on paper."""
    wide = {"adamw": 2, "lamb": 2, "sgd": 1 if config.optimizer.momentum else 0, **dict.fromkeys(QUANTIZED, 0)}
    return wide.get(config.optimizer.name)


def _quantized_bytes(
    config: RunConfig, shape: DecoderShape, place: Coordinates, spans: Mapping[int, range], total: int, apart: bool
) -> int:
    """Return the bytes of the moments of 8 bits, with what of them is wide."""
    layout = config.layout
    shard_rank = (place.dp * layout.cp + place.cp) % config.shard_size
    rank = RankPlace(layout.tp, place.tp, config.shard_size, shard_rank, config.tensor.sequence_parallel)
    blocks = sorted(block for span in spans.values() for block in span)
    sizes = state_sizes(shape, rank, blocks, apart=apart)
    return QUANTIZED[config.optimizer.name] * sizes.num_bytes(total)
