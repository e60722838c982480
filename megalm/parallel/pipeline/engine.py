"""Executes one rank's list of a program over the stages that the rank holds."""

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from megalm.batch import MicroBatch
from megalm.parallel.pipeline.action import READS_PARAMETERS, Action, Kind
from megalm.parallel.pipeline.entry import Gradients
from megalm.parallel.pipeline.flow import Flow, unnamed
from megalm.parallel.pipeline.program import Program
from megalm.parallel.pipeline.stage import Stage
from megalm.parallel.pipeline.transport import Parcel, Transport

SEND, FINISH = "last sends", "last gradient sums"
"""What a rank does when all of its actions are done."""

Record = Callable[[Action, float, float], None]
"""Is told each action with its start and end, in seconds of the engine's clock."""


class Parameters(Protocol):
    """The data engine as this one sees it; a place is a block by its stage and its number in the stage."""

    def gather(self, place: tuple[int, int]) -> None:
        """Start to make the values of a block's parameters whole."""

    def ready(self, place: tuple[int, int]) -> None:
        """Return when they are."""

    def release(self, place: tuple[int, int]) -> None:
        """They are not needed now."""

    def reduce(self, place: tuple[int, int]) -> None:
        """Start the sum of the block's gradients."""

    def finish(self) -> None:
        """Return when all sums that were started are in place."""


