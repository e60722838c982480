"""What a run's model costs on paper, where its family has closed forms: asked by the builder, the planner and MFU."""

from dataclasses import dataclass

from megalm.models import counts, encoder_counts
from megalm.models.counts import BlockFlops
from megalm.models.decoder_shape import DecoderShape, has_closed_forms
from megalm.models.encoder_shape import ENCODERS, EncoderShape
from megalm.run_config import RunConfig


@dataclass(frozen=True)
class ModelCosts:
    """The closed forms of one run.

    Args:
        num_parameters: of the model; a tied table counts once.
        blocks: what one token costs in each block, with what is computed again.
        training_flops: of one token, forward and backward.
        hardware_flops: of one token, with what is computed again.
        attention_dropout: of the probabilities.
    """

    num_parameters: int
    blocks: list[BlockFlops]
    training_flops: int
    hardware_flops: int
    attention_dropout: float


def model_costs(config: RunConfig) -> ModelCosts | None:
    """Return what the model of a run costs, ``None`` where no closed form is known."""
    if config.objective.tasks is not None:
        return None
    length, again = config.train.seq_length, config.recompute
    if has_closed_forms(config.model):
        shape = DecoderShape.of(config.model)
        return ModelCosts(
            counts.num_parameters(shape),
            counts.flops_by_block(shape, length, again),
            counts.training_flops_per_token(shape, length),
            counts.hardware_flops_per_token(shape, length, again),
            shape.attention_dropout,
        )
    asked = config.objective.noise_density
    if config.model.family in ENCODERS and asked is not None:
        encoder = EncoderShape.of(config.model)
        return ModelCosts(
            encoder_counts.num_parameters(encoder),
            encoder_counts.flops_by_block(encoder, length, asked, again),
            encoder_counts.training_flops_per_token(encoder, length, asked),
            encoder_counts.hardware_flops_per_token(encoder, length, asked, again),
            encoder.attention_dropout,
        )
    return None
