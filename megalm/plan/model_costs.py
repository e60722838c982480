"""What a run's model costs on paper, where its family has closed forms: asked by the builder, the planner and MFU."""

from collections.abc import Sequence
from dataclasses import dataclass

from megalm.models import counts, electra_counts, encoder_counts, encoder_decoder_counts
from megalm.models.counts import BlockFlops
from megalm.models.decoder_shape import DecoderShape, has_closed_forms
from megalm.models.electra_shape import ELECTRA, ElectraShape
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS, EncoderDecoderShape
from megalm.models.encoder_shape import ENCODERS, EncoderShape
from megalm.objectives.pair_lengths import PairLengths
from megalm.run_config import RunConfig


@dataclass(frozen=True)
class ModelCosts:
    """The closed forms of one run.

    Args:
        num_parameters: of the model; a tied table counts once.
        names: of the blocks, in order.
        blocks: what one token costs in each, with what is computed again. Tokens are those of the run's samples,
            ``train.seq_length`` each, however many an objective makes of them.
        training_flops: of one token, forward and backward.
        hardware_flops: of one token, with what is computed again.
        attention_dropout: of the probabilities.
    """

    num_parameters: int
    names: Sequence[str]
    blocks: Sequence[BlockFlops]
    training_flops: int
    hardware_flops: int
    attention_dropout: float


def model_costs(config: RunConfig) -> ModelCosts | None:
    """Return what the model of a run costs, ``None`` where no closed form is known."""
    family, asked = config.model.family, config.objective.noise_density
    if config.objective.tasks is not None:
        return None
    if has_closed_forms(config.model):
        return _of_decoder(config, DecoderShape.of(config.model))
    if family in ENCODERS and asked is not None:
        return _of_encoder(config, EncoderShape.of(config.model), asked)
    if family == ELECTRA and asked is not None:
        return _of_electra(config, ElectraShape.of(config.model), asked)
    lengths = PairLengths.of(config.objective, config.train.seq_length)
    if family in ENCODER_DECODERS and lengths is not None:
        return _of_encoder_decoder(config, EncoderDecoderShape.of(config.model), lengths)
    return None


def _of_decoder(config: RunConfig, shape: DecoderShape) -> ModelCosts:
    length, again = config.train.seq_length, config.recompute
    return ModelCosts(
        counts.num_parameters(shape),
        ["embedding", *_layers("", shape.num_layers), "head"],
        counts.flops_by_block(shape, length, again),
        counts.training_flops_per_token(shape, length),
        counts.hardware_flops_per_token(shape, length, again),
        shape.attention_dropout,
    )


def _of_encoder(config: RunConfig, shape: EncoderShape, asked: float) -> ModelCosts:
    length, again = config.train.seq_length, config.recompute
    return ModelCosts(
        encoder_counts.num_parameters(shape),
        ["embedding", *_layers("", shape.num_layers), "head"],
        encoder_counts.flops_by_block(shape, length, asked, again),
        encoder_counts.training_flops_per_token(shape, length, asked),
        encoder_counts.hardware_flops_per_token(shape, length, asked, again),
        shape.attention_dropout,
    )


def _of_electra(config: RunConfig, shape: ElectraShape, asked: float) -> ModelCosts:
    length, again = config.train.seq_length, config.recompute
    return ModelCosts(
        electra_counts.num_parameters(shape),
        [
            "embedding",
            *_layers("generator ", shape.generator.num_layers),
            "generator head",
            "discriminator embedding",
            *_layers("discriminator ", shape.discriminator.num_layers),
            "head",
        ],
        electra_counts.flops_by_block(shape, length, asked, again),
        electra_counts.training_flops_per_token(shape, length, asked),
        electra_counts.hardware_flops_per_token(shape, length, asked, again),
        shape.discriminator.attention_dropout,
    )


def _of_encoder_decoder(config: RunConfig, shape: EncoderDecoderShape, lengths: PairLengths) -> ModelCosts:
    of_sample = encoder_decoder_counts.flops_by_block(shape, lengths.source, lengths.target, config.recompute)
    training = encoder_decoder_counts.training_flops(shape, lengths.source, lengths.target)
    hardware = encoder_decoder_counts.hardware_flops(shape, lengths.source, lengths.target, config.recompute)
    tokens = config.train.seq_length
    return ModelCosts(
        encoder_decoder_counts.num_parameters(shape),
        [
            "encoder embedding",
            *_layers("encoder ", shape.encoder.num_layers),
            "decoder embedding",
            *_layers("decoder ", shape.decoder.num_layers),
            "head",
        ],
        [
            BlockFlops(*(round(part / tokens) for part in (each.forward, each.backward_input, each.backward_weight)))
            for each in of_sample
        ],
        round(training / tokens),
        round(hardware / tokens),
        shape.encoder.attention.dropout,
    )


def _layers(of: str, count: int) -> list[str]:
    return [f"{of}layer {layer}" for layer in range(count)]
