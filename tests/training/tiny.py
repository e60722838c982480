"""A model of one's own, its batches, and its run file: small enough for plain torch to be the oracle of a step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.layout import Layout
from megalm.mesh import Axis
from megalm.models.config import ModelConfig
from megalm.parallel.tensor.linear import ColumnParallelLinear, RowParallelLinear
from megalm.param_spec import Init, ParamSpec
from megalm.parameters import new_parameter, spec_of
from megalm.run_config import RunConfig
from megalm.validation import validate

VOCAB, HIDDEN, INNER = 11, 4, 7
SAMPLES, SEQUENCE = 6, 5


class Tiny(nn.Module):
    """Plain layers around a tensor-parallel span.

    Attributes:
        bad_scale: whether the gradient of ``scale``, and of nothing else, becomes NaN.
        bad_loss: whether the loss becomes NaN.
        add_to_loss: a constant, which changes no gradient.
    """

    def __init__(self, axis: Axis) -> None:
        super().__init__()
        self.bad_scale = self.bad_loss = False
        self.add_to_loss = 0.0
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.up = ColumnParallelLinear(HIDDEN, INNER, axis, std=0.5)
        split = spec_of(self.up.weight).split
        self.scale = new_parameter(ParamSpec((INNER,), Init.constant(1.0), split, decay=False), {axis.name: axis.rank})
        self.down = RowParallelLinear(INNER, HIDDEN, axis, std=0.5)
        self.norm = nn.LayerNorm(HIDDEN)
        self.head = nn.Linear(HIDDEN, VOCAB)
        self.frozen = nn.Parameter(torch.ones(HIDDEN), requires_grad=False)

    def forward(self, batch: MicroBatch) -> Tensor:
        scale = self.scale.clone()
        if self.bad_scale:
            scale.register_hook(lambda gradient: gradient * float("nan"))
        x = self.embed(batch.tokens_bs.flatten())
        x = x + self.down((self.up(x) * scale).tanh()) * self.frozen
        logits = self.head(self.norm(x))
        losses = F.cross_entropy(logits, batch.labels_bs.flatten(), ignore_index=IGNORED, reduction="sum")
        return losses * batch.loss_scale * (float("nan") if self.bad_loss else 1) + self.add_to_loss


def build(config: ModelConfig, axis: Axis, sequence_parallel: bool) -> nn.Module:
    return Tiny(axis)


def run_config(layout: Layout, clip_grad_norm: float = 0.5, micro_batch_size: int = 2) -> RunConfig:
    """Return a run of the tiny model in float64."""
    model = {"family": "tests.training.tiny:build", "num_hidden_layers": 1, "hidden_size": HIDDEN}
    return validate(
        RunConfig,
        {
            "model": {**model, "num_attention_heads": 1, "vocab_size": VOCAB},
            "layout": layout.model_dump(),
            "optimizer": {"lr": 0.05, "weight_decay": 0.3, "clip_grad_norm": clip_grad_norm},
            "lr_schedule": {"name": "linear", "warmup_steps": 2, "min_lr": 0.0},
            "data": {"train": [{"path": "unused"}]},
            "train": {
                "steps": 10,
                "global_batch_size": SAMPLES,
                "micro_batch_size": micro_batch_size,
                "seq_length": SEQUENCE,
                "precision": "fp64",
            },
        },
    )


def global_batch(step: int, *, learned: bool = True) -> MicroBatch:
    """Return a whole global batch; some labels are ignored, in some samples more than in others."""
    generator = torch.Generator().manual_seed(step)
    tokens, labels = torch.randint(0, VOCAB, (2, SAMPLES, SEQUENCE), generator=generator)
    labels[torch.rand(SAMPLES, SEQUENCE, generator=generator) < torch.arange(SAMPLES).unsqueeze(1) / SAMPLES] = IGNORED
    if not learned:
        labels[:] = IGNORED
    places = torch.arange(SEQUENCE).expand(SAMPLES, SEQUENCE)
    rows = torch.arange(SAMPLES * SEQUENCE).view(SAMPLES, SEQUENCE)
    num_valid = int((labels != IGNORED).sum())
    return MicroBatch(tokens, labels, places, rows, 1 / num_valid if num_valid else 0.0)
