"""Oracle: Hugging Face transformers, randomly initialised, on one process.

transformers computes T5's norms in float32 whatever the model's dtype: in float64 it is judged to 1e-6, and with norms
that keep the dtype to 1e-10. In float32 all is judged to 1e-5.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from megalm.batch import IGNORED, MicroBatch, Source
from megalm.mesh import Axis, Mesh
from megalm.models.config import ModelConfig
from megalm.models.encoder_decoder_shape import RelativeShape
from megalm.models.relative_bias import RelativeBias
from megalm.run_config import RunConfig
from megalm.training.build import TrainingState, build_state
from megalm.training.model import whole_model
from megalm.validation import validate
from tests.models.hugging_face import renamed as t5_names
from tests.models.hugging_face_bart import bart
from tests.models.hugging_face_bart import renamed as bart_names
from tests.models.hugging_face_t5 import t5
from tests.models.test_decoder import NEARLY_NONE, difference, learned, values_of, with_scale

EXACT, SINGLE, NARROW = 1e-10, 1e-6, 1e-5
GRADIENT_FLOOR = {"fp64": 1e-6, "fp32": 1e-2}
"""Of the model's largest gradient entry: below it is rounding, all that there is of the bias of keys."""
VOCAB_SIZE, SOURCE_LENGTH, TARGET_LENGTH = 61, 13, 9

