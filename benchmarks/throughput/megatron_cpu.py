"""megatron-core's GPT on CPU ranks: its questions about CUDA are answered with "cpu"."""

import contextlib
import os
import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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
    Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    zeros = torch.zeros

    def zeros_on_cpu(*sizes: Any, device: Any = None, **others: Any) -> Tensor:
        return zeros(*sizes, device="cpu" if device == "cuda" else device, **others)

    torch.zeros = zeros_on_cpu  # the pipeline schedule counts tokens on "cuda"
    from megatron.core.tensor_parallel import random

    random.CudaRNGStatesTracker.fork = lambda *_: contextlib.nullcontext()
    import megatron.core

    return megatron.core


def build_model(workload: Workload, tp: int = 1, pp: int = 1) -> nn.Module:
    """Return this rank's part of the model, cut over tensor-parallel ranks or over the stages of a pipeline.

    In a pipeline of two, stage 0 holds the embedding and all layers, stage 1 the final norm and the head: the head is
    more than half of the matrix work, so no other cut makes the slower stage faster.
    """
    core = _import_for_cpu()
    from megatron.core.models.gpt import GPTModel
    from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec
    from megatron.core.transformer import TransformerConfig

    core.parallel_state.initialize_model_parallel(tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp)
    config = TransformerConfig(
        num_layers=workload.num_layers,
        hidden_size=workload.hidden_size,
        num_attention_heads=workload.num_heads,
        tensor_model_parallel_size=tp,
        pipeline_model_parallel_size=pp,
        pipeline_model_parallel_layout=f"Et*{workload.num_layers}|L" if pp > 1 else None,
        pipeline_dtype=torch.float32,
        batch_p2p_comm=False,  # batches need NCCL
        deallocate_pipeline_outputs=True,  # as its own training loop sets it
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
        pre_process=core.parallel_state.is_pipeline_first_stage(),
        post_process=core.parallel_state.is_pipeline_last_stage(),
        position_embedding_type="learned_absolute",
        share_embeddings_and_output_weights=True,
    )
    return model
