"""A rank's buckets on paper, and what of them lives for a while only: values that are gathered, gradients on their way.

From ZeRO stage 2 on a block's gradients live from its first backward until they are summed, and the sum of one bucket
is under way until that of the next begins. At stage 3 the values of a block live from its gather until its release. No
torch.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.action import COMPUTE, Action, Kind
from megalm.plan.buckets import local_tensors
from megalm.plan.memory import buckets_of_rank

Place = tuple[int, int]
"""A block by its stage and its number in the stage."""


@dataclass(frozen=True)
class RankBuckets:
    """The buckets of one rank.

    Args:
        elements: of each bucket, padding included.
        filled: elements of all of them that are parameters.
        own: of each block its buckets, by their numbers.
        read: of each block the buckets whose values it reads.
        table: of the block that makes gradients in its forward, the model's last, the bucket of the output table.
    """

    elements: Sequence[int]
    filled: int
    own: Mapping[Place, Sequence[int]]
    read: Mapping[Place, Sequence[int]]
    table: Mapping[Place, int]

    @staticmethod
    def of(
        shape: DecoderShape, spans: Mapping[int, range], *, tp_size: int, tp_rank: int, shard_size: int, apart: bool
    ) -> "RankBuckets":
        """Lay out what a rank holds.

        Args:
            shape: the model.
            spans: the blocks of each of the rank's stages: 0 the embedding, then the layers, then the head.
            tp_size: tensor-parallel ranks.
            tp_rank: this rank's position among them.
            shard_size: ranks that own a part each.
            apart: whether a tied table lies in a bucket of its own, since two ranks of the pipeline hold a copy.
        """
        head = shape.num_layers + 1
        elements: list[int] = []
        own: dict[Place, list[int]] = {}
        read: dict[Place, list[int]] = {}
        table: dict[Place, int] = {}
        places = {block: (stage, block - span.start) for stage, span in spans.items() for block in span}
        for block, place in sorted(places.items()):
            found = buckets_of_rank(shape, tp_size, shard_size, [block], apart=apart)
            own[place] = list(range(len(elements), len(elements) + len(found)))
            elements += found
            elsewhere = own[places[0]] if block == head and shape.tied and not apart else []
            read[place] = [*own[place], *elsewhere]
            if block == head:
                table[place] = read[place][-1]
        tensors = local_tensors(shape, tp_size, tp_rank)
        filled = sum(tensor.num_elements for block in places for tensor in tensors[block])
        copy = tensors[0][0].num_elements if apart and head in places else 0
        return RankBuckets(elements, filled + copy, own, read, table)

    def gathered_at_most(self, actions: Sequence[Action]) -> int:
        """Return the elements of the buckets that are gathered at once, at most, in a rank's list of actions."""
        users: Counter[int] = Counter()
        peak = 0
        for stage, kind, _, block in actions:
            if block is not None and kind in (Kind.GATHER, Kind.RELEASE):
                for bucket in self.read[stage, block]:
                    users[bucket] += 1 if kind is Kind.GATHER else -1
            peak = max(peak, sum(self.elements[bucket] for bucket, count in users.items() if count))
        return peak

    def summed_at_most(self, actions: Sequence[Action]) -> int:
        """Return the elements of gradients that live at once, at most, where each micro-batch's are reduced."""
        made: set[int] = set()
        under_way: int | None = None
        peak = 0
        for stage, kind, _, block in actions:
            for place in [place for place in self.own if place[0] == stage and block in (None, place[1])]:
                if kind is Kind.REDUCE:
                    made.difference_update(self.own[place])
                    under_way = self.own[place][-1]
                elif kind in COMPUTE:
                    made.update(self._made_by(kind, place))
            living = [*made] if under_way is None else [*made, under_way]
            peak = max(peak, sum(self.elements[bucket] for bucket in living))
        return peak

    def _made_by(self, kind: Kind, place: Place) -> Sequence[int]:
        """Return the buckets in which an action adds gradients; the last block makes its table's in the forward."""
        if kind is Kind.FORWARD:
            return [self.table[place]] if place in self.table else []
        return self.own[place][:1] if place in self.table else self.own[place]
