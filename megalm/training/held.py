"""Which part of the model this rank of the pipeline holds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from megalm.errors import UserError
from megalm.parameters import spec_of


@dataclass(frozen=True)
class Held:
    """This rank's blocks, and what it shares with other ranks of the pipeline.

    Args:
        stages: the rank's blocks by stage.
        holders: for each parameter that lies in blocks of several ranks its name and their positions.
        shared: the (stage, block) of all ranks that own a parameter which a later stage of the same rank holds too:
            its gradient is complete when both stages are done.
    """

    stages: Mapping[int, Sequence[nn.Module]]
    holders: Mapping[str, Sequence[int]]
    shared: frozenset[tuple[int, int]]

    @staticmethod
    def of(blocks: Sequence[nn.Module], spans: Sequence[range], rank_of_stage: Sequence[int], rank: int) -> "Held":
        """Choose this rank's blocks out of the whole model's."""
        stages = {
            stage: [blocks[number] for number in span]
            for stage, span in enumerate(spans)
            if rank_of_stage[stage] == rank
        }
        places: dict[nn.Parameter, list[tuple[int, int]]] = {}
        for stage, span in enumerate(spans):
            for number in span:
                for parameter in blocks[number].parameters():
                    places.setdefault(parameter, []).append((stage, number - span.start))
        holders: dict[str, list[int]] = {}
        shared: set[tuple[int, int]] = set()
        for parameter, found in places.items():
            ranks = sorted({rank_of_stage[stage] for stage, _ in found})
            if len(ranks) > 1 and parameter.requires_grad:
                holders[spec_of(parameter).name] = ranks
            for holder in ranks:
                own = [place for place in found if rank_of_stage[place[0]] == holder]
                if len({stage for stage, _ in own}) > 1:
                    shared.add(own[0])
        return Held(stages, holders, frozenset(shared))

    def blocks(self) -> Iterator[nn.Module]:
        """Yield this rank's blocks, in the order of the model."""
        for stage in sorted(self.stages):
            yield from self.stages[stage]

    def modules(self) -> dict[nn.Module, None]:
        """Return all modules below this rank's blocks, each once."""
        return {module: None for block in self.blocks() for module in block.modules()}

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of this rank's blocks, each once, in the order of the model."""
        return list(dict.fromkeys(parameter for block in self.blocks() for parameter in block.parameters()))

    def buffers(self) -> list[Tensor]:
        """Return the buffers of this rank's blocks, each once."""
        return list({id(buffer): buffer for block in self.blocks() for buffer in block.buffers()}.values())

    def parameters_by_block(self) -> dict[tuple[int, int], list[nn.Parameter]]:
        """Return the trainable parameters by (stage, block); a shared one is its first block's, which ends last."""
        seen: set[nn.Parameter] = set()
        found: dict[tuple[int, int], list[nn.Parameter]] = {}
        for stage in sorted(self.stages):
            for number, block in enumerate(self.stages[stage]):
                fresh = [p for p in block.parameters() if p.requires_grad and p not in seen]
                seen.update(fresh)
                found[stage, number] = fresh
        return found

    def release_others(self, model: nn.Module) -> None:
        """Give back the memory of what other ranks hold, if the model's builder took any."""
        mine = set(self.parameters())
        for parameter in list(model.parameters()):
            if parameter not in mine and not parameter.is_meta:
                spec = spec_of(parameter)
                empty = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=parameter.requires_grad)
                empty.spec = spec  # type: ignore[attr-defined]
                torch.utils.swap_tensors(parameter, empty)


def check_blocks(model: nn.Module, blocks: Sequence[nn.Module]) -> None:
    """Refuse blocks that do not hold every trainable parameter: one in none of them would silently never learn.

    Raises:
        UserError: names a parameter in none of them.
    """
    placed = {parameter for block in blocks for parameter in block.parameters()}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter not in placed:
            raise UserError(
                f"model.family: parameter {name} is in none of the model's blocks(); add it to one, or freeze it."
            )
