"""Oracle: the run file's words, read by hand."""

from typing import Any

import pytest
from torch import nn

from megalm.errors import UserError
from megalm.mesh import Axis
from megalm.models.decoder import Decoder, DecoderLayer, Head
from megalm.recompute import RecomputeConfig
from megalm.training.recomputed import choose_recomputed
from tests.verify.runs import GPT2, run_file


def blocks(layers: int) -> list[nn.Module]:
    return Decoder(run_file(GPT2, model={"num_hidden_layers": layers}).model, Axis.alone("tp")).blocks()


@pytest.mark.parametrize(
    ("section", "layers"),
    [
        ({"mode": "none"}, []),
        ({"mode": "selective"}, []),
        ({"mode": "full"}, [0, 1, 2, 3, 4]),
        ({"mode": "full", "every": 2}, [0, 2, 4]),
        ({"mode": "full", "every": 4}, [0, 4]),
        ({"mode": "full", "every": 9}, [0]),
    ],
)
def test_full_names_whole_layers_and_never_the_ends(section: dict[str, Any], layers: list[int]) -> None:
    chain = blocks(5)
    found = choose_recomputed(RecomputeConfig(**section), chain)
    assert [chain.index(block) - 1 for block in found] == layers
    assert all(isinstance(block, DecoderLayer) for block in found)
    assert isinstance(chain[-1], Head)


def test_selective_tells_the_layers_their_operations() -> None:
    chain = blocks(3)
    section = RecomputeConfig(mode="selective", operations=["norm", "activation"], every=2)
    assert choose_recomputed(section, chain) == []
    told = [block.recomputed for block in chain if isinstance(block, DecoderLayer)]
    assert told == [{"norm", "activation"}, set(), {"norm", "activation"}]
    assert chain[1].mlp.recomputed == chain[1].self_attn.recomputed == {"norm", "activation"}  # type: ignore[union-attr]


def test_a_model_with_nothing_to_recompute_is_refused() -> None:
    plain: list[nn.Module] = [nn.Linear(2, 2) for _ in range(3)]
    assert choose_recomputed(RecomputeConfig(mode="full"), plain) == plain[1:2]
    with pytest.raises(UserError, match=r"recompute.mode=selective finds nothing to recompute"):
        choose_recomputed(RecomputeConfig(mode="selective"), plain)
    with pytest.raises(UserError, match=r"recompute.mode=full has no layers to recompute"):
        choose_recomputed(RecomputeConfig(mode="full"), plain[:1])


def test_settings_without_effect_are_told() -> None:
    told = [
        RecomputeConfig(every=2),
        RecomputeConfig(operations=["norm"]),
        RecomputeConfig(mode="full", operations=["norm"]),
    ]
    assert [section.without_effect()[0].partition(" has no effect: ")[0] for section in told] == [
        "recompute.every=2",
        "recompute.operations",
        "recompute.operations",
    ]
    used = [RecomputeConfig(), RecomputeConfig(mode="full", every=2), RecomputeConfig(mode="selective", every=2)]
    assert [section.without_effect() for section in used] == [[], [], []]
