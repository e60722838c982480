"""Tiny runs of encoders, on pairs of texts."""

from typing import Any

from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.verify.runs import VOCAB_SIZE

BERT = {
    **{"family": "bert", "hidden_size": 40, "num_attention_heads": 5},
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
}
ELECTRA = {**BERT, "family": "electra", "initializer_range": 0.2, "embedding_size": 24, "generator_size": 0.4}
PAIRS: dict[str, Any] = {"name": "mlm_nsp", "nsp_weight": 0.5}
REPLACED: dict[str, Any] = {"name": "rtd", "noise_density": 0.3, "rtd_weight": 5.0}


def run_file(model: dict[str, Any], objective: dict[str, Any], corpus: tuple[str, str], **sections: Any) -> RunConfig:
    """Return the run of a model; sections are merged into the defaults of these tests.

    Args:
        model: what it has beside the sizes that all have.
        objective: what it learns.
        corpus: of ``write_pairs_corpus``.
    """
    path, tokenizer = corpus
    tree: dict[str, dict[str, Any]] = {
        "model": {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 24, **model},
        "objective": objective,
        "data": {"train": [{"path": path}], "tokenizer": tokenizer},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 12, "seq_length": 21},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, fields in sections.items():
        tree[name] = {**tree.get(name, {}), **fields}
    return validate(RunConfig, tree)
