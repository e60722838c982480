"""Which attention heads a rank holds."""

from dataclasses import dataclass

from megalm.errors import UserError
from megalm.param_spec import even_ranges


@dataclass(frozen=True)
class HeadCut:
    """The query heads and the key heads of each rank of the tensor axis.

    Query heads are cut as evenly as possible, and each rank holds the key heads that its query heads read. Where the
    cut falls inside a group of query heads two ranks hold the same key head, and each makes a part of its gradient.

    Args:
        query: for each rank the range of query heads.
        key: for each rank the range of key (and value) heads; neighbours may overlap.
        group: query heads to one key head.
    """

    query: tuple[tuple[int, int], ...]
    key: tuple[tuple[int, int], ...]
    group: int

    @staticmethod
    def of(num_heads: int, num_key_value_heads: int, parts: int) -> "HeadCut":
        """Cut the heads over ``parts`` ranks.

        Raises:
            UserError: there are more ranks than heads, or the key heads do not divide the query heads.
        """
        if num_heads % num_key_value_heads:
            raise UserError(
                f"model.num_key_value_heads={num_key_value_heads} does not divide "
                f"model.num_attention_heads={num_heads}; choose a divisor."
            )
        if parts > num_heads:
            raise UserError(
                f"layout.tp={parts} is more than model.num_attention_heads={num_heads}, so some ranks would have no "
                f"head; choose tp at most {num_heads}."
            )
        group = num_heads // num_key_value_heads
        query = even_ranges(num_heads, parts)
        return HeadCut(query, tuple((first // group, -(-last // group)) for first, last in query), group)

    def key_of_query(self, position: int) -> list[int]:
        """Return, for each query head of a rank, the index of its key head among the rank's own."""
        first_key = self.key[position][0]
        return [head // self.group - first_key for head in range(*self.query[position])]

    @staticmethod
    def features(ranges: tuple[tuple[int, int], ...], head_dim: int) -> tuple[tuple[int, int], ...]:
        """Return the ranges of features that ranges of heads span."""
        return tuple((first * head_dim, last * head_dim) for first, last in ranges)
