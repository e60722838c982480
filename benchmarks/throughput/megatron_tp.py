"""The second peer: megatron-core's GPT over tensor-parallel CPU ranks, as its quick start trains it."""

import contextlib
import os
import warnings
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.throughput.measure import Step
from benchmarks.throughput.workload import Workload

MEGATRON_VERSION = "0.16.1"


def check_installed() -> None:
    """Raise RuntimeError with the command that installs the peer, if it is missing or another release."""
    try:
        found = version("megatron-core")
    except PackageNotFoundError:
        found = "none"
    if found != MEGATRON_VERSION:
        raise RuntimeError(
            f"megatron-core {MEGATRON_VERSION} is needed and {found} is installed: "
            f"pip install --no-deps megatron-core=={MEGATRON_VERSION}"
        )


def _import_for_cpu() -> Any:
    """Import megatron-core and answer its questions about CUDA with "cpu": this process does nothing else."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", module="megatron")
    torch.cuda.current_device = lambda: "cpu"  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda *_: None
    from megatron.core.tensor_parallel import random

    random.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
    import megatron.core

    return megatron.core


def _build_model(workload: Workload, tensor_parallel: int) -> nn.Module:
    core = _import_for_cpu()
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    core.parallel_state.initialize_model_parallel(tensor_model_parallel_size=tensor_parallel)
    config = TransformerConfig(
        num_layers=workload.num_layers,
        hidden_size=workload.hidden_size,
        num_attention_heads=workload.num_heads,
        tensor_model_parallel_size=tensor_parallel,
        use_cpu_initialization=True,
        params_dtype=torch.float32,
        init_method_std=0.02,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_func=F.gelu,
        bias_activation_fusion=True,  # its tanh GELU, compiled: faster here than without
        bias_dropout_fusion=False,  # these three are slower here, or CUDA only
        masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )
    model: nn.Module = GPTModel(
        config,
        get_gpt_layer_local_spec(),
        vocab_size=workload.vocab_size,
        max_sequence_length=workload.seq_length,
        position_embedding_type="learned_absolute",
        share_embeddings_and_output_weights=True,
    )
    return model


def _own(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters that this rank counts: its slices, and the whole ones on rank 0 only."""
    from megatron.core.tensor_parallel import param_is_not_tensor_parallel_duplicate

    return [parameter for parameter in parameters if param_is_not_tensor_parallel_duplicate(parameter)]


def _summed(value: float) -> float:
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total)


def build_step(workload: Workload) -> tuple[Step, int]:
    """Return the training step of this tensor-parallel rank and the number of the whole model's parameters."""
    torch.manual_seed(workload.seed)
    model = _build_model(workload, dist.get_world_size())
    parameters = list(model.parameters())
    own = _own(parameters)
    optimizer = torch.optim.AdamW(parameters, lr=workload.learning_rate)
    length = workload.seq_length
    masked = torch.ones(1, 1, length, length, dtype=torch.bool).triu(1)
    positions = torch.arange(length).expand(workload.global_batch_size, -1)

    def clip() -> None:
        norms: list[Tensor] = [parameter.grad.norm() for parameter in own if parameter.grad is not None]
        norm = _summed(float(torch.stack(norms).square().sum())) ** 0.5
        nn.utils.clip_grads_with_norm_(parameters, workload.clip_grad_norm, torch.tensor(norm))

    def step(index: int) -> float:
        inputs, targets = workload.batch(index)
        loss: Tensor = model(inputs, positions, masked, labels=targets).mean()
        loss.backward()
        clip()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step, int(_summed(sum(parameter.numel() for parameter in own)))
