"""Soft parameter sharing: a model for each task, and a penalty on how far the models lie apart."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from torch import Tensor, nn

from megalm.batch import MicroBatch
from megalm.mesh import Axis
from megalm.models.class_head import Classifying
from megalm.parallel.pipeline.flow import Flow
from megalm.parallel.tensor.region import Region, sum_to_rows
from megalm.parameters import spec_of

Pair = tuple[nn.Parameter, nn.Parameter]


class Towers(nn.Module):
    """The models of all tasks, each block beside the same one of the others.

    A micro-batch passes the tower of its task. One that is of no task passes none: its loss is the sum of the squared
    differences between corresponding parameters of each two towers (Duong et al. 2015). Each block adds its own, so
    pipelines, gathers and sums of gradients treat that micro-batch like any other.

    Args:
        towers: by task; all of one family and size, but for heads of samples, which nothing corresponds to.
        axis: the tensor axis.
    """

    def __init__(self, towers: Mapping[str, nn.Module], axis: Axis) -> None:
        """See the class."""
        super().__init__()
        self.axis = axis
        self.towers = nn.ModuleDict({f"task_{name}": tower for name, tower in towers.items()})
        for name, tower in towers.items():
            for head in tower.modules():
                if isinstance(head, Classifying):
                    head.task = name

    def blocks(self) -> list[nn.Module]:
        """Return what micro-batches pass through, in order."""
        named = [_corresponding(tower) for tower in self.towers.values()]
        names = [{parameter: name for name, parameter in of_tower.items()} for of_tower in named]
        rows = list(zip(*(tower.blocks() for tower in self.towers.values()), strict=True))  # type: ignore[operator]
        found: list[nn.Module] = []
        seen: set[tuple[int, str]] = set()
        for number, row in enumerate(rows):
            here: list[dict[str, nn.Parameter]] = []
            for tower, block in enumerate(row):
                mine = {names[tower][each]: each for each in block.parameters() if each in names[tower]}
                here.append({name: each for name, each in mine.items() if (tower, name) not in seen})
                seen |= {(tower, name) for name in mine}
            pairs = [(a[name], b[name]) for a, b in combinations(here, 2) for name in a if name in b]
            blocks = dict(zip(self.towers, row, strict=True))
            found.append(TowerBlock(blocks, pairs, self.axis, is_last=number == len(rows) - 1))
        return found


class TowerBlock(nn.Module):
    """One block of every tower.

    Args:
        blocks: by the names of the towers.
        pairs: corresponding parameters of two towers, those of earlier blocks left out.
        axis: the tensor axis.
        is_last: whether losses flow out.
    """

    def __init__(self, blocks: Mapping[str, nn.Module], pairs: Sequence[Pair], axis: Axis, *, is_last: bool) -> None:
        """See the class."""
        super().__init__()
        self.blocks = nn.ModuleDict(blocks)
        self.pairs, self.axis, self.is_last = pairs, axis, is_last

    def forward(self, flow: Flow | None, batch: MicroBatch) -> Flow:
        """Pass the flow through the tower of the micro-batch's task, or add what the towers differ by here."""
        if batch.task is not None:
            out: Flow = self.blocks[f"task_{batch.task}"](flow, batch)
            return out
        assert flow is None or isinstance(flow, Tensor)
        apart = squared_differences(self.pairs, self.axis) if self.pairs else None
        if flow is not None:
            apart = flow if apart is None else flow + apart
        assert apart is not None, "no parameter of the first block has a counterpart"
        return (apart * batch.loss_scale).squeeze(0) if self.is_last else apart


def squared_differences(pairs: Sequence[Pair], axis: Axis) -> Tensor:
    """Return the sum of the squared differences of pairs, [1], of which each rank of the tensor axis has a slice.

    Of what only one rank's gradient stands for, or is a part of a sum, each element is counted by one rank.
    """
    first = pairs[0][0]
    wide = torch.promote_types(first.dtype, torch.float32)
    whole = parts = first.new_zeros(1, dtype=wide)
    for one, other in pairs:
        spec = spec_of(one)
        if spec.split is None and axis.name not in spec.partial_over:
            whole = whole + (one.to(wide) - other.to(wide)).square().sum()
        elif (counted := spec.owned_slices({axis.name: axis.rank})) is not None:
            parts = parts + (one[counted].to(wide) - other[counted].to(wide)).square().sum()
    return whole + sum_to_rows(parts, Region(axis))


def _corresponding(tower: nn.Module) -> dict[str, nn.Parameter]:
    """Return what of a tower has a counterpart in the others: all that learns but the head of its own samples."""
    score = getattr(tower, "score", None)
    own = set() if score is None else set(score.parameters())
    return {name: each for name, each in tower.named_parameters() if each.requires_grad and each not in own}