BART = {"family": "bart", "hidden_size": 24, "num_attention_heads": 3, "max_position_embeddings": 16}
BART_CASES: dict[str, dict[str, Any]] = {
    "bart": BART,
    "bart, unlike stacks, untied, scaled": {
        **BART,
        "num_decoder_layers": 3,
        "decoder_attention_heads": 4,
        "decoder_ffn_dim": 31,
        "intermediate_size": 37,
        "tie_word_embeddings": False,
        "scale_embedding": True,
        "activation_function": "relu",
    },
    "bart, the path that drops": {
        **BART,
        "dropout": NEARLY_NONE,
        "attention_dropout": NEARLY_NONE,
        "activation_dropout": NEARLY_NONE,
    },
}
T5 = {"family": "t5", "hidden_size": 24, "num_attention_heads": 3}
CASES: dict[str, dict[str, Any]] = {
    "relu, tied": T5,
    "gated, untied, own head size": {
        **T5,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "head_dim": 5,
        "intermediate_size": 37,
        "layer_norm_epsilon": 1e-3,
    },
    "few buckets, deeper decoder": {
        **T5,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 6,
        "num_decoder_layers": 3,
    },
    "the path that drops": {**T5, "feed_forward_proj": "gated-silu", "dropout_rate": NEARLY_NONE},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Tiny products gain nothing from threads that wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_of(model: dict[str, Any], precision: str) -> RunConfig:
    sizes = {"num_hidden_layers": 2, "vocab_size": VOCAB_SIZE}
    tree = {
        "model": {**sizes, **model},
        "objective": {"name": "seq2seq"},
        "data": {"train": [{"path": "not read"}]},
        "train": {"precision": precision, "seq_length": SOURCE_LENGTH},
    }
    return validate(RunConfig, tree)


def state_of(config: RunConfig) -> TrainingState:
    """Build the model and move every value, so that no norm is 1 and attention has a preference."""
    state = build_state(config, Mesh.alone())
    generator = torch.Generator().manual_seed(7)
    for parameter in state.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        parameter.data.mul_(0.3).add_(noise, alpha=0.2)
    state.model.train()
    return state


def batch_of(*, padded: bool) -> MicroBatch:
    """Return three samples; with padding, the second source ends early, and the third target."""
    generator = torch.Generator().manual_seed(3)
    read = torch.randint(VOCAB_SIZE, (3, SOURCE_LENGTH), generator=generator)
    said = torch.randint(VOCAB_SIZE, (3, TARGET_LENGTH), generator=generator)
    documents = torch.zeros(3, SOURCE_LENGTH, dtype=torch.int32)
    if padded:
        documents[1, 8:] = -1
        said[2, 5:] = IGNORED

    def places(tokens: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
        return positions, positions + torch.arange(3).unsqueeze(1) * SOURCE_LENGTH

    source = Source(read, *places(read), documents if padded else None)
    told = said.roll(1, 1).masked_fill(said.roll(1, 1) == IGNORED, 0)
    told[:, 0] = 0
    return with_scale(MicroBatch(told, said, *places(told), 1.0, source=source))


def compared(config: RunConfig, batch: MicroBatch, *, wide_norms: bool = False) -> dict[str, float]:
    """Return how far loss, logits and each gradient are from transformers'."""
    assert batch.source is not None
    state = state_of(config)
    dtype = torch.float64 if config.train.precision == "fp64" else torch.float32
    names = t5_names if config.model.family == "t5" else bart_names
    if config.model.family == "t5":
        model = t5(config.model, values_of(state), dtype, wide_norms=wide_norms)
    else:
        model = bart(config.model, values_of(state), dtype)
    loss, gradients = learned(state, batch)
    seen = None if batch.source.documents_bs is None else (batch.source.documents_bs >= 0).long()
    told = {"input_ids": batch.source.tokens_bs, "attention_mask": seen, "decoder_input_ids": batch.tokens_bs}
    out = model(**told, labels=batch.labels_bs)
    out.loss.backward()
    state.model.eval()
    with torch.no_grad():
        logits = state.model.logits(batch)  # type: ignore[operator]
    mine = names(config.model, gradients)
    theirs = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert mine.keys() == theirs.keys()
    floor = GRADIENT_FLOOR[config.train.precision] * max(float(gradient.abs().max()) for gradient in theirs.values())
    return {
        "loss": abs(loss - out.loss.item()) / out.loss.item(),
        "logits": difference(logits, out.logits.detach().flatten(0, 1)),
        **{name: difference(mine[name], theirs[name], floor) for name in theirs},
    }


def beyond(apart: dict[str, float], tolerance: float) -> dict[str, float]:
    return {name: far for name, far in apart.items() if not far <= tolerance}


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("fields", CASES.values(), ids=CASES)
def test_t5(fields: dict[str, Any], padded: bool) -> None:
    batch = batch_of(padded=padded)
    assert beyond(compared(run_of(fields, "fp64"), batch), SINGLE) == {}
    assert beyond(compared(run_of(fields, "fp64"), batch, wide_norms=True), EXACT) == {}
    assert beyond(compared(run_of(fields, "fp32"), batch), NARROW) == {}


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("fields", BART_CASES.values(), ids=BART_CASES)
def test_bart(fields: dict[str, Any], padded: bool) -> None:
    batch = batch_of(padded=padded)
    assert beyond(compared(run_of(fields, "fp64"), batch), EXACT) == {}
    assert beyond(compared(run_of(fields, "fp32"), batch), NARROW) == {}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("num_buckets", "max_distance"), [(32, 128), (8, 20), (32, 17), (20, 300)])
def test_buckets(causal: bool, num_buckets: int, max_distance: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    bias = RelativeBias(RelativeShape(num_buckets, max_distance, 1.0), 2, Axis.alone("tp"), causal=causal)
    distances = torch.arange(-700, 700)
    expected = T5Attention._relative_position_bucket(distances, not causal, num_buckets, max_distance)
    assert torch.equal(bias.buckets(distances), expected)


PUBLISHED = {"t5-small": 60_506_624, "t5-base": 222_903_552, "bart-base": 139_420_416}


@pytest.mark.parametrize(("preset", "parameters"), PUBLISHED.items())
def test_published_sizes(preset: str, parameters: int) -> None:
    """Of BART's the numbers added to the logits, which are never learned, do not count."""
    model = whole_model(ModelConfig.model_validate({"preset": preset}))
    assert sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) == parameters
