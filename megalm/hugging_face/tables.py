"""Which tensor of Hugging Face's holds each of our parameters: one table a family, read both ways. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Place:
    """A line of a table; a ``*`` stands for one part of a name, the same on both sides.

    Args:
        ours: names of our parameters.
        theirs: names of their tensors.
        part: 0 for queries, 1 for keys, 2 for values, where theirs holds the three.
        of_three: how: one after the other, or head by head.
        transposed: theirs is [in, out].
        one_row: theirs is a matrix of one row, ours a vector.
    """

    ours: str
    theirs: str
    part: int = 0
    of_three: Literal["no", "stacked", "by head"] = "no"
    transposed: bool = False
    one_row: bool = False


_LLAMA = (
    Place("model.embed_tokens.weight", "model.embed_tokens.weight"),
    Place("model.layers.*.input_layernorm.weight", "model.layers.*.input_layernorm.weight"),
    Place("model.layers.*.self_attn.*.*", "model.layers.*.self_attn.*.*"),
    Place("model.layers.*.post_attention_layernorm.weight", "model.layers.*.post_attention_layernorm.weight"),
    Place("model.layers.*.mlp.*.*", "model.layers.*.mlp.*.*"),
    Place("model.norm.weight", "model.norm.weight"),
    Place("lm_head.weight", "lm_head.weight"),
    Place("score.classifier.weight", "score.weight"),
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


STACKS = ("encoder", "decoder")
TOKEN_HEADS = ("lm_head.", "pair_head.")
SAMPLE_HEAD = "score."
"""How names of our parameters begin that a model with a head for whole samples has not, and has."""


def _t5(*, gated: bool) -> tuple[Place, ...]:
    """Return the lines of T5: a block is a list of parts, attention to the source the second of a decoder's three."""
    places = [Place("shared.weight", "shared.weight"), Place("lm_head.weight", "lm_head.weight")]
    for stack, attentions in zip(STACKS, (["self"], ["self", "cross"]), strict=True):
        layers, blocks = f"{stack}.layers.*", f"{stack}.block.*"
        table = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        places += [
            Place(f"{stack}.relative_attention_bias.weight", table),
            Place(f"{stack}.norm.weight", f"{stack}.final_layer_norm.weight"),
        ]
        for number, attention in enumerate(attentions):
            part, name = f"{blocks}.layer.{number}", {"self": "SelfAttention", "cross": "EncDecAttention"}[attention]
            places += [
                Place(f"{layers}.{attention}_attn.*_proj.weight", f"{part}.{name}.*.weight"),
                Place(f"{layers}.{attention}_attn_residual.norm.weight", f"{part}.layer_norm.weight"),
            ]
        part = f"{blocks}.layer.{len(attentions)}"
        mlp = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
        places += [
            *(
                Place(f"{layers}.mlp.{ours}_proj.weight", f"{part}.DenseReluDense.{theirs}.weight")
                for ours, theirs in mlp.items()
            ),
            Place(f"{layers}.mlp_residual.norm.weight", f"{part}.layer_norm.weight"),
        ]
    return tuple(places)


GATED_T5 = "t5, gated"
"""The family t5 where its MLPs have a gate, which changes the names of their matrices."""

_BART_LAYER = {
    **{f"self_attn.{name}_proj": f"self_attn.{name}_proj" for name in "qkv"},
    "self_attn.o_proj": "self_attn.out_proj",
    **{f"cross_attn.{name}_proj": f"encoder_attn.{name}_proj" for name in "qkv"},
    "cross_attn.o_proj": "encoder_attn.out_proj",
    "self_attn_residual.norm": "self_attn_layer_norm",
    "cross_attn_residual.norm": "encoder_attn_layer_norm",
    "mlp.up_proj": "fc1",
    "mlp.down_proj": "fc2",
    "mlp_residual.norm": "final_layer_norm",
}

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
        Place("score.classifier.weight", "score.weight"),
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
        Place("score.classifier.weight", "score.weight"),
    ),
    "bert": (
        *_encoder("bert", "cls.predictions", "cls.predictions.transform.LayerNorm"),
        Place("pair_head.pooler.*", "bert.pooler.dense.*"),
        Place("pair_head.classifier.*", "cls.seq_relationship.*"),
        Place("score.pooler.*", "bert.pooler.dense.*"),
        Place("score.classifier.*", "classifier.*"),
    ),
    "roberta": (
        *_encoder("roberta", "lm_head", "lm_head.layer_norm"),
        Place("score.pooler.*", "classifier.dense.*"),
        Place("score.classifier.*", "classifier.out_proj.*"),
    ),
    **dict.fromkeys(("llama", "mistral", "qwen2"), _LLAMA),
    "t5": _t5(gated=False),
    GATED_T5: _t5(gated=True),
    "bart": (
        Place("shared.weight", "model.shared.weight"),
        *(
            place
            for stack in STACKS
            for place in (
                Place(f"{stack}.embed_positions.weight", f"model.{stack}.embed_positions.weight"),
                Place(f"{stack}.norm.*", f"model.{stack}.layernorm_embedding.*"),
                *(
                    Place(f"{stack}.layers.*.{ours}.*", f"model.{stack}.layers.*.{theirs}.*")
                    for ours, theirs in _BART_LAYER.items()
                ),
            )
        ),
        Place("lm_head.bias", "final_logits_bias", one_row=True),
    ),
}
"""By family. A tied head has no line of its own in a model, so it is neither asked for nor written.

A model has heads for tokens or one for whole samples.
"""
