"""AdamW with moments of 8 bits (Dettmers et al. 2022)."""

from collections.abc import Mapping

from megalm.optim.adamw import AdamW


class AdamW8bit(AdamW):
    """AdamW, between whose updates the two moments of matrices are codes of one byte; see ``QuantizedUpdate``."""

    signed: Mapping[str, bool] = {"exp_avg": True, "exp_avg_sq": False}
