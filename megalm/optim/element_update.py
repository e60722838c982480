"""Updates by an element-wise rule: the longest ranges that decay alike, whatever parameters lie in them."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from megalm.optim.rule import ElementRule
from megalm.parallel.data.bucket import Bucket


class ElementUpdate:
    """Updates what this rank owns of one bucket.

    Args:
        rule: the update rule.
        bucket: values and complete gradients.
        state: tensors of the owned range by name.
        rate: the factor of its learning rate.
    """

    def __init__(self, rule: ElementRule, bucket: Bucket, state: Mapping[str, Tensor], rate: float) -> None:
        """See the class."""
        self.buckets: Sequence[Bucket] = [bucket]
        self._rule, self._bucket, self._state, self._rate = rule, bucket, state, rate

    def __call__(self, lr: float, step: int) -> None:
        """Make update number ``step``, from 1."""
        for decay, span in self._bucket.segments():
            self._rule.update(
                self._bucket.owned_values[span],
                self._bucket.owned_gradients[span],
                {name: tensor[span] for name, tensor in self._state.items()},
                lr=lr * self._rate,
                decay=decay,
                step=step,
            )
