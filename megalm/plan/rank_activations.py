"""What one rank keeps for backwards at its peak in a step, on its device and on the host, by its list of actions alone.

The peaks are those between two actions, since what a block holds while it computes is not among them. No torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from megalm.layout import Coordinates
from megalm.models.activations import Kept, MicroBatchSize, kept_by_block
from megalm.models.decoder_shape import DecoderShape
from megalm.parallel.pipeline.clock import Keeps, peak_kept
from megalm.parallel.pipeline.program import Program
from megalm.recompute import RecomputeConfig
from megalm.run_config import RunConfig


def activations_unknown(config: RunConfig, shape: DecoderShape, device_type: str) -> str | None:
    """Return why the bytes of activations are not known in closed form, or ``None`` where they are."""
    if shape.embedding_dropout or shape.attention_dropout or shape.hidden_dropout:
        return "the model has dropout, whose masks are not counted"
    if config.data.reset_attention:
        return "data.reset_attention=true gives attention a mask, which is not counted"
    if config.train.precision == "fp8":
        return "the rounded gradients that train.precision=fp8 may put off are not counted"
    if device_type != "cpu":
        return f"it counts what a CPU's kernels save, and the run is on {device_type}"
    return None


@dataclass(frozen=True)
class RankActivations:
    """What is kept of each micro-batch; the last may be smaller.

    Args:
        config: the run.
        shape: the model, without dropout.
        place: of the rank.
        spans: the blocks of each of the rank's stages: 0 the embedding, then the layers, then the head.
        element_size: bytes of a number.
        smallest_offloaded: bytes of the smallest storage that is offloaded; ``None`` where the run offloads nothing.
    """

    config: RunConfig
    shape: DecoderShape
    place: Coordinates
    spans: Mapping[int, range]
    element_size: int
    smallest_offloaded: int | None

    def peaks(self, program: Program) -> tuple[int, int]:
        """Return the most bytes at once on the device, and on the host."""
        size = self.config.train.micro_batch_size
        whole, rest = divmod(self.config.train.global_batch_size // self.config.layout.dp, size)
        full, last = self._kept(size), self._kept(rest)

        def kept(stage: int, microbatch: int) -> dict[int, Kept]:
            return {block: (full if microbatch < whole else last)[block] for block in self.spans[stage]}

        def on_device(stage: int, microbatch: int) -> Keeps:
            of = kept(stage, microbatch)
            leaving = [of[block].on_host for block in of if self._is_offloaded(block)]
            return Keeps(
                sum(block.for_backward for block in of.values()),
                sum(block.for_weight for block in of.values()),
                leaving[-1] if leaving else None,
            )

        def on_host(stage: int, microbatch: int) -> Keeps:
            return Keeps(sum(block.on_host for block in kept(stage, microbatch).values()), 0)

        actions = program.ranks[self.place.pp]
        return int(peak_kept(actions, on_device)), int(peak_kept(actions, on_host))

    def _is_offloaded(self, block: int) -> bool:
        return self._recompute.offload != "none" and 0 < block <= self.shape.num_layers

    @property
    def _recompute(self) -> RecomputeConfig:
        here = {"offload": "none"} if self.smallest_offloaded is None else {}
        return self.config.recompute.model_copy(update=here)

    def _kept(self, samples: int) -> list[Kept]:
        train, tp = self.config.train, self.config.layout.tp
        cut = self.config.tensor.sequence_parallel
        size = MicroBatchSize(samples, train.seq_length, self.element_size, tp, self.place.tp, cut)
        return kept_by_block(self.shape, size, self._recompute, self.smallest_offloaded or 0)
