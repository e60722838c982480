"""Oracle: the parameters before they were moved, and autograd's .grad; hypothesis draws the parameters of a block."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from megalm.mesh import Axis
from megalm.parallel.data.bucket import Bucket, make_bucket
from megalm.param_spec import Init, ParamSpec, Split
from megalm.parameters import new_parameter, spec_of
from tests.parallel.sums import sum_of

CPU = torch.device("cpu")
shapes = st.lists(st.integers(0, 4), min_size=1, max_size=2).map(tuple)


@st.composite
def parameter_lists(draw: st.DrawFn) -> list[nn.Parameter]:
    made = []
    for number in range(draw(st.integers(0, 6))):
        spec = ParamSpec(
            draw(shapes),
            Init.normal(1.0),
            partial_over=draw(st.sampled_from([(), ("tp",)])),
            decay=draw(st.booleans()),
            name=f"p{number}",
        )
        made.append(new_parameter(spec, {}))
    return made


def covered(bucket: Bucket) -> torch.Tensor:
    """Count in how many slots each element of the bucket lies."""
    counts = torch.zeros(bucket.values.tensor.numel())
    for slot in bucket.slots:
        counts[slot.start : slot.stop] += 1
    return counts


@settings(deadline=None, max_examples=60)
@given(parameter_lists())
def test_every_element_of_every_parameter_lies_in_exactly_one_slot(parameters: list[nn.Parameter]) -> None:
    before = {spec_of(parameter).name: parameter.detach().clone() for parameter in parameters}
    bucket = make_bucket(parameters, CPU, torch.float32)
    assert {id(slot.parameter) for slot in bucket.slots} == {id(parameter) for parameter in parameters}
    assert (covered(bucket) <= 1).all()
    assert all(slot.stop - slot.start == slot.parameter.numel() for slot in bucket.slots)
    assert (
        bucket.values.tensor.numel()
        == bucket.gradients.tensor.numel()
        == sum(-(-v.numel() // 32) * 32 for v in before.values())
    )
    for slot in bucket.slots:
        assert torch.equal(slot.parameter, before[slot.spec.name])
        slot.view(bucket.values.tensor).fill_(5)
        assert (slot.parameter == 5).all()
        sum_of(slot.parameter).fill_(6)
    assert torch.equal(bucket.values.tensor, 5 * covered(bucket))
    assert torch.equal(bucket.gradients.tensor, 6 * covered(bucket))


def share_of(parameters: list[nn.Parameter], rank: int, parts: int, zero_stage: int) -> Bucket:
    copies = [new_parameter(spec_of(parameter), {}) for parameter in parameters]
    for copy, parameter in zip(copies, parameters, strict=True):
        copy.data.copy_(parameter.data)
    axis = Axis("dp_cp", tuple(range(parts)), rank)
    return make_bucket(copies, CPU, torch.float32, shard=axis, zero_stage=zero_stage)


@settings(deadline=None, max_examples=60)
@given(parameter_lists(), st.integers(1, 5), st.integers(1, 3))
def test_every_element_of_every_parameter_has_exactly_one_owner(
    parameters: list[nn.Parameter], parts: int, zero_stage: int
) -> None:
    counts = {spec_of(parameter).name: torch.zeros(parameter.shape) for parameter in parameters}
    values = {spec_of(parameter).name: parameter.detach() for parameter in parameters}
    for rank in range(parts):
        bucket = share_of(parameters, rank, parts, zero_stage)
        assert len(bucket.owned_values) == len(bucket.owned_gradients) == bucket.span.stop - bucket.span.start
        assert bucket.span.start % 32 == bucket.span.stop % 32 == 0
        for owned in bucket.owned():
            name, place = owned.slot.spec.name, owned.box.slices()
            assert torch.equal(owned.view(bucket.owned_values), values[name][place])
            counts[name][place] += 1
    assert all((count == 1).all() for count in counts.values())


@settings(deadline=None, max_examples=60)
@given(parameter_lists(), st.integers(1, 5))
def test_what_a_rank_owns_decays_as_its_parameters_do(parameters: list[nn.Parameter], parts: int) -> None:
    for rank in range(parts):
        bucket = share_of(parameters, rank, parts, 2)
        decays = torch.full_like(bucket.owned_values, -1)
        for decay, span in bucket.segments():
            decays[span] = decay
        for owned in bucket.owned():
            assert (owned.view(decays) == owned.slot.spec.decay).all()


@pytest.mark.parametrize(("zero_stage", "values", "gradients"), [(0, 64, 64), (1, 64, 64), (2, 64, 0), (3, 0, 0)])
def test_the_stage_says_what_is_kept_between_uses(zero_stage: int, values: int, gradients: int) -> None:
    parameters = [nn.Parameter(torch.ones(40))]
    bucket = make_bucket(parameters, CPU, torch.float32, shard=Axis("dp_cp", (0, 1), 1), zero_stage=zero_stage)
    assert bucket.values.num_bytes == 4 * values
    assert sum_of(parameters[0]).shape == (40,)
    assert bucket.gradients.num_bytes == 4 * 64
    bucket.gradients.hand_over()
    assert bucket.gradients.num_bytes == 4 * gradients
    shares_memory = bucket.owned_gradients.data_ptr() == bucket.gradients.tensor[bucket.span].data_ptr()
    assert shares_memory == (zero_stage < 2)


def test_a_slot_has_room_for_the_largest_slice_of_any_rank() -> None:
    split = Split("tp", 0, ((0, 33), (33, 34)))
    starts = []
    for rank in range(2):
        parameters = [
            new_parameter(ParamSpec((34,), Init.constant(0.0), split, name="split"), {"tp": rank}),
            new_parameter(ParamSpec((4,), Init.constant(0.0), name="whole"), {}),
        ]
        starts.append([(slot.start, slot.end) for slot in make_bucket(parameters, CPU, torch.float32).slots])
    assert starts == [[(0, 64), (64, 96)]] * 2


@settings(deadline=None, max_examples=60)
@given(parameter_lists())
def test_segments_and_partial_ranges_hold_exactly_their_parameters(parameters: list[nn.Parameter]) -> None:
    bucket = make_bucket(parameters, CPU, torch.float32)
    decays, partial = torch.full_like(bucket.values.tensor, -1), torch.zeros_like(bucket.values.tensor)
    for decay, span in bucket.segments():
        assert (decays[span] == -1).all()
        decays[span] = decay
    for axis, span in bucket.partial_ranges().items():
        assert axis == "tp"
        partial[span] += 1
    for slot in bucket.slots:
        assert (slot.view(decays) == slot.spec.decay).all()
        assert (slot.view(partial) == len(slot.spec.partial_over)).all()


@settings(deadline=None, max_examples=60)
@given(parameter_lists())
def test_there_are_as_few_segments_as_there_can_be(parameters: list[nn.Parameter]) -> None:
    bucket = make_bucket(parameters, CPU, torch.float32)
    assert len(bucket.segments()) <= len({(spec_of(p).partial_over, spec_of(p).decay) for p in parameters})
    for (before, _), (after, _) in zip(bucket.segments(), bucket.segments()[1:], strict=False):
        assert before != after


@pytest.mark.parametrize(
    ("dtype", "sums"),
    [(torch.float64, torch.float64), (torch.float32, torch.float32), (torch.bfloat16, torch.float32)],
)
def test_gradients_are_summed_in_float32_or_better(dtype: torch.dtype, sums: torch.dtype) -> None:
    bucket = make_bucket([nn.Parameter(torch.ones(3))], CPU, dtype)
    assert (bucket.values.tensor.dtype, bucket.gradients.tensor.dtype) == (dtype, sums)
    assert bucket.slots[0].parameter.dtype == dtype


def test_plain_layers_sum_into_the_bucket_like_autograd_does() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    moved = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)).double()
    moved.load_state_dict(plain.state_dict())
    bucket = make_bucket(list(moved.parameters()), CPU, torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    for _ in range(3):
        for model in (plain, moved):
            model(x).square().sum().backward()
    for expected, parameter in zip(plain.parameters(), moved.parameters(), strict=True):
        assert parameter.grad is None
        assert expected.grad is not None
        assert torch.equal(sum_of(parameter), expected.grad)
    assert bucket.gradients.tensor.count_nonzero() > 0


def test_a_moved_parameter_is_the_same_object_so_ties_stay() -> None:
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    model[1].weight = model[0].weight
    before = model[0].weight
    bucket = make_bucket(list(model.parameters()), CPU, torch.float32)
    assert model[0].weight is model[1].weight is before is bucket.slots[0].parameter
    bucket.values.tensor.zero_()
    assert not model[1].weight.any()


def test_a_parameter_without_memory_gets_it_here() -> None:
    spec = ParamSpec((3, 2), Init.normal(1.0), decay=False, name="w")
    with torch.device("meta"):
        parameter = new_parameter(spec, {})
    bucket = make_bucket([parameter], CPU, torch.float64)
    assert not parameter.is_meta
    assert parameter.requires_grad
    assert spec_of(parameter) == spec
    bucket.slots[0].view(bucket.values.tensor).copy_(torch.arange(6).view(3, 2))
    assert parameter.tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_block_without_parameters_has_an_empty_bucket() -> None:
    bucket = make_bucket([], CPU, torch.float32)
    assert (bucket.slots, bucket.segments(), bucket.partial_ranges()) == ((), [], {})
    assert bucket.values.tensor.numel() == 0


@settings(deadline=None, max_examples=60)
@given(parameter_lists())
def test_every_slot_is_a_whole_number_of_vectors(parameters: list[nn.Parameter]) -> None:
    bucket = make_bucket(parameters, CPU, torch.float32)
    assert all(slot.start % 32 == 0 for slot in bucket.slots if slot.parameter.numel())
    assert all(span.start % 32 == span.stop % 32 == 0 for _, span in bucket.segments())
