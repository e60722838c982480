"""The objective of encoder-decoders, put together from the run file and the tokenizer's special tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from megalm.data.corpora import Cut, WindowCorpus
from megalm.data.record_cuts import SingleRecords
from megalm.data.special_tokens import SpecialTokens
from megalm.errors import UserError
from megalm.objectives.denoising import Denoising
from megalm.objectives.pair_lengths import SpanSizes
from megalm.objectives.pairs import Pairs
from megalm.objectives.seq2seq import Examples, Framing, Seq2Seq
from megalm.objectives.span_corruption import SpanCorruption
from megalm.run_config import RunConfig

HIDES = frozenset(("mask", "infill"))
"""The ways of denoising that put masks into a text."""


def seq2seq(config: RunConfig) -> Seq2Seq:
    """Return the objective of an ``objective.name=seq2seq`` run.

    Raises:
        UserError: there is no tokenizer, it lacks a token that is needed, or the sequences do not fit the model.
    """
    if config.data.reset_attention:
        raise UserError(
            "data.reset_attention has no effect with objective.name=seq2seq, whose samples are one document each; "
            "remove it."
        )
    if config.train.seq_length < 2:
        raise UserError("train.seq_length=1 leaves nothing to hide for objective.name=seq2seq; give 2 or more.")
    special = SpecialTokens.of(config.data.tokenizer_path())
    framing = framing_of(config, special)
    examples, longest = _examples(config, special)
    room = config.model.longest_sequence
    if room is not None and longest + framing.size > room:
        raise UserError(
            f"train.seq_length={config.train.seq_length} gives sequences of {longest + framing.size} tokens, and "
            f"model.max_position_embeddings={room} is less; shorten the samples or give the model more positions."
        )
    return Seq2Seq(examples, framing, longest + framing.size, config.run.seed)


def seq2seq_cut(config: RunConfig) -> Cut:
    """Return how corpora are cut into samples: windows of a text, or records."""
    return SingleRecords() if config.objective.seq2seq == "pairs" else WindowCorpus


def framing_of(config: RunConfig, special: SpecialTokens) -> Framing:
    """Return what stands around sequences; a decoder starts from padding, or BART's from the end of a sequence.

    Raises:
        UserError: the tokenizer lacks one of the tokens.
    """
    end, pad = special.id_of("eos"), special.id_of("pad")
    start = config.model.decoder_start_token_id
    if start is None:
        start = end if config.model.family == "bart" else pad
    return Framing(special.find("cls"), end, pad, start)


def _examples(config: RunConfig, special: SpecialTokens) -> tuple[Examples, int]:
    """Return what makes pairs of samples, and how many tokens a source or target can have."""
    objective, length = config.objective, config.train.seq_length
    if objective.seq2seq == "pairs":
        return Pairs(special.id_of("eos")), length + 1
    if objective.seq2seq == "denoising":
        noise = frozenset(objective.noise or ())
        ends = ends_of_sentences(special, config.model.vocab_size, objective.sentence_ends or ())
        mask_id = special.id_of("mask") if noise & HIDES else None
        density, mean = objective.noise_density or 0.0, objective.mean_span_length or 1.0
        return Denoising(noise, density, mean, mask_id, ends if "permute" in noise else None), length
    assert objective.noise_density is not None
    assert objective.mean_span_length is not None
    sizes = SpanSizes.of(length, objective.noise_density, objective.mean_span_length)
    sentinels = np.array(special.sentinels(sizes.spans)[: sizes.spans], np.int64)
    return SpanCorruption(sizes, sentinels), sizes.longest


def ends_of_sentences(special: SpecialTokens, vocab_size: int, ends: Sequence[str]) -> NDArray[np.bool_]:
    """Return, by token id, whether a sentence ends with the token: by ``ends``, a line break, or the document's end."""
    found = np.zeros(vocab_size, np.bool_)
    size = special.tokenizer.get_vocab_size()
    texts = special.tokenizer.decode_batch([[number] for number in range(size)], skip_special_tokens=False)
    for number, text in enumerate(texts[:vocab_size]):
        found[number] = text.strip().endswith(tuple(ends)) or "\n" in text
    found[special.id_of("eos")] = True
    return found