class Engine:
    """Runs one rank's list of actions.

    Args:
        rank: position on the pipeline axis.
        stages: the rank's spans of blocks, by number.
        transport: sends and receives; a pipeline of one rank needs none.
        parameters: gathers, releases and reduces; how is the data engine's business.

    Attributes:
        record: is told what training steps do, where somebody wants to know.
        now: the clock of the record.
        enter: is told each action of a training step when it begins.
    """

    def __init__(
        self,
        rank: int,
        stages: Mapping[int, Stage],
        transport: Transport | None,
        parameters: Parameters,
    ) -> None:
        """See the class."""
        self.rank = rank
        self.stages = stages
        self.record: Record | None = None
        self.now: Callable[[], float] = time.perf_counter
        self.enter: Callable[[object], None] = _tell_nobody
        self._transport = transport
        self._parameters = parameters

    def run(self, program: Program, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Execute a training program and return each micro-batch's share of the global batch's loss.

        Returns:
            float64 [micro-batches]; zeros on a rank without the last stage. A GPU may still be at work on it.

        Raises:
            LostRank: a neighbour in the pipeline is gone or silent.
        """
        losses = _Run(self, self._transport, self._parameters, program, microbatches).go(self.record, self.enter)
        self.enter(FINISH)
        self._parameters.finish()
        return torch.stack(losses) if losses else torch.zeros(len(microbatches), dtype=torch.float64)

    @torch.no_grad()
    def evaluate(self, program: Program, microbatches: Sequence[MicroBatch]) -> Tensor:
        """Execute a forward-only program and return this rank's share of the losses' sum; 0 without the last stage."""
        losses = _Run(self, self._transport, self._parameters, program, microbatches).go(None, _tell_nobody)
        return sum(losses[1:], losses[0]) if losses else torch.zeros((), dtype=torch.float64)


def _tell_nobody(action: object) -> None:
    pass


class _Run:
    """One step, as one rank goes through it; what stands between two actions lives here."""

    def __init__(
        self,
        engine: Engine,
        transport: Transport | None,
        parameters: Parameters,
        program: Program,
        microbatches: Sequence[MicroBatch],
    ) -> None:
        self._engine, self._transport, self._parameters = engine, transport, parameters
        self._stages, self._program, self._microbatches = engine.stages, program, microbatches
        self._last_stage = program.num_stages - 1
        self._losses: dict[int, Tensor] = {}
        self._inputs: dict[tuple[int, int], Flow] = {}
        self._outputs: dict[tuple[int, int], Flow] = {}
        self._gradients: dict[tuple[int, int], Gradients] = {}
        self._input_gradients: dict[tuple[int, int], Gradients] = {}

    def go(self, record: Record | None, enter: Callable[[object], None]) -> list[Tensor]:
        """Do every action in its order; return what the last block gave of each micro-batch, if it is here."""
        actions = self._program.ranks[self._engine.rank]
        if self._transport is not None:
            self._transport.begin([self._parcel(action) for action in actions if action.kind in _RECEIVES])
        for action in actions:
            enter(action)
            if record is None:
                self._do(action)
            else:
                started = self._engine.now()
                self._do(action)
                record(action, started, self._engine.now())
        if self._transport is not None:
            enter(SEND)
            self._transport.finish()
        return [loss for _, loss in sorted(self._losses.items())]

    def _do(self, action: Action) -> None:
        stage, number = action.stage, action.microbatch
        if action.block is not None and action.kind in READS_PARAMETERS:
            self._parameters.ready((stage, action.block))
        match action.kind:
            case Kind.FORWARD:
                assert number is not None
                self._forward(stage, number, action.block)
            case Kind.BACKWARD:
                assert number is not None
                gradients = self._gradients.pop((stage, number), None)
                found = self._stages[stage].backward(number, gradients, action.block)
                if not action.block:
                    self._pass_back(stage, number, found)
            case Kind.BACKWARD_INPUT:
                assert number is not None
                gradients = self._gradients.pop((stage, number), None)
                found = self._stages[stage].backward_input(number, gradients, action.block)
                if not action.block:
                    self._pass_back(stage, number, found)
            case Kind.BACKWARD_WEIGHT:
                assert number is not None
                self._stages[stage].backward_weight(number, action.block)
            case Kind.REDUCE | Kind.GATHER | Kind.RELEASE:
                assert action.block is not None
                self._keep_parameters(action.kind, (stage, action.block))
            case _:
                assert number is not None
                assert self._transport is not None
                self._communicate(action, stage, number, self._transport)

    def _keep_parameters(self, kind: Kind, place: tuple[int, int]) -> None:
        match kind:
            case Kind.REDUCE:
                self._parameters.reduce(place)
            case Kind.GATHER:
                self._parameters.gather(place)
            case _:
                self._parameters.release(place)

    def _forward(self, stage: int, number: int, block: int | None) -> None:
        entry = None if block else self._inputs.pop((stage, number), None)
        flow = self._stages[stage].forward(number, entry, self._microbatches[number], block)
        if flow is None:
            return
        if stage == self._last_stage:
            assert isinstance(flow, Tensor)
            self._losses[number] = flow.detach().double()
        elif stage + 1 in self._stages:
            self._inputs[stage + 1, number] = flow
        else:
            self._outputs[stage, number] = flow

    def _pass_back(self, stage: int, number: int, gradients: Gradients) -> None:
        if stage - 1 in self._stages:
            self._gradients[stage - 1, number] = gradients
        elif stage > 0:
            self._input_gradients[stage, number] = gradients

    def _communicate(self, action: Action, stage: int, number: int, transport: Transport) -> None:
        match action.kind:
            case Kind.SEND_FORWARD:
                flow = self._outputs.pop((stage, number))
                transport.send(flow, self._holder(stage + 1), self._border(stage + 1, number))
            case Kind.RECEIVE_FORWARD:
                self._inputs[stage, number] = unnamed(transport.receive(self._parcel(action)))
            case Kind.SEND_BACKWARD:
                gradients = self._input_gradients.pop((stage, number))
                transport.send_gradients(gradients, self._holder(stage - 1), self._border(stage, number))
            case Kind.RECEIVE_BACKWARD:
                self._gradients[stage, number] = dict(transport.receive(self._parcel(action)))

    def _parcel(self, action: Action) -> Parcel:
        assert action.microbatch is not None
        forward = action.kind is Kind.RECEIVE_FORWARD
        border = action.stage if forward else action.stage + 1
        peer = self._holder(action.stage - 1 if forward else action.stage + 1)
        return Parcel(action, peer, self._border(border, action.microbatch))

    def _holder(self, stage: int) -> int:
        return self._program.rank_of_stage[stage]

    def _border(self, stage: int, number: int) -> Hashable:
        return stage, self._microbatches[number].shape, torch.is_grad_enabled()


_RECEIVES = (Kind.RECEIVE_FORWARD, Kind.RECEIVE_BACKWARD)
