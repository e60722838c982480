"""What a generator and the discriminator behind it are made of. No torch."""

from dataclasses import dataclass, replace

from megalm.errors import UserError
from megalm.models.config import ModelConfig
from megalm.models.encoder_shape import EncoderShape

ELECTRA = "electra"
"""The family that has this shape."""


@dataclass(frozen=True)
class ElectraShape:
    """A section of the family spelled out.

    Args:
        embedding: what both read, as that of an encoder whose rows are embedded tokens; each drops its elements itself.
        generator: a smaller encoder of as many layers.
        discriminator: an encoder.
    """

    embedding: EncoderShape
    generator: EncoderShape
    discriminator: EncoderShape

    @staticmethod
    def of(config: ModelConfig) -> "ElectraShape":
        """Spell out a resolved model section.

        Raises:
            UserError: the generator's heads do not divide its features.
        """
        assert config.generator_size is not None
        discriminator = EncoderShape.of(config)
        hidden = max(round(config.hidden_size * config.generator_size), 1)
        heads = max(round(config.num_attention_heads * config.generator_size), 1)
        if hidden % heads:
            raise UserError(
                f"model.generator_size={config.generator_size} gives the generator {heads} attention heads, which do "
                f"not divide its {hidden} features; choose another share of model.hidden_size={config.hidden_size} "
                f"and model.num_attention_heads={config.num_attention_heads}."
            )
        inner = max(round(discriminator.intermediate_size * config.generator_size), 1)
        return ElectraShape(
            replace(discriminator, hidden_size=config.embedding_size or config.hidden_size, hidden_dropout=0.0),
            replace(discriminator, hidden_size=hidden, num_heads=heads, intermediate_size=inner),
            discriminator,
        )
