"""Which tensor of Hugging Face's holds each of our parameters: one table a family, read both ways. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from megalm.errors import UserError
from megalm.hugging_face.region import Region
from megalm.models.config import ModelConfig
from megalm.models.config_json import DIALECTS
from megalm.models.encoder_shape import ENCODERS
from megalm.param_spec import ParamSpec


@dataclass(frozen=True)
class Place:
    """A line of a table; a ``*`` stands for one part of a name, the same on both sides.

    Args:
        ours: names of our parameters.
        theirs: names of their tensors.
        part: 0 for queries, 1 for keys, 2 for values, where theirs holds the three.
        of_three: how: one after the other, or head by head.
        transposed: theirs is [in, out].
    """

    ours: str
    theirs: str
    part: int = 0
    of_three: Literal["no", "stacked", "by head"] = "no"
    transposed: bool = False


_LLAMA = (
    Place("model.embed_tokens.weight", "model.embed_tokens.weight"),
    Place("model.layers.*.input_layernorm.weight", "model.layers.*.input_layernorm.weight"),
    Place("model.layers.*.self_attn.*.*", "model.layers.*.self_attn.*.*"),
    Place("model.layers.*.post_attention_layernorm.weight", "model.layers.*.post_attention_layernorm.weight"),
    Place("model.layers.*.mlp.*.*", "model.layers.*.mlp.*.*"),
    Place("model.norm.weight", "model.norm.weight"),
    Place("lm_head.weight", "lm_head.weight"),
)


def _encoder(base: str, head: str, head_norm: str) -> tuple[Place, ...]:
    """Return the lines of BERT's shape."""
    attention = {"q_proj": "self.query", "k_proj": "self.key", "v_proj": "self.value", "o_proj": "output.dense"}
    embeddings, layer = f"{base}.embeddings", f"{base}.encoder.layer.*"
    return (
        Place("model.embedding.embed_tokens.weight", f"{embeddings}.word_embeddings.weight"),
        Place("model.embedding.embed_positions.weight", f"{embeddings}.position_embeddings.weight"),
        Place("model.embedding.embed_segments.weight", f"{embeddings}.token_type_embeddings.weight"),
        Place("model.embedding.norm.*", f"{embeddings}.LayerNorm.*"),
        *(
            Place(f"model.layers.*.self_attn.{ours}.*", f"{layer}.attention.{theirs}.*")
            for ours, theirs in attention.items()
        ),
        Place("model.layers.*.self_attn_layer_norm.*", f"{layer}.attention.output.LayerNorm.*"),
        Place("model.layers.*.mlp.up_proj.*", f"{layer}.intermediate.dense.*"),
        Place("model.layers.*.mlp.down_proj.*", f"{layer}.output.dense.*"),
        Place("model.layers.*.final_layer_norm.*", f"{layer}.output.LayerNorm.*"),
        Place("lm_head.dense.*", f"{head_norm.rpartition('.')[0]}.dense.*"),
        Place("lm_head.norm.*", f"{head_norm}.*"),
        Place("lm_head.decoder.bias", f"{head}.bias"),
    )


TABLES: Mapping[str, tuple[Place, ...]] = {
    "gpt2": (
        Place("model.embed_tokens.weight", "transformer.wte.weight"),
        Place("model.embed_positions.weight", "transformer.wpe.weight"),
        Place("model.layers.*.input_layernorm.*", "transformer.h.*.ln_1.*"),
        *(
            Place(
                f"model.layers.*.self_attn.{name}_proj.*",
                "transformer.h.*.attn.c_attn.*",
                part=part,
                of_three="stacked",
                transposed=True,
            )
            for part, name in enumerate("qkv")
        ),
        Place("model.layers.*.self_attn.o_proj.*", "transformer.h.*.attn.c_proj.*", transposed=True),
        Place("model.layers.*.post_attention_layernorm.*", "transformer.h.*.ln_2.*"),
        Place("model.layers.*.mlp.up_proj.*", "transformer.h.*.mlp.c_fc.*", transposed=True),
        Place("model.layers.*.mlp.down_proj.*", "transformer.h.*.mlp.c_proj.*", transposed=True),
        Place("model.norm.*", "transformer.ln_f.*"),
        Place("lm_head.weight", "lm_head.weight"),
    ),
    "gpt_neox": (
        Place("model.embed_tokens.weight", "gpt_neox.embed_in.weight"),
        Place("model.layers.*.input_layernorm.*", "gpt_neox.layers.*.input_layernorm.*"),
        *(
            Place(
                f"model.layers.*.self_attn.{name}_proj.*",
                "gpt_neox.layers.*.attention.query_key_value.*",
                part=part,
                of_three="by head",
            )
            for part, name in enumerate("qkv")
        ),
        Place("model.layers.*.self_attn.o_proj.*", "gpt_neox.layers.*.attention.dense.*"),
        Place("model.layers.*.post_attention_layernorm.*", "gpt_neox.layers.*.post_attention_layernorm.*"),
        Place("model.layers.*.mlp.up_proj.*", "gpt_neox.layers.*.mlp.dense_h_to_4h.*"),
        Place("model.layers.*.mlp.down_proj.*", "gpt_neox.layers.*.mlp.dense_4h_to_h.*"),
        Place("model.norm.*", "gpt_neox.final_layer_norm.*"),
        Place("lm_head.weight", "embed_out.weight"),
    ),
    "bert": (
        *_encoder("bert", "cls.predictions", "cls.predictions.transform.LayerNorm"),
        Place("pair_head.pooler.*", "bert.pooler.dense.*"),
        Place("pair_head.classifier.*", "cls.seq_relationship.*"),
    ),
    "roberta": _encoder("roberta", "lm_head", "lm_head.layer_norm"),
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),
}
"""By family. A tied head has no line of its own in a model, so it is neither asked for nor written."""

