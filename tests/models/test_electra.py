"""Oracle: Hugging Face transformers' ElectraForMaskedLM and ElectraForPreTraining, randomly initialised, in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm import rng
from megalm.batch import IGNORED, MicroBatch
from megalm.errors import UserError
from megalm.models.class_head import counted
from megalm.models.config import ModelConfig
from megalm.models.electra_shape import ElectraShape
from megalm.models.mean_loss import means, told
from megalm.models.presets import PRESETS
from megalm.run_config import RunConfig
from megalm.training.build import named_parameters
from megalm.training.model import whole_specs
from megalm.validation import validate
from tests.models.hugging_face_electra import models_of, named_by
from tests.models.test_decoder import difference, state_of

VOCAB_SIZE, B, S = 61, 3, 11
WEIGHT = 7.0
SMALL = {"hidden_size": 24, "num_attention_heads": 4, "embedding_size": 10, "generator_size": 0.5}
CASES: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "embeddings as wide as the discriminator": {**SMALL, "embedding_size": 24, "generator_size": 0.25},
    "embeddings as wide as the generator": {**SMALL, "embedding_size": 12},
    "other sizes, untied": {
        **SMALL,
        "intermediate_size": 37,
        "layer_norm_eps": 1e-3,
        "type_vocab_size": 3,
        "hidden_act": "relu",
        "vocab_size": 1009,
        "tie_word_embeddings": False,
    },
}


def run_of(model: dict[str, Any]) -> RunConfig:
    sizes = {"family": "electra", "num_hidden_layers": 2, "vocab_size": VOCAB_SIZE, "max_position_embeddings": 16}
    return validate(
        RunConfig,
        {
            "model": {**sizes, **model},
            "objective": {"name": "rtd"},
            "data": {"train": [{"path": "not read"}]},
            "train": {"precision": "fp64", "seq_length": S},
        },
    )


def batch_of(config: RunConfig, *, padded: bool) -> MicroBatch:
    """Return samples of different lengths; most hidden tokens are one token, which is likely to be named right."""
    generator = torch.Generator().manual_seed(3)
    lengths = torch.tensor([[S], [7], [4]] if padded else [[S]] * B)
    places = torch.arange(S).expand(B, S)
    real = places < lengths
    tokens = torch.randint(1, config.model.vocab_size, (B, S), generator=generator).masked_fill(~real, 0)
    asked = real & (torch.rand(B, S, generator=generator) < 0.5)
    asked[0, 2] = asked[2, 1] = True
    said = torch.randint(0, config.model.vocab_size, (B, S), generator=generator)
    return MicroBatch(
        tokens,
        said.masked_fill(~asked, IGNORED),
        places,
        1000 + torch.arange(B * S).view(B, S),
        1 / int(asked.sum()),
        torch.where(real, 0, -1).int() if padded else None,
        segments_bs=(places >= 3).long(),
        judged_bs=real,
        judged_loss_scale=WEIGHT / int(real.sum()),
    )


def mask_of(batch: MicroBatch) -> Tensor:
    return torch.ones_like(batch.tokens_bs) if batch.documents_bs is None else (batch.documents_bs >= 0).long()


def drawn_by(logits_bsv: Tensor, batch: MicroBatch) -> Tensor:
    """Return the generator's tokens in place of hidden ones, of the whole logits, by the model's own stream."""
    stream = rng.key(1234, "dropout", "generator_head.drawn")
    bits = rng.bits(stream, batch.rows_bs, torch.arange(logits_bsv.shape[-1]))
    uniform = (bits.double() + 2**31 + 0.5) / 2**32
    drawn = (logits_bsv - torch.log(-torch.log(uniform))).argmax(-1)
    return torch.where(batch.asked_bs, drawn, batch.tokens_bs)


def of_both(values: dict[str, Tensor], config: ModelConfig) -> tuple[nn.Module, nn.Module]:
    models = models_of(config)
    for model, tower in zip(models, ("generator", "discriminator"), strict=True):
        missing, unexpected = model.double().load_state_dict(named_by(values, tower), strict=False)
        assert not unexpected
        assert set(missing) <= ({"generator_lm_head.weight"} if config.tie_word_embeddings else set())
    return models


@pytest.mark.parametrize("padded", [True, False], ids=["padded", "full"])
@pytest.mark.parametrize("name", CASES)
def test_losses_logits_and_gradients(name: str, padded: bool) -> None:
    config = run_of(CASES[name])
    state = state_of(config)
    batch = batch_of(config, padded=padded)
    values = {name: parameter.detach().clone() for name, parameter in named_parameters(state).items()}
    generator, discriminator = of_both(values, config.model)

    with told(state.model.modules(), "cpu") as seen, counted(state.model.modules()) as said_cc:
        loss = state.engine.run(state.programs.training(1), [batch]).item()
    slots = [(bucket, slot) for bucket in state.buckets for slot in bucket.slots]
    gradients = {slot.spec.name: slot.view(bucket.gradients.tensor) for bucket, slot in slots}

    mask = {"attention_mask": mask_of(batch), "token_type_ids": batch.segments_bs}
    named = generator(batch.tokens_bs, labels=batch.labels_bs, **mask)
    corrupt = drawn_by(named.logits.detach(), batch)
    original = torch.where(batch.asked_bs, batch.labels_bs, batch.tokens_bs)
    replaced, real = corrupt != original, mask_of(batch).bool()
    judged = discriminator(corrupt, labels=replaced.long(), **mask)
    judged_loss = F.binary_cross_entropy_with_logits(judged.logits[real], replaced[real].double())
    assert judged.loss.item() == pytest.approx(judged_loss.item(), rel=1e-6)  # transformers' own is made in float32
    expected = named.loss + WEIGHT * judged_loss
    expected.backward()

    assert loss == pytest.approx(expected.item(), rel=1e-10)
    assert means(seen) == pytest.approx({"mlm": named.loss.item(), "rtd": judged_loss.item()}, rel=1e-10)
    assert said_cc is not None
    answers = F.one_hot((judged.logits > 0).long(), 2)
    assert said_cc.tolist() == [answers[real & ~replaced].sum(0).tolist(), answers[real & replaced].sum(0).tolist()]
    assert replaced.any()

    theirs: dict[str, Tensor] = {}
    for model, tower in ((generator, "generator"), (discriminator, "discriminator")):
        of_model = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        ours = {their: mine for mine in gradients for their in named_by({mine: gradients[mine]}, tower)}
        assert ours.keys() == of_model.keys()
        for their, mine in ours.items():
            theirs[mine] = theirs.get(mine, torch.zeros(())) + of_model[their]
    assert theirs.keys() == gradients.keys()
    floor = 1e-5 * max(float(gradient.abs().max()) for gradient in theirs.values())
    apart = {name: difference(gradients[name], theirs[name], floor) for name in theirs}
    assert {name: far for name, far in apart.items() if not far <= 1e-10} == {}

    *below, head = state.model.eval().blocks()  # type: ignore[operator]
    with torch.no_grad():
        flow = None
        for block in below:
            flow = block(flow, batch)
        assert flow is not None
        assert torch.equal(flow["tokens"], corrupt)
        assert difference(head.logits(flow["rows"])[real.flatten()], judged.logits[real]) <= 1e-10


def test_a_token_that_is_named_right_was_not_replaced() -> None:
    """With one token so likely that nothing else is drawn, what is hidden of it stays as it was."""
    config = run_of(SMALL)
    state = state_of(config)
    named_parameters(state)["generator_head.lm_head.decoder.bias"].data[5] = 1000.0
    batch = batch_of(config, padded=False)
    batch = replace(batch, labels_bs=torch.where(batch.asked_bs, 5, IGNORED))
    batch.labels_bs[0, 2] = 6
    with counted(state.model.modules()) as said_cc, torch.no_grad():
        state.engine.evaluate(state.programs.evaluation(1), [batch])
        assert said_cc is not None
        assert said_cc.sum(1).tolist() == [B * S - 1, 1]


def test_a_micro_batch_without_a_label_has_loss_0_and_gradients_0() -> None:
    config = run_of(SMALL)
    state = state_of(config)
    batch = batch_of(config, padded=True)
    nothing = replace(
        batch,
        labels_bs=torch.full_like(batch.labels_bs, IGNORED),
        judged_bs=torch.zeros_like(batch.tokens_bs, dtype=torch.bool),
        loss_scale=0.0,
        judged_loss_scale=0.0,
    )
    assert state.engine.run(state.programs.training(1), [nothing]).item() == 0
    assert not any(slot.view(bucket.gradients.tensor).any() for bucket in state.buckets for slot in bucket.slots)


@pytest.mark.parametrize("preset", [preset for preset, fields in PRESETS.items() if fields["family"] == "electra"])
def test_presets_have_the_names_and_shapes_of_transformers(preset: str) -> None:
    config = ModelConfig.model_validate({"preset": preset})
    with torch.device("meta"):
        models = models_of(config)
    specs = {name: torch.empty(spec.shape, device="meta") for name, spec in whole_specs(config).items()}
    for model, tower in zip(models, ("generator", "discriminator"), strict=True):
        theirs = {name: parameter.shape for name, parameter in model.named_parameters()}
        assert {name: tensor.shape for name, tensor in named_by(specs, tower).items()} == theirs
    shape = ElectraShape.of(config)
    assert shape.generator.hidden_size // shape.generator.num_heads == 64
    assert (shape.generator.hidden_size, shape.generator.intermediate_size) == {
        "electra-small": (64, 256),
        "electra-base": (256, 1024),
    }[preset]


def test_a_generator_whose_heads_do_not_divide_it_is_refused() -> None:
    with pytest.raises(UserError, match="the generator 2 attention heads, which do not divide its 11"):
        ElectraShape.of(run_of({**SMALL, "hidden_size": 28}).model.model_copy(update={"generator_size": 0.4}))
