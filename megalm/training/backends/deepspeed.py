"""DeepSpeed's ZeRO, stages 0 to 3, with torch's AdamW and our tensor-parallel layers.

DeepSpeed reduces and partitions; the gradient norm and the clipping are made over what this rank owns, as with every
other engine, so DeepSpeed's own are switched off. Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training
Trillion Parameter Models"; Ren et al. 2021, "ZeRO-Offload".
"""

import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from megalm.batch import MicroBatch
from megalm.boxes import Box
from megalm.extras import import_extra
from megalm.mesh import Axis, Mesh
from megalm.parameters import spec_of
from megalm.run_config import RunConfig
from megalm.training.backends.deepspeed_nvme import check_files, file_options, in_memory
from megalm.training.backends.deepspeed_shares import shares_of_group, shares_of_stage_3, shares_of_stages_1_and_2
from megalm.training.backends.foreign import (
    Foreign,
    Share,
    adamw_options,
    by_decay,
    make_moments,
    set_rate,
    set_steps,
)
from megalm.training.model import Part

LARGEST_BUCKET = 500_000_000
"""Elements; DeepSpeed's own default, of which it takes the memory whether the model needs it or not."""


OLD_NAMES = ("`torch.distributed.all_gather_into_tensor`", "`torch.distributed.reduce_scatter_tensor`", "`torch.jit.")
"""How torch's warnings begin about names that DeepSpeed still uses; the user cannot mend that."""


class TensorAxis:
    """Megatron's ``mpu`` as DeepSpeed asks it, over our mesh."""

    def __init__(self, mesh: Mesh) -> None:
        """See the class."""
        self._tp, self._data = mesh.tp, mesh.data

    def get_model_parallel_rank(self) -> int:
        """Return this rank's position on the tensor axis."""
        return self._tp.rank

    def get_model_parallel_world_size(self) -> int:
        """Return the size of the tensor axis."""
        return self._tp.size

    def get_model_parallel_group(self) -> Any:
        """Return the process group of the tensor axis."""
        return self._tp.group

    def get_data_parallel_rank(self) -> int:
        """Return this rank's position on the data axis."""
        return self._data.rank

    def get_data_parallel_world_size(self) -> int:
        """Return the size of the data axis."""
        return self._data.size

    def get_data_parallel_group(self) -> Any:
        """Return the process group of the data axis."""
        return self._data.group


