"""The optimizer section of the run file."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import Field, model_validator

from megalm.errors import UserError
from megalm.section import Section


class OptimizerConfig(Section):
    """How gradients become updates."""

    name: str = Field(
        "adamw", description="the update rule: adamw, adamw8bit, lamb, sgd, or package.module:name of your own"
    )
    lr: float = Field(1e-3, ge=0, description="peak learning rate; too high diverges, too low wastes steps")
    betas: list[float] = Field(
        [0.9, 0.95], min_length=2, max_length=2, description="how slowly the two moments forget; nearer 1 is slower"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="sgd only: how slowly its sum of gradients forgets; 0 off")
    eps: float = Field(1e-8, gt=0, description="added to the root of the second moment; larger damps small gradients")
    weight_decay: float = Field(0.1, ge=0, description="pull of matrices towards 0; norms and biases do not decay")
    clip_grad_norm: float = Field(1.0, ge=0, description="larger gradients are scaled to this norm; 0 off")
    layer_lr_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="the learning rate of a block is this times that of the next one: layers near the input, which a "
        "trained model needs least changed, learn slower; 1 off",
    )
    options: dict[str, Any] = Field(default_factory=dict, description="free keys for your own rule")

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Refuse moments that never forget."""
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UserError(f"optimizer.betas: {self.betas} must lie in [0, 1); choose for example [0.9, 0.95].")
        return self

    def without_effect(self) -> list[str]:
        """Return one sentence for each setting that a built-in rule does not read, to be shown as a warning."""
        return list(self._unread())

    def _unread(self) -> Iterator[str]:
        moments_only = dict.fromkeys(("adamw", "adamw8bit", "lamb"), ("momentum",))
        unread = {"sgd": ("betas", "eps"), **moments_only}.get(self.name, ())
        for key in unread:
            value = getattr(self, key)
            if value != type(self).model_fields[key].default:
                yield f"optimizer.{key}={value} has no effect: {self.name} does not read it."
