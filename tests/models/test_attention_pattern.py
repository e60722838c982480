"""Oracle: the definitions of the patterns, counted out, and a chi-square test of what is drawn."""

from collections import Counter
from typing import Any

import pytest

from megalm.errors import UserError
from megalm.models.attention_pattern import AttentionConfig, Blocks, Pattern, Window
from megalm.models.attention_tiles import tiling
from megalm.models.config import ModelConfig
from megalm.run_config import RunConfig
from megalm.validation import validate

BLOCKS = {"pattern": "block_sparse", "block_size": 4, "num_local_blocks": 2}
MODEL = {"family": "gpt2", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9}


def test_random_blocks_are_as_likely_and_never_ones_that_are_seen_anyway() -> None:
    row, number = 20, 24
    for causal, others in ((True, range(1, 19)), (False, [*range(1, 19), *range(22, 24)])):
        drawn = [Blocks(4, 2, 1, 3, f"0:{layer}").slots(row, number, causal=causal)[1:4] for layer in range(2000)]
        assert all(len(set(blocks)) == 3 for blocks in drawn)
        found = Counter(block for blocks in drawn for block in blocks)
        assert set(found) == set(others)
        expected = 2000 * 3 / len(others)
        chi_square = sum((count - expected) ** 2 / expected for count in found.values())
        assert chi_square < 2 * len(others)


def test_what_is_drawn_is_a_function_of_seed_layer_and_block_alone() -> None:
    fields = {**BLOCKS, "num_random_blocks": 2}
    first, same, layer, seed = (
        AttentionConfig.model_validate({**fields, "random_seed": seed}).of_layer(layer)
        for seed, layer in ((3, 0), (3, 0), (3, 1), (4, 0))
    )
    tables = [
        [pattern.slots(row, 30, causal=True) for row in range(30)]
        for pattern in (first, same, layer, seed)
        if isinstance(pattern, Blocks)
    ]
    assert tables[0] == tables[1]
    assert all(tables[0][10:] != other[10:] for other in tables[2:])
    assert isinstance(first, Blocks)
    assert tables[0][:13] == [first.slots(row, 13, causal=True) for row in range(13)]  # a sequence that may grow


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("pattern", [Window(6), Window(4, 3), Blocks(4, 2, 0, 0, ""), Blocks(4, 1, 2, 2, "s")], ids=str)
def test_what_is_hidden_and_how_much_is_seen(pattern: Pattern, causal: bool) -> None:
    """A sequence hides something if a query far from the ends, or one at the ends, sees fewer than all."""

    def seen(query: int, length: int) -> int:
        keys = range(query + 1) if causal else range(length)
        if isinstance(pattern, Window):
            far = pattern.size * pattern.dilation
            return sum(abs(query - key) < far and (query - key) % pattern.dilation == 0 for key in keys)
        blocks = pattern.seen(query // pattern.size, -(-length // pattern.size), causal=causal)
        return sum(key // pattern.size in blocks for key in keys)

    for length in range(1, 33):
        all_see_all = all(seen(query, length) == (query + 1 if causal else length) for query in range(length))
        assert pattern.hides(length, causal=causal) == (not all_see_all), length
    length = 240
    whole = [seen(query, length) for query in range(length)]
    block = pattern.size if isinstance(pattern, Blocks) else 1
    if isinstance(pattern, Blocks) and not causal:
        few = pattern.num_global * block
        assert pattern.keys_seen(length, causal=causal) == (few * length + (length - few) * whole[120]) // length
    else:
        assert pattern.keys_seen(length, causal=causal) == whole[119 if causal else 120]
    assert pattern.keys_seen(3, causal=causal) == (3 if not isinstance(pattern, Window) else -(-3 // pattern.dilation))


@pytest.mark.parametrize("pattern", [Window(70), Window(9, 5), Blocks(64, 2, 1, 2, "s")], ids=str)
def test_tiles_of_long_sequences_are_as_many_as_the_length_says(pattern: Pattern) -> None:
    def cost(length: int) -> int:
        cut = tiling(pattern, length, causal=True)
        assert sorted(query for rows in cut.rows for query in rows.queries) == list(range(cut.num_tiles))
        return sum(len(keys) for rows in cut.rows for keys in rows.keys) * cut.size

    assert cost(40960) == 2 * cost(20480)
    assert cost(20480) <= 20480 * (3 if isinstance(pattern, Window) else 5)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"pattern": "sliding_window"}, "pattern=sliding_window needs model.attention.window; add it."),
        ({"pattern": "dilated", "window": 4}, "needs model.attention.dilation"),
        ({"pattern": "block_sparse", "block_size": 4}, "needs model.attention.num_local_blocks"),
        ({"pattern": "sliding_window", "window": 4, "dilation": 2}, "dilation has no effect with pattern=sliding"),
        ({**BLOCKS, "window": 4}, "window has no effect with pattern=block_sparse"),
        ({"pattern": "dense", "num_dense_layers": 1}, "num_dense_layers has no effect with pattern=dense"),
        ({**BLOCKS, "random_seed": 4}, "random_seed has no effect without num_random_blocks"),
        ({**BLOCKS, "num_dense_layers": 2}, "num_dense_layers=2 leaves none of the model.num_hidden_layers=2"),
        ({"pattern": "strided"}, "model.attention.pattern|attention.pattern must be"),
        ({"pattern": "sliding_window", "window": 0}, "attention.window"),
    ],
)
def test_what_is_lacking_or_has_no_effect_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        validate(ModelConfig, {**MODEL, "attention": fields})


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_families_that_have_no_patterns_refuse_them(family: str) -> None:
    with pytest.raises(UserError, match=f"model.attention has no effect in the family {family}"):
        validate(ModelConfig, {**MODEL, "family": family, "attention": BLOCKS})


@pytest.mark.parametrize(
    ("fields", "length", "told"),
    [
        ({"pattern": "sliding_window", "window": 16}, 16, True),
        ({"pattern": "sliding_window", "window": 16}, 17, False),
        ({"pattern": "sliding_window", "window": 16, "num_dense_layers": 1}, 16, True),
        ({"pattern": "dilated", "window": 16, "dilation": 2}, 16, False),
        (BLOCKS, 8, True),
        (BLOCKS, 9, False),
        ({"pattern": "dense"}, 16, False),
    ],
)
def test_a_pattern_that_hides_nothing_is_told(fields: dict[str, Any], length: int, told: bool) -> None:
    tree = {"model": {**MODEL, "attention": fields}, "data": {"train": [{"path": "none"}]}}
    found = validate(RunConfig, {**tree, "train": {"seq_length": length}}).without_effect()
    assert [f"hides nothing of train.seq_length={length}" in sentence for sentence in found] == [True] * told