class DeepSpeed(Foreign):
    """A DeepSpeed engine."""

    averages = True

    def __init__(self, config: RunConfig, mesh: Mesh, part: Part, lr_schedule: Callable[[int], float]) -> None:
        """See the class."""
        self.zero_stage = config.zero.stage
        owners: list[Axis] = [mesh.model, mesh.data] if self.zero_stage else [mesh.model]
        super().__init__(config, mesh, part, lr_schedule, owners)
        package = import_deepspeed(mesh.device.type)
        self._files = config.zero.offload_path if config.zero.offload == "nvme" else None
        if self._files is not None:
            check_files(self._files)
        for block in self.whole.apart():  # gathered and given back as a whole: our layers reach into one another
            if block is not self.whole.blocks[0]:  # DeepSpeed waits for the gradient of a whole block's input
                package.utils.set_z3_leaf_module(block, True)
        for parameter in self.parameters:
            parameter.model_parallel = spec_of(parameter).split is not None  # type: ignore[attr-defined]
        self._adamw = torch.optim.AdamW(by_decay(self.parameters), **adamw_options(config.optimizer))
        self._engine, self._optimizer, _, _ = package.initialize(
            model=self.whole,
            optimizer=self._adamw,
            config=_options(config, sum(parameter.numel() for parameter in self.parameters)),
            mpu=TensorAxis(mesh) if mesh.tp.size > 1 else None,
        )
        self._make_moments()
        self._copies: list[Share] = []
        self._is_due = False

    def learn(self, microbatch: MicroBatch, *, is_last: bool) -> Tensor:
        """Run one micro-batch; stages 2 and 3 reduce its gradients at once, 0 and 1 after the last."""
        self._is_due = True
        self._engine.set_gradient_accumulation_boundary(is_last)
        loss: Tensor = self._engine(microbatch)
        self._engine.backward(loss, scale_wrt_gas=False)
        return loss

    def infer(self, microbatch: MicroBatch) -> Tensor:
        """Return a micro-batch's loss."""
        loss: Tensor = self._engine(microbatch)
        return loss

    def shares(self) -> Iterator[Share]:
        """Yield what this rank owns of every parameter."""
        if self.zero_stage == 3:
            yield from shares_of_stage_3(self._optimizer, self.mesh)
        elif self.zero_stage:
            yield from shares_of_stages_1_and_2(self._optimizer)
        else:
            for parameter in self.parameters:
                kept = {name: moment for name, moment in self._adamw.state[parameter].items() if name != "step"}
                box = Box((0,) * parameter.dim(), tuple(parameter.shape))
                yield Share(spec_of(parameter), box, parameter.detach(), parameter.grad, kept)

    def lasting_shares(self) -> Iterator[Share]:
        """Yield what this rank owns, in memory until the next step also where it is in files."""
        if self._files is None:
            return self.shares()
        self._copies = [_copy(share) for share in self.shares()]
        return iter(self._copies)

    def forget(self) -> None:
        """Drop the gradients of a step that was not made; DeepSpeed drops those of one that was."""
        self._copies = []
        if not self._is_due:
            return
        self._is_due = False
        if self.zero_stage == 0:
            self._engine.zero_grad()
            return
        self._optimizer.zero_grad(set_to_none=True)
        if self.zero_stage == 3:
            self._optimizer.averaged_gradients = {}
            return
        for group in self._optimizer.averaged_gradients:
            self._optimizer.averaged_gradients[group] = None
            self._optimizer.all_grad_tensors[group] = None

    def change(self, lr: float) -> None:
        """Change what this rank owns, and give it to the others."""
        set_rate(self._adamw, lr)
        self._engine.step()
        self._is_due = False

    def steps_done(self, count: int) -> None:
        """Tell the optimizer how many updates it has done."""
        set_steps(self._adamw, count)

    def loaded(self) -> None:
        """Give loaded values to the ranks that keep them."""
        if self.zero_stage == 3:
            copies = iter(self._copies)
            for group in range(len(self._optimizer.fp16_groups)):
                with in_memory(self._optimizer, group, changes_state=True):
                    for share, copy in zip(shares_of_group(self._optimizer, group, self.mesh), copies, strict=False):
                        _fill(share, copy)
                    self._optimizer._reassign_or_swap_out_partitioned_parameters(group)
        elif self.zero_stage:
            self._optimizer.update_lp_params()

    def _make_moments(self) -> None:
        """Make the moments of the tensors that AdamW changes on this rank."""
        if self.zero_stage == 3:
            for group, values in enumerate(self._optimizer.fp32_partitioned_groups_flat):
                with in_memory(self._optimizer, group, changes_state=True):
                    make_moments(self._adamw, [values])
        elif self.zero_stage:
            make_moments(self._adamw, self._optimizer.single_partition_of_fp32_groups)
        else:
            make_moments(self._adamw, self.parameters)


def _copy(share: Share) -> Share:
    moments = {name: moment.clone() for name, moment in share.moments.items()}
    return replace(share, values=share.values.clone(), gradient=None, moments=moments)


def _fill(share: Share, copy: Share) -> None:
    share.values.copy_(copy.values)
    for name, moment in share.moments.items():
        moment.copy_(copy.moments[name])


def import_deepspeed(device_type: str) -> Any:
    """Import DeepSpeed so that it computes where the mesh does, and compiles nothing.

    It reads its device from variables that only some launchers set. Its start would build a shared-memory all-reduce
    with the C++ compiler, for minutes; a build that was killed leaves a lock on which every later one waits for ever.
    """
    os.environ.setdefault("DS_ACCELERATOR", device_type)
    os.environ.setdefault("LOCAL_RANK", str(torch.cuda.current_device() if device_type == "cuda" else 0))
    for beginning in OLD_NAMES:
        warnings.filterwarnings("ignore", beginning)
    package = import_extra("deepspeed", "zero.backend: deepspeed")
    communication: Any = import_extra("deepspeed", "zero.backend: deepspeed", "deepspeed.comm.torch")
    communication.build_shm_op = lambda: None
    package.utils.groups._release_process_group_references()  # of a run that this process made before
    return package


def _options(config: RunConfig, num_elements: int) -> dict[str, Any]:
    """Return DeepSpeed's configuration of the run."""
    zero: dict[str, Any] = {
        "stage": config.zero.stage,
        "reduce_bucket_size": min(num_elements, LARGEST_BUCKET),
        "overlap_comm": False,
        "stage3_param_persistence_threshold": 0,  # small parameters too are where their owners are
    }
    if config.zero.offload == "cpu":
        zero["offload_optimizer"] = {"device": "cpu"}
    elif config.zero.offload_path is not None:
        zero.update(file_options(config.zero.offload_path))
    elif config.zero.stage in (1, 2):
        zero["compute_grad_norm"] = False
    return {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": 1,  # who calls says which micro-batch is the last
        "gradient_clipping": 0.0,
        "steps_per_print": None,
        "zero_force_ds_cpu_optimizer": False,  # its own CPU Adam would be compiled
        "zero_optimization": zero,
    }
