"""Which ranks lie on which machine, and whether a layout fits there: asked before anything starts."""

from collections.abc import Sequence

from megalm.errors import UserError
from megalm.launcher.placement import Placement
from megalm.layout import Layout


def check_nodes(layout: Layout, ranks_of_each_node: Sequence[int], across_nodes: bool) -> None:
    """Refuse a layout that does not fill the machines, or of which a tp group would lie on two of them.

    Ranks are dealt to the machines in order, so the ranks of a tp group, which are neighbours, stay together exactly if
    tp divides the ranks of every machine.

    Args:
        layout: of the run.
        ranks_of_each_node: how many ranks each machine has, in the order of the ranks.
        across_nodes: ``tensor.across_nodes``: whether a tp group may lie on several machines.

    Raises:
        UserError: it does not fit.
    """
    layout.check(sum(ranks_of_each_node))
    if across_nodes:
        return
    for number, ranks in enumerate(ranks_of_each_node, 1):
        if ranks % layout.tp:
            who = f"machine {number} of {len(ranks_of_each_node)} has {ranks} {'rank' if ranks == 1 else 'ranks'}"
            raise UserError(_across(layout, who))


def check_own_node(layout: Layout, placement: Placement, across_nodes: bool) -> None:
    """Refuse a layout of which this rank's tp group is not all on this rank's machine.

    Args:
        layout: of the run.
        placement: this rank's; the ranks of its machine follow one another.
        across_nodes: ``tensor.across_nodes``.

    Raises:
        UserError: the group lies on several machines, and that was not asked for.
    """
    first = placement.rank - placement.local_rank
    group = placement.rank // layout.tp * layout.tp
    if not across_nodes and (group < first or group + layout.tp > first + placement.local_world_size):
        raise UserError(_across(layout, f"rank {placement.rank} has {placement.local_world_size} on its machine"))


def _across(layout: Layout, who: str) -> str:
    return (
        f"a group of layout.tp={layout.tp} neighbouring ranks would lie on two machines ({who}); choose a tp that "
        "divides the ranks of every machine, or say tensor.across_nodes=true if their network is fast enough for an "
        "exchange in every layer."
    )