COPIES = (
    *("lm_head.weight", "embed_out.weight"),
    *(f"{head}.decoder.{part}" for head in ("cls.predictions", "lm_head") for part in ("weight", "bias")),
)
"""Names under which older files hold what a model ties again."""

UNREAD = (
    "*.position_ids",
    "*.attn.bias",
    "*.attn.masked_bias",
    "*.attention.bias",
    "*.attention.masked_bias",
    "*.rotary_emb.inv_freq",
)
"""Tensors that older files hold beside parameters: masks and tables that follow from the config."""


@dataclass(frozen=True)
class Counterpart:
    """Hugging Face's model of one of ours.

    Args:
        regions: where each of our parameters lies in its tensors.
        base: what files without an output head leave out of the tensors' names: ``transformer.`` for example.
        copies: tensors that a file may hold again under another name, because the model ties them.
    """

    regions: Mapping[str, Region]
    base: str
    copies: tuple[str, ...]

    def tensors(self) -> dict[str, dict[str, Region]]:
        """Return their tensors by name, each with our parameters that lie in it."""
        found: dict[str, dict[str, Region]] = {}
        for ours, region in self.regions.items():
            found.setdefault(region.name, {})[ours] = region
        return found


def counterpart(config: ModelConfig, specs: Mapping[str, ParamSpec]) -> Counterpart:
    """Return Hugging Face's model of one of ours.

    Args:
        config: a resolved model section.
        specs: the model's parameters by name.

    Raises:
        UserError: the family has no table, or the model is a classifier.
    """
    if config.family not in TABLES:
        raise UserError(f"model.family={config.family} has no counterpart at Hugging Face; use {', '.join(TABLES)}.")
    if config.num_labels is not None:
        raise UserError(
            f"model.num_labels={config.num_labels}: a classifier has no counterpart here; use a model of text."
        )
    if config.family in ENCODERS and not config.tie_word_embeddings:
        raise UserError(f"a {config.family} model of Hugging Face's ties its head; set model.tie_word_embeddings=true.")
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    regions = {name: _region(TABLES[config.family], name, spec.shape, head_dim) for name, spec in specs.items()}
    copies = COPIES if config.tie_word_embeddings else ()
    return Counterpart(regions, f"{DIALECTS[config.family].base}.", copies)


def _region(table: tuple[Place, ...], name: str, shape: tuple[int, ...], head_dim: int) -> Region:
    found = [(place, match) for place in table if (match := _matched(place.ours, name))]
    assert len(found) == 1, f"{name} stands on {len(found)} lines of its family's table"
    place, match = found[0]
    theirs, rows = _filled(place.theirs, match.groups()), shape[0]
    transposed = place.transposed and len(shape) == 2
    if place.of_three == "no":
        return Region(theirs, shape[::-1] if transposed else shape, transposed, 0, rows, rows)
    whole = (3 * rows, *shape[1:])
    run = rows if place.of_three == "stacked" else head_dim
    return Region(theirs, whole[::-1] if transposed else whole, transposed, place.part * run, run, 3 * run)


def is_unread(name: str) -> bool:
    """Tell whether a tensor of theirs is no parameter."""
    return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in UNREAD)


def _matched(pattern: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), name)


def _filled(pattern: str, parts: tuple[str, ...]) -> str:
    rest = iter(parts)
    return re.sub(r"\*", lambda _: next(rest), pattern)
