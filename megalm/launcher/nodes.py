"""Which ranks lie on which machine, and whether a layout fits there: asked before anything starts."""

from collections.abc import Sequence

from megalm.errors import UserError
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
    check_groups(layout, ranks_of_each_node, across_nodes)


def check_groups(layout: Layout, ranks_of_each_node: Sequence[int], across_nodes: bool) -> None:
    """Refuse machines on which a tp group would lie on two of them, however many of them there are in the end.

    Raises:
        UserError: the tp groups do not fit.
    """
    if across_nodes:
        return
    for number, ranks in enumerate(ranks_of_each_node, 1):
        if ranks % layout.tp:
            who = f"machine {number} of {len(ranks_of_each_node)} has {ranks} {'rank' if ranks == 1 else 'ranks'}"
            raise UserError(_across(layout.tp, who))


def check_hosts(hosts: Sequence[str], tp: int) -> None:
    """Refuse ranks of which a tp group is not all on one machine, however they were dealt.

    Args:
        hosts: the machine of each rank.
        tp: ``layout.tp``, or 1 where a tp group may lie on several machines.

    Raises:
        UserError: a group is split.
    """
    for first in range(0, len(hosts), tp):
        other = next((rank for rank in range(first, first + tp) if hosts[rank] != hosts[first]), None)
        if other is not None:
            raise UserError(_across(tp, f"rank {first} is on {hosts[first]}, rank {other} on {hosts[other]}"))


def _across(tp: int, who: str) -> str:
    return (
        f"a group of layout.tp={tp} neighbouring ranks would lie on two machines ({who}); choose a tp that divides the "
        "ranks of every machine, or say tensor.across_nodes=true if their network is fast enough for an exchange in "
        "every layer."
    )
