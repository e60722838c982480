"""What a model says of whole samples: which of a few classes each is of."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megalm.batch import IGNORED, MicroBatch
from megalm.parallel.tensor.linear import ReplicatedLinear
from megalm.parallel.tensor.region import Region, pick_rows


class Classifying(nn.Module):
    """A head that tells classes apart, and a count of what it has said, while somebody asks for it.

    Args:
        num_classes: what there is to say.
        task: whose head it is, where a run has several tasks with heads of their own.
    """

    def __init__(self, num_classes: int, task: str | None = None) -> None:
        """See the class."""
        super().__init__()
        self.num_classes, self.task = num_classes, task
        self.said_cc: Tensor | None = None

    def count(self, classes_n: Tensor, said_n: Tensor) -> None:
        """Count what was said; what is of class ``IGNORED`` was not asked."""
        if self.said_cc is not None:
            known = classes_n != IGNORED
            pairs = classes_n[known] * self.num_classes + said_n[known]
            counts = torch.bincount(pairs, minlength=self.num_classes**2)
            self.said_cc += counts.view_as(self.said_cc).to(self.said_cc.device)


class ClassHead(Classifying):
    """The logits of one row of each sample, and their loss.

    Every rank of the tensor axis holds it whole and applies it to the same rows.

    Args:
        hidden_size: of a row.
        num_classes: what there is to say.
        std: standard deviation of the drawn weights.
        region: how the rows between blocks are cut.
        pooled: whether the first row of a sample speaks, through a pooler (an encoder's); otherwise its last row that
            is no padding, through one product (a decoder's).
        task: whose head it is, where a run has several tasks with heads of their own.
    """

    def __init__(
        self,
        hidden_size: int,
        num_classes: int,
        std: float,
        region: Region,
        *,
        pooled: bool,
        task: str | None = None,
    ) -> None:
        """See the class."""
        super().__init__(num_classes, task)
        self.region = region
        self.pooler = ReplicatedLinear(hidden_size, hidden_size, std=std) if pooled else None
        self.classifier = ReplicatedLinear(hidden_size, num_classes, std=std, bias=pooled)

    def forward(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the samples' share of the global batch's loss."""
        assert batch.classes_b is not None
        logits_bc = self.class_logits(x, batch)
        self.count(batch.classes_b, logits_bc.detach().argmax(-1))
        wide = logits_bc.to(torch.promote_types(logits_bc.dtype, torch.float32))
        loss = F.cross_entropy(wide, batch.classes_b, ignore_index=IGNORED, reduction="sum")
        return loss * batch.class_loss_scale

    def class_logits(self, x: Tensor, batch: MicroBatch) -> Tensor:
        """Return the logits [b, classes] of the samples, of rows ``x`` between blocks."""
        b, s = batch.tokens_bs.shape
        places_b = torch.arange(0, b * s, s, device=x.device)
        if self.pooler is None:
            last = s if batch.documents_bs is None else (batch.documents_bs >= 0).sum(1).clamp(min=1)
            places_b = places_b + last - 1
        rows = pick_rows(x, places_b, self.region)
        logits: Tensor = self.classifier(rows if self.pooler is None else self.pooler(rows).tanh())
        return logits


class TaskHeads(nn.ModuleDict):
    """The heads for whole samples of a run's tasks; their names say whose they are."""

    def __init__(
        self, num_labels: Mapping[str, int], hidden_size: int, std: float, region: Region, *, pooled: bool
    ) -> None:
        """Build one head a task; see ``ClassHead``.

        Args:
            num_labels: the classes that each task's head tells apart.
            hidden_size: of a row.
            std: standard deviation of the drawn weights.
            region: how the rows between blocks are cut.
            pooled: see ``ClassHead``.
        """
        super().__init__(
            {
                f"task_{name}": ClassHead(hidden_size, classes, std, region, pooled=pooled, task=name)
                for name, classes in num_labels.items()
            }
        )

    def of(self, batch: MicroBatch) -> ClassHead | None:
        """Return the head of the micro-batch's task, if it has one of its own."""
        head = dict(self.items()).get(f"task_{batch.task}")
        assert head is None or isinstance(head, ClassHead)
        return head


@contextmanager
def counted(modules: Iterable[nn.Module], task: str | None = None) -> Iterator[Tensor | None]:
    """Count what the head that tells classes apart among the modules says, and of what.

    Args:
        modules: of the model.
        task: whose head it is; a head that is no task's own serves those that have none.

    Yields:
        int64 [classes, classes]: how many things of class i were said to be of class j, up to now; zeros on a rank of
        the pipeline that has not got the head. ``None`` for a model without one.
    """
    heads = [module for module in modules if isinstance(module, Classifying) and module.task in (task, None)]
    heads.sort(key=lambda head: head.task is None)
    if not heads:
        yield None
        return
    said_cc = torch.zeros(heads[0].num_classes, heads[0].num_classes, dtype=torch.int64)
    heads[0].said_cc = said_cc
    try:
        yield said_cc
    finally:
        heads[0].said_cc = None
