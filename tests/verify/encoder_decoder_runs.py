"""Tiny runs of encoder-decoders, on random windows and a tokenizer of nothing but numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megalm.data.special_tokens import NAMED_SETS
from megalm.run_config import RunConfig
from megalm.validation import validate
from tests.objectives.tokenizer import write_tokenizer
from tests.verify.runs import VOCAB_SIZE

T5, T5_UNTIED = "t5, 5 heads, dropout", "t5 untied, gated, deeper decoder"
BART = "bart, unlike stacks, dropout"
MODELS: Mapping[str, Mapping[str, Any]] = {
    T5: {"family": "t5", "hidden_size": 40, "num_attention_heads": 5, "dropout_rate": 0.1},
    T5_UNTIED: {
        "family": "t5",
        "hidden_size": 32,
        "num_attention_heads": 3,
        "head_dim": 6,
        "num_decoder_layers": 3,
        "intermediate_size": 37,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    BART: {
        "family": "bart",
        "hidden_size": 40,
        "num_attention_heads": 5,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 37,
        "max_position_embeddings": 32,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "activation_dropout": 0.1,
    },
}
OBJECTIVES: Mapping[str, Mapping[str, Any]] = {
    "t5": {"mean_span_length": 2.0, "noise_density": 0.3},
    "bart": {"seq2seq": "denoising", "noise": ["infill", "permute", "delete", "rotate"]},
}


def tokenizer_of_numbers(folder: Path) -> Path:
    """Write a tokenizer whose last tokens are the special ones of T5."""
    special = ["</s>", "<mask>", *NAMED_SETS["t5"]]
    return write_tokenizer(folder, [str(number) for number in range(VOCAB_SIZE - len(special))], special)


def run_file(model: str, tokenizer: Path, /, **sections: Mapping[str, Any]) -> RunConfig:
    """Return the run of one of ``MODELS``; sections are merged into the defaults of these tests."""
    fields = MODELS[model]
    tree: dict[str, Mapping[str, Any]] = {
        "model": {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, **fields},
        "objective": {"name": "seq2seq", **OBJECTIVES[fields["family"]]},
        "data": {"train": [{"path": "tests.verify.runs:random_windows"}], "tokenizer": str(tokenizer)},
        "train": {"precision": "fp64", "global_batch_size": 12, "micro_batch_size": 12, "seq_length": 23},
        "optimizer": {"lr": 1e-2, "clip_grad_norm": 0.5},
    }
    for name, changed in sections.items():
        tree[name] = {**tree.get(name, {}), **changed}
    return validate(RunConfig, tree)
