"""Oracle: the same updates without offload, bit for bit; what is on the host is wrong until it is waited for."""

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from megalm.mesh import Axis
from megalm.optim.adamw import AdamW
from megalm.optim.config import OptimizerConfig
from megalm.optim.lamb import Lamb
from megalm.optim.optimizer import Optimizer
from megalm.optim.rule import UpdateRule
from megalm.optim.sgd import Sgd
from megalm.optim.updates import Updates
from megalm.parallel.data.bucket import Bucket, make_bucket
from tests.parallel.sums import sum_of
from tests.pretend_host import PretendHost

SHAPES = ((40, 3), (3,), (2, 5), (7,), (1, 1))
STEPS = 5
RULES: list[type[Any]] = [AdamW, Lamb, Sgd]


def draws(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def made(rule: UpdateRule, dtype: torch.dtype, host: PretendHost | None) -> tuple[Optimizer, list[Bucket]]:
    parameters = [nn.Parameter(draws(n, *shape)) for n, shape in enumerate(SHAPES)]
    buckets = [
        make_bucket(part, torch.device("cpu"), dtype, host=host) for part in (parameters[:2], [], parameters[2:])
    ]
    axes = [Axis.alone()]
    return Optimizer(rule, buckets, axes=axes, holders=axes, positions={"tp": 0}, clip_grad_norm=1.0), buckets


def trained(rule: UpdateRule, dtype: torch.dtype, host: PretendHost | None) -> tuple[list[Tensor], list[float]]:
    """Return values, master values, and state after some steps, and the norms."""
    optimizer, buckets = made(rule, dtype, host)
    norms = []
    for step in range(STEPS):
        for bucket in buckets:
            for n, slot in enumerate(bucket.slots):
                sum_of(slot.parameter).copy_(draws(100 * step + n, *slot.parameter.shape))
        norms.append(optimizer.clip())
        optimizer.step(0.01 * (step + 1))
    kept = [tensor for state in optimizer.state for tensor in state.values()]
    return [tensor for bucket in buckets for tensor in (bucket.values.tensor, bucket.owned_values)] + kept, norms


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_on_the_host_every_rule_makes_the_same_updates(rule: type[Any], dtype: torch.dtype) -> None:
    """Oracle: the optimizer whose buckets have no host."""
    config = OptimizerConfig(weight_decay=0.3)
    here, norms = trained(rule(config), dtype, None)
    there, norms_there = trained(rule(config), dtype, PretendHost())
    assert norms_there == norms
    assert all(torch.equal(one, other) for one, other in zip(there, here, strict=True))
    assert all(tensor.isfinite().all() for tensor in there)


@pytest.mark.parametrize("rule", RULES)
def test_each_bucket_travels_once_each_way_in_the_dtype_of_its_values(rule: type[Any]) -> None:
    """Oracle: float32 gradients up and 16-bit values down, counted by hand; the first values went down before."""
    host = PretendHost()
    optimizer, buckets = made(rule(OptimizerConfig()), torch.bfloat16, host)
    elements = sum(len(bucket.owned_values) for bucket in buckets)
    assert host.moved == [0, 2 * elements]
    optimizer.step(0.1)
    assert host.moved == [4 * elements, 4 * elements]
    assert host.synchronized == len(buckets)


def test_an_element_rule_waits_for_one_bucket_at_a_time() -> None:
    """Oracle: how many gradients have arrived when each update begins."""
    host = PretendHost()
    optimizer, _ = made(AdamW(OptimizerConfig()), torch.float32, host)
    seen = []

    def watched(rule: AdamW, *arguments: Any, **settings: Any) -> None:
        seen.append(host.synchronized)
        update(rule, *arguments, **settings)

    update = AdamW.update
    with mock.patch.object(AdamW, "update", watched):
        optimizer.step(0.1)
    assert seen == [1, 1, 3, 3]  # matrices and vectors of the first bucket and of the third


def test_gradients_on_the_device_stay_as_they_are() -> None:
    """Oracle: the gradients before; without offload LAMB writes its moves there."""
    changed = []
    for host in (None, PretendHost()):
        optimizer, buckets = made(Lamb(OptimizerConfig()), torch.float32, host)
        before = [bucket.owned_gradients.fill_(0.5).clone() for bucket in buckets]
        optimizer.step(0.1)
        after = [bucket.owned_gradients for bucket in buckets]
        changed.append(not all(torch.equal(*pair) for pair in zip(before, after, strict=True)))
    assert changed == [True, False]


def test_without_a_host_nothing_is_copied() -> None:
    """Oracle: the identity of the buckets that the rule sees."""
    optimizer, buckets = made(AdamW(OptimizerConfig()), torch.float32, None)
    assert isinstance(optimizer._update, Updates)
    assert all(one is other for one, other in zip(optimizer.updated, buckets, strict=True))
    assert all(bucket.owned_values.data_ptr() == bucket.values.tensor.data_ptr() for bucket in buckets if bucket.slots)
