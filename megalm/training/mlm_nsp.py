"""The objectives of encoders, put together from the run file and the tokenizer's special tokens."""

from functools import partial

import numpy as np

from megalm.data.corpora import Cut
from megalm.data.framed_windows import FramedWindows
from megalm.data.sentence_pairs import Frame, SentencePairs
from megalm.data.special_tokens import SpecialTokens
from megalm.data.words import WordPieces
from megalm.objectives.masking import OF_BERT, OF_ELECTRA, Fates, Masking
from megalm.objectives.mlm_nsp import MlmNsp
from megalm.objectives.rtd import Rtd
from megalm.run_config import RunConfig
from megalm.training.seq2seq import ends_of_sentences


def mlm_nsp(config: RunConfig) -> MlmNsp:
    """Return the objective of an ``objective.name=mlm_nsp`` run.

    Raises:
        UserError: there is no tokenizer, or it lacks a token that is needed.
    """
    return _hidden_tokens(config, OF_BERT)


def rtd(config: RunConfig) -> Rtd:
    """Return the objective of an ``objective.name=rtd`` run; see ``mlm_nsp``."""
    assert config.objective.rtd_weight is not None
    return Rtd(_hidden_tokens(config, OF_ELECTRA), config.objective.rtd_weight)


def _hidden_tokens(config: RunConfig, fates: Fates) -> MlmNsp:
    objective, vocab_size = config.objective, config.model.vocab_size
    assert objective.noise_density is not None
    special = SpecialTokens.of(config.data.tokenizer_path())
    known = min(special.tokenizer.get_vocab_size(), vocab_size)
    ordinary = np.setdiff1d(np.arange(known), sorted(special.ids()))
    masking = Masking(objective.noise_density, special.id_of("mask"), ordinary, vocab_size, fates)
    pieces = WordPieces.of(special.tokenizer, vocab_size) if objective.whole_word else None
    return MlmNsp(masking, pieces, objective.nsp_weight, config.run.seed)


def mlm_nsp_cut(config: RunConfig) -> Cut:
    """Return how corpora become the samples of such a run: pairs, or running texts; see ``mlm_nsp``."""
    special = SpecialTokens.of(config.data.tokenizer_path())
    frame = Frame(special.id_of("cls"), special.id_of("sep"), special.id_of("pad"), special.id_of("eos"))
    if not config.objective.nsp:
        return partial(FramedWindows, frame=frame)
    ends_v = ends_of_sentences(special, config.model.vocab_size, config.objective.sentence_ends or ())
    return partial(SentencePairs, frame=frame, ends_v=ends_v)
