"""Oracle: the rule of run.device, over pretended numbers of GPUs."""

import pytest
import torch

from megalm.errors import UserError
from megalm.launcher.device import choose


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize(
    ("device", "ranks", "chosen"), [("auto", 2, "cuda"), ("auto", 3, "cpu"), ("cpu", 2, "cpu"), ("cuda", 1, "cuda")]
)
def test_cuda_is_used_only_if_there_is_a_gpu_for_each_rank(device: str, ranks: int, chosen: str) -> None:
    choice = choose(device, ranks)
    assert choice.type == chosen
    assert choice.message.startswith(f"device: {chosen}")
    assert "\n" not in choice.message


@pytest.mark.usefixtures("two_gpus")
def test_cuda_for_more_ranks_than_gpus_is_refused() -> None:
    with pytest.raises(UserError, match="GPUs: 2, ranks: 3"):
        choose("cuda", 3)


def test_a_build_without_cuda_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose("auto", 1).type == "cpu"
    with pytest.raises(UserError, match="GPUs: 0"):
        choose("cuda", 1)
