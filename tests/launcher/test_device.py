"""Oracle: the rule of run.device, over pretended GPUs and what launchers make visible of them."""

from types import SimpleNamespace

import pytest
import torch

from megalm.errors import UserError
from megalm.launcher.device import choose, own_gpu, own_index
from megalm.launcher.roll_call import Present


def roll(**gpus_of: str) -> list[Present]:
    """Return what ranks say: for each machine a letter for the GPU of each rank, ``-`` for none; all see them all."""
    return [
        Present(host, len(set(gpus) - {"-"}), gpu.replace("-", "")) for host, gpus in gpus_of.items() for gpu in gpus
    ]


@pytest.mark.parametrize(
    ("device", "present", "chosen"),
    [
        ("auto", roll(h0="ab"), "cuda"),
        ("auto", roll(h0="ab", h1="ab"), "cuda"),
        ("auto", roll(h0="aa"), "cpu"),
        ("auto", roll(h0="aab", h1="aab"), "cpu"),
        ("auto", roll(h0="--"), "cpu"),
        ("auto", [Present("h0", 1, "a"), Present("h0", 1, "b")], "cuda"),
        ("cpu", roll(h0="ab"), "cpu"),
        ("cuda", roll(h0="a"), "cuda"),
    ],
)
def test_cuda_is_used_only_if_there_is_a_gpu_for_each_rank(device: str, present: list[Present], chosen: str) -> None:
    choice = choose(device, present)
    assert choice.type == chosen
    assert choice.message.startswith(f"device: {chosen}")
    assert "\n" not in choice.message


def test_cuda_for_more_ranks_than_gpus_is_refused() -> None:
    with pytest.raises(UserError, match="h1 has GPUs: 2, ranks: 3"):
        choose("cuda", roll(h0="ab", h1="aab"))
    with pytest.raises(UserError, match="h0 has GPUs: 0, ranks: 1"):
        choose("cuda", roll(h0="-"))


def test_a_machine_that_has_lost_a_gpu_is_named_and_does_not_send_all_to_the_cpu() -> None:
    with pytest.raises(UserError, match=r"h1 has GPUs: 1, ranks: 2, while 2 of the 3 machines have a GPU"):
        choose("auto", roll(h0="ab", h1="aa", h2="ab"))


@pytest.mark.parametrize(
    ("visible", "local_rank", "local_world_size", "index"),
    [
        ("8 GPUs, as with --gpus-per-node=8", 3, 8, 3),
        ("1 GPU, as with --gpus-per-task=1", 3, 8, 0),
        ("2 GPUs, as with --gpus-per-task=2", 3, 4, 0),
        ("1 GPU", 0, 1, 0),
    ],
)
def test_a_rank_takes_the_gpu_of_its_number_or_the_first_of_its_own(
    visible: str, local_rank: int, local_world_size: int, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle: CUDA numbers the GPUs that ``CUDA_VISIBLE_DEVICES`` leaves visible from 0, whatever they are."""
    count = int(visible[0])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=f"GPU-{number}"))
    assert own_index(local_rank, local_world_size) == index
    assert own_gpu("auto", local_rank, local_world_size) == f"GPU-{index}"
    assert own_gpu("cpu", local_rank, local_world_size) == ""


def test_a_build_without_cuda_computes_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert own_gpu("auto", 0, 1) == ""
