"""Oracle: the bit patterns of the paper's data type, and the nearest of its numbers by search in float64."""

import pytest
import torch
from torch import Tensor

from megalm.optim.dynamic_map import DynamicMap
from tests.optim.plain_adamw8bit import paper_numbers

CPU = torch.device("cpu")
EVERY = torch.arange(256).to(torch.uint8)


def numbers_of(dynamic_map: DynamicMap, codes: Tensor) -> Tensor:
    numbers = torch.full(codes.shape, torch.nan)
    dynamic_map.numbers(codes, out=numbers, spare=torch.full(codes.shape, 7, dtype=torch.int32))
    return numbers


def codes_of(dynamic_map: DynamicMap, numbers: Tensor) -> Tensor:
    codes = torch.full(numbers.shape, 7, dtype=torch.uint8)
    spare = torch.full((2, len(numbers)), 7, dtype=torch.int32)
    dynamic_map.codes(numbers.clone(), out=codes, spare=(spare[0], spare[1]))
    return codes


@pytest.mark.parametrize("signed", [True, False])
def test_the_numbers_are_the_papers(signed: bool) -> None:
    numbers = numbers_of(DynamicMap(signed=signed, device=CPU), EVERY)
    assert torch.equal(numbers.sort().values, paper_numbers(signed=signed))
    assert numbers[0] == 0
    assert len(numbers.unique()) == 256


@pytest.mark.parametrize("signed", [True, False])
def test_every_number_has_its_own_code(signed: bool) -> None:
    dynamic_map = DynamicMap(signed=signed, device=CPU)
    assert torch.equal(codes_of(dynamic_map, numbers_of(dynamic_map, EVERY)), EVERY)


def hard_numbers(*, signed: bool) -> Tensor:
    """Return numbers of every magnitude, and those beside each border between two codes."""
    numbers = paper_numbers(signed=signed)
    borders = ((numbers[1:].double() + numbers[:-1].double()) / 2).float()
    infinity = torch.tensor(torch.inf)
    beside = [borders, borders.nextafter(infinity), borders.nextafter(-infinity)]
    generator = torch.Generator().manual_seed(0)
    magnitudes = 10 ** (-9 * torch.rand(200_000, generator=generator))
    found = torch.cat([*beside, magnitudes, torch.linspace(0, 1.01, 10_000), torch.tensor([0.0, -0.0, 1e-45, 2.0])])
    return torch.cat([found, -found]) if signed else found


@pytest.mark.parametrize("signed", [True, False])
def test_a_code_is_that_of_the_nearest_number(signed: bool) -> None:
    dynamic_map, numbers = DynamicMap(signed=signed, device=CPU), paper_numbers(signed=signed).double()
    given = hard_numbers(signed=signed)
    distance = (numbers_of(dynamic_map, codes_of(dynamic_map, given)).double() - given.double()).abs()
    for part, found in zip(given.double().split(20_000), distance.split(20_000), strict=True):
        assert torch.equal(found, (part.unsqueeze(1) - numbers).abs().amin(1))


@pytest.mark.parametrize("signed", [True, False])
def test_half_way_between_two_numbers_it_is_the_greater(signed: bool) -> None:
    numbers = paper_numbers(signed=signed)
    halfway = (numbers[1:].double() + numbers[:-1].double()) / 2
    exact = halfway.float().double() == halfway
    assert exact.sum() > 10
    dynamic_map = DynamicMap(signed=signed, device=CPU)
    assert torch.equal(numbers_of(dynamic_map, codes_of(dynamic_map, halfway[exact].float())), numbers[1:][exact])


def test_what_is_no_number_ends_in_some_code() -> None:
    no_numbers = torch.tensor([torch.nan, -torch.nan, torch.inf, -torch.inf])
    for signed in (True, False):
        codes_of(DynamicMap(signed=signed, device=CPU), no_numbers)
