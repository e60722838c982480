"""Judges what ranks saw against what one process saw."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megalm.verify.probe import Held, Probe

UPDATE_FLOOR = 100.0
"""Updated values are judged against at least this many learning rates: Adam turns rounding into whole steps."""


@dataclass(frozen=True)
class Tolerance:
    """How far two runs may differ.

    Args:
        relative: of losses and norms.
        of_largest: of the largest entry of each tensor.
        gradient_floor: a tensor whose gradient is smaller than this part of the model's largest entry is judged as if
            it had that size: what remains of the key biases' true gradient, 0, is rounding of larger numbers.
        judges_values: whether updated values are compared, not only gradients.
    """

    relative: float
    of_largest: float
    gradient_floor: float
    judges_values: bool

    @staticmethod
    def of(precision: str) -> "Tolerance":
        """Return 1e-10 for fp64 and 1,000 roundings for fp32.

        For bf16 it is one rounding, and 32 for the entries of gradients: after an update Adam has turned the rounding
        of the first gradients into whole steps of other parameters. Updated values are left out below fp64.
        """
        if precision == "fp64":
            return Tolerance(1e-10, 1e-10, 1e-6, judges_values=True)
        if precision == "fp32":
            of_sums = 1000 * torch.finfo(torch.float32).eps
            return Tolerance(of_sums, of_sums, 1e-2, judges_values=False)
        eps = torch.finfo(torch.bfloat16).eps
        return Tolerance(eps, 32 * eps, 1e-1, judges_values=False)


@dataclass(frozen=True)
class Finding:
    """One line of the verdict.

    Args:
        what: the moment and the thing compared.
        difference: relative, against the tolerance's own scale.
        agrees: whether it is within the tolerance.
        detail: of a disagreement: the tensor, its spec, the rank and the place of the largest difference.
    """

    what: str
    difference: float
    agrees: bool
    detail: str = ""


def compare(reference: Probe, probes: Sequence[Probe], tolerance: Tolerance, lr: float) -> list[Finding]:
    """Return a finding for each loss, norm and group of tensors, in the order in which a run makes them.

    Args:
        reference: of one process.
        probes: of every rank of the layout.
        tolerance: how far they may differ.
        lr: the peak learning rate.
    """
    findings: list[Finding] = []
    whole = {(held.moment, held.spec.name): held.tensor for held in reference.held}
    for step, (loss, norm) in enumerate(zip(reference.losses, reference.grad_norms, strict=True)):
        for name, expected, seen in (
            ("loss", loss, [probe.losses[step] for probe in probes]),
            ("gradient norm", norm, [probe.grad_norms[step] for probe in probes]),
        ):
            worst = max(abs(value - expected) for value in seen) / max(abs(expected), 1e-300)
            findings.append(Finding(f"step {step + 1} {name}", worst, worst <= tolerance.relative))
        for kind in ("gradient", "value"):
            moment = f"step {step + 1} {kind}"
            held = [(probe.rank, item) for probe in probes for item in probe.held if item.moment == moment]
            if kind == "value":
                findings.append(_replicas(moment, held))
                if not tolerance.judges_values:
                    continue
            largest = max(
                (float(t.abs().max()) for (at, _), t in whole.items() if at == moment and t.numel()), default=0
            )
            floor = UPDATE_FLOOR * lr if kind == "value" else tolerance.gradient_floor * largest
            findings.append(_tensors(moment, held, whole, tolerance, floor))
    return findings


def _tensors(
    moment: str,
    held: Sequence[tuple[int, Held]],
    whole: dict[tuple[str, str], Tensor],
    tolerance: Tolerance,
    floor: float,
) -> Finding:
    """Compare every rank's slices with the reference; the first tensor that disagrees is named."""
    names = {item.spec.name for _, item in held}
    for at_moment, name in whole:
        if at_moment == moment and name not in names:
            return Finding(moment, math.inf, False, f"{name} is held by no rank")
    worst = 0.0
    for rank, item in held:
        expected = whole[moment, item.spec.name]
        part = expected[_place(item)]
        scale = max(float(expected.abs().max()), floor)
        difference = (item.tensor - part).abs() if item.tensor.numel() else torch.zeros(1)
        relative = float(difference.max()) / scale if scale else float(difference.max())
        worst = max(worst, relative if relative == relative else float("inf"))
        if not relative <= tolerance.of_largest:
            at = torch.unravel_index(difference.argmax(), difference.shape)
            place = tuple(int(i) + offset for i, offset in zip(at, item.offsets, strict=True))
            detail = (
                f"{item.spec.name} disagrees on rank {rank} at {list(place)}: "
                f"{float(item.tensor[tuple(at)]):.17g}, one process has {float(part[tuple(at)]):.17g}; {item.spec}"
            )
            return Finding(moment, worst, False, detail)
    return Finding(moment, worst, True)


def _replicas(moment: str, held: Sequence[tuple[int, Held]]) -> Finding:
    """Compare, bit for bit, what several ranks hold of the same parameter."""
    first: dict[str, list[tuple[int, Held]]] = {}
    for rank, item in held:
        for other_rank, other in first.setdefault(item.spec.name, []):
            mine, theirs = _shared(item, other)
            if not torch.equal(mine, theirs):
                detail = f"{item.spec.name} differs between its replicas on ranks {other_rank} and {rank}; {item.spec}"
                return Finding(f"{moment} replicas", float((mine - theirs).abs().max()), False, detail)
        first[item.spec.name].append((rank, item))
    return Finding(f"{moment} replicas", 0.0, True)


def _place(item: Held) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(item.offsets, item.tensor.shape, strict=True))


def _shared(one: Held, other: Held) -> tuple[Tensor, Tensor]:
    """Return the part that both hold, as each holds it; it may be empty."""
    spans = [
        (max(a.start, b.start), max(min(a.stop, b.stop), max(a.start, b.start)))
        for a, b in zip(_place(one), _place(other), strict=True)
    ]
    mine, theirs = (
        held.tensor[tuple(slice(a - offset, b - offset) for (a, b), offset in zip(spans, held.offsets, strict=True))]
        for held in (one, other)
    )
    return mine, theirs
