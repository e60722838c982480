"""Which token comes next: pure functions of scores, and of draws that are named by prompt and position."""

import torch
from torch import Tensor

from megalm import rng
from megalm.generation.options import Options


def penalized(scores_nv: Tensor, seen_nv: Tensor, penalty: float) -> Tensor:
    """Return the scores with those of seen tokens moved away from certainty.

    Args:
        scores_nv: [n, vocabulary], logits or log probabilities.
        seen_nv: bool [n, vocabulary].
        penalty: positive scores are divided by it, negative ones multiplied (Keskar et al. 2019, section 4.1).
    """
    if penalty == 1:
        return scores_nv
    return torch.where(seen_nv, torch.where(scores_nv < 0, scores_nv * penalty, scores_nv / penalty), scores_nv)


def kept(scores_nv: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Return the scores with -inf for what is not among the ``top_k``, and then not in the nucleus of ``top_p``.

    The nucleus is the fewest tokens whose probabilities sum up to ``top_p``, the most probable first (Holtzman et al.
    2020).
    """
    if top_k is not None and top_k < scores_nv.shape[1]:
        least = scores_nv.topk(top_k).values[:, -1:]
        scores_nv = scores_nv.masked_fill(scores_nv < least, float("-inf"))
    if top_p is not None and top_p < 1:
        ordered = scores_nv.sort(dim=-1, descending=True, stable=True)
        shares = ordered.values.softmax(-1)
        outside = (shares.cumsum(-1) - shares) >= top_p
        outside = torch.zeros_like(outside).scatter(-1, ordered.indices, outside)
        scores_nv = scores_nv.masked_fill(outside, float("-inf"))
    return scores_nv


def noise(seed: int, prompts_n: Tensor, positions_n: Tensor, vocab_size: int) -> Tensor:
    """Draw Gumbel noise, float64 [n, vocabulary]: the largest of scores and noise is a draw by their softmax.

    Args:
        seed: of all draws.
        prompts_n: int64 [n], the number of each row's prompt.
        positions_n: int64 [n], the position that the token will have.
        vocab_size: columns.
    """
    rows = (prompts_n << 32) + positions_n
    columns = torch.arange(vocab_size, device=rows.device)
    uniform = rng.bits(rng.key(seed, "generation"), rows, columns).double().add_(2**31 + 0.5).mul_(2.0**-32)
    return uniform.log_().neg_().log_().neg_()


def choose(logits_nv: Tensor, options: Options, prompts_n: Tensor, positions_n: Tensor, seen_nv: Tensor) -> Tensor:
    """Return the next token of each row, int64 [n].

    Args:
        logits_nv: [n, vocabulary].
        options: greedy, or how to draw.
        prompts_n: int64 [n], see ``noise``.
        positions_n: int64 [n], see ``noise``.
        seen_nv: bool [n, vocabulary], the tokens of each row's prompt and continuation.
    """
    scores_nv = penalized(logits_nv.double(), seen_nv, options.repetition_penalty)
    if not options.temperature:
        return scores_nv.argmax(-1)
    scores_nv = kept(scores_nv / options.temperature, options.top_k, options.top_p)
    return (scores_nv + noise(options.seed, prompts_n, positions_n, scores_nv.shape[1])).argmax(-1)
