"""Hugging Face's model of one of ours: where each of our parameters lies in its tensors. No torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from megalm.errors import UserError
from megalm.hugging_face.region import Region
from megalm.hugging_face.tables import GATED_T5, SAMPLE_HEAD, STACKS, TABLES, TOKEN_HEADS, Place
from megalm.models.config import ModelConfig
from megalm.models.dialects import DIALECTS
from megalm.models.encoder_shape import ENCODERS
from megalm.param_spec import ParamSpec

COPIES = (
    *("lm_head.weight", "embed_out.weight"),
    *(f"{head}.decoder.{part}" for head in ("cls.predictions", "lm_head") for part in ("weight", "bias")),
)
"""Names under which older files hold a tied head again."""

COPIES_OF_STACKS = tuple(f"{base}{stack}.embed_tokens.weight" for base in ("", "model.") for stack in STACKS)
"""Names under which files hold the table again that encoder and decoder share."""

UNREAD = (
    "*.position_ids",
    "*.attn.bias",
    "*.attn.masked_bias",
    "*.attention.bias",
    "*.attention.masked_bias",
    "*.rotary_emb.inv_freq",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
"""Tensors that older files hold beside parameters: masks and tables that follow from the config, or are never used."""

STAND_INS: Mapping[str, Mapping[str, str | None]] = {
    "bert": dict.fromkeys(
        (
            "bert.pooler.dense.weight",
            "bert.pooler.dense.bias",
            "cls.seq_relationship.weight",
            "cls.seq_relationship.bias",
        )
    ),
    "t5": {"lm_head.weight": "shared.weight"},
    "bart": {"final_logits_bias": None},
}
"""Tensors that files of a family may leave out: the one that stands for them, or none where they begin as drawn.

Masked language models have no head for pairs, T5 may share its table with a head that is not scaled, and BART without
its head has no numbers to add to logits.
"""


@dataclass(frozen=True)
class Counterpart:
    """Hugging Face's model of one of ours.

    Args:
        regions: where each of our parameters lies in its tensors.
        base: what files without an output head leave out of the tensors' names: ``transformer.`` for example.
        aside: tensors that a file may hold and nobody reads: what the model ties again under another name, heads of
            another use; a ``*`` stands for anything.
        stand_ins: see ``STAND_INS``.
    """

    regions: Mapping[str, Region]
    base: str
    aside: tuple[str, ...]
    stand_ins: Mapping[str, str | None]

    def leaves_aside(self, name: str) -> bool:
        """Tell whether a tensor of theirs is none of the model's."""
        return any(re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), name) for pattern in self.aside)

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
        UserError: the family has no table, or the model has no counterpart there.
    """
    if config.family not in TABLES:
        raise UserError(f"model.family={config.family} has no counterpart at Hugging Face; use {', '.join(TABLES)}.")
    if config.family in {*ENCODERS, "bart"} and not config.tie_word_embeddings:
        raise UserError(f"a {config.family} model of Hugging Face's ties its head; set model.tie_word_embeddings=true.")
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    table = TABLES[GATED_T5 if config.family == "t5" and config.feed_forward_proj != "relu" else config.family]
    regions = {name: _region(table, name, spec.shape, head_dim) for name, spec in specs.items()}
    aside = [*UNREAD, *COPIES_OF_STACKS, *(COPIES if config.tie_word_embeddings else ())]
    stand_ins = STAND_INS.get(config.family, {})
    if config.num_labels is not None:  # which a model of text may become
        aside += [*COPIES, *(place.theirs for place in table if place.ours.startswith(TOKEN_HEADS))]
        stand_ins = {region.name: None for name, region in regions.items() if name.startswith(SAMPLE_HEAD)}
    base = DIALECTS[config.family].base
    return Counterpart(regions, base and f"{base}.", tuple(aside), stand_ins)


def _region(table: tuple[Place, ...], name: str, shape: tuple[int, ...], head_dim: int) -> Region:
    found = [(place, match) for place in table if (match := _matched(place.ours, name))]
    assert len(found) == 1, f"{name} stands on {len(found)} lines of its family's table"
    place, match = found[0]
    theirs, rows = _filled(place.theirs, match.groups()), shape[0]
    if place.one_row:
        return Region(theirs, (1, rows), False, 0, rows, rows, one_row=True)
    transposed = place.transposed and len(shape) == 2
    if place.of_three == "no":
        return Region(theirs, shape[::-1] if transposed else shape, transposed, 0, rows, rows)
    whole = (3 * rows, *shape[1:])
    run = rows if place.of_three == "stacked" else head_dim
    return Region(theirs, whole[::-1] if transposed else whole, transposed, place.part * run, run, 3 * run)


def _matched(pattern: str, name: str) -> re.Match[str] | None:
    return re.fullmatch(re.escape(pattern).replace(r"\*", r"([^.]+)"), name)


def _filled(pattern: str, parts: tuple[str, ...]) -> str:
    rest = iter(parts)
    return re.sub(r"\*", lambda _: next(rest), pattern)
