"""A trained model over the ranks of a layout, forward only: it gives every rank the whole logits."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from megalm import collectives
from megalm.batch import MicroBatch
from megalm.checkpoint.checkpoint import Checkpoint
from megalm.errors import UserError
from megalm.mesh import Mesh
from megalm.models.config import ModelConfig
from megalm.models.encoder_decoder_shape import ENCODER_DECODERS
from megalm.parallel.pipeline.engine import Engine
from megalm.parallel.pipeline.flow import Flow
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Transport
from megalm.parallel.tensor.vocab import vocab_ranges
from megalm.run_config import RunConfig
from megalm.training.chosen import Chosen
from megalm.training.model import build_part, model_positions
from megalm.training.programs import Programs, rank_of_stage
from megalm.training.resume import weight_pieces
from megalm.weight_half import WeightHalf


class LanguageModel:
    """This rank's part of a model, and the whole logits of what all ranks read together.

    What comes after the logits need not know of ranks: each has the same numbers, and does the same with them. Its
    values are nothing yet: ``load`` or ``fill`` gives them.

    Args:
        config: the run that it is from, at the layout of ``mesh``.
        mesh: this rank's axes.

    Attributes:
        config: as given.
        mesh: as given.

    Raises:
        UserError: the model does not fit the layout, or cannot give logits.
    """

    def __init__(self, config: RunConfig, mesh: Mesh) -> None:
        """See the class."""
        if config.model.num_labels is not None:
            raise UserError(
                f"the model says of which of its model.num_labels={config.model.num_labels} classes a text is, and has "
                "no head for a next token; give one that has learned text, or of several tasks one that has."
            )
        holders = rank_of_stage(config.pipeline, config.layout.pp, 1)
        self.config, self.mesh = config, mesh
        self._part = build_part(config, mesh, holders, None, drawn=False)
        self._part.model.eval()
        losing = {stage: list(held) for stage, held in self._part.held.stages.items()}
        asked = {stage: list(held) for stage, held in losing.items()}
        last = len(holders) - 1
        if last in asked:
            asked[last][-1] = _Asked(asked[last][-1], config.model.family)
        transport = Transport(mesh.pp, mesh.pp_upward, mesh.device) if mesh.pp.size > 1 else None
        half = WeightHalf()
        self._logits, self._loss = (
            Engine(mesh.pp.rank, {stage: Stage(held, half) for stage, held in blocks.items()}, transport, _Kept())
            for blocks in (asked, losing)
        )
        self._program = Programs(config.pipeline, holders, config.layout.pp, self._part.num_blocks).evaluation(1)
        self._last = last in asked
        self._columns = slice(*vocab_ranges(config.model.vocab_size, mesh.tp.size)[mesh.tp.rank])

    @property
    def reads_sources(self) -> bool:
        """Whether it is an encoder-decoder, whose micro-batches need a source."""
        return self.config.model.family in ENCODER_DECODERS

    def load(self, checkpoint: Checkpoint, chosen: Chosen) -> None:
        """Take the weights of a checkpoint, saved at any layout and in any precision.

        Args:
            checkpoint: of a run.
            chosen: what of it the model is.

        Raises:
            UserError: they are another model's.
        """
        pieces = weight_pieces(self._part.model, self._part.held, self.mesh)
        checkpoint.load({chosen.saved(name): piece for name, piece in pieces.items()}, cast=True)

    def fill(self, function: Callable[[Iterable[nn.Parameter], Mapping[str, int], ModelConfig], None]) -> None:
        """Let a function fill this rank's parameters; it is given its position on each axis that their specs name."""
        function(self._part.held.parameters(), model_positions(self.mesh), self.config.model)

    def logits(self, batch: MicroBatch) -> Tensor:
        """Return float64 [places, vocabulary]: of each token of the micro-batch that has a label, in their order.

        Every rank calls it with the same micro-batch.
        """
        own = self._logits.evaluate(self._program, [batch])
        if self.mesh.model.size == 1:
            return own
        num_places = int(batch.asked_bs.sum())
        whole = torch.zeros(num_places, self.config.model.vocab_size, dtype=torch.float64, device=self.mesh.device)
        if self._last:
            whole[:, self._columns] = own
        return collectives.all_reduce(whole, self.mesh.model)

    def loss(self, batch: MicroBatch) -> float:
        """Return the loss of the labels of a micro-batch, on every rank; only a part of the logits is in memory."""
        own = self._loss.evaluate(self._program, [batch]).cpu()
        return collectives.all_reduce(own, self.mesh.pp, scalar=True).item()


class _Asked(nn.Module):
    """The last block of a model, giving logits in place of a loss."""

    def __init__(self, block: nn.Module, family: str) -> None:
        super().__init__()
        if not hasattr(block, "logits"):
            raise UserError(
                f"model.family={family} gives no logits of a next token (its last block has no logits(flow, batch)); "
                "text is made by decoders, and by models of your own that have the method."
            )
        self._block = block

    def forward(self, flow: Flow, batch: MicroBatch) -> Tensor:
        """Return this rank's columns of the logits [places, local vocabulary]."""
        logits: Tensor = self._block.logits(flow, batch)  # type: ignore[operator]
        return logits


class _Kept:
    """Parameters that are whole on every rank and stay so; see ``Engine``."""

    def gather(self, place: tuple[int, int]) -> None:
        pass

    def ready(self, place: tuple[int, int]) -> None:
        pass

    def release(self, place: tuple[int, int]) -> None:
        pass

    def reduce(self, place: tuple[int, int]) -> None:
        pass

    def finish(self) -> None:
        pass
