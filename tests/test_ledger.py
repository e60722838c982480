"""Oracle: sums by hand."""

import json

from megalm.ledger import Entry, Ledger


def some() -> Ledger:
    ledger = Ledger()
    ledger.record(Entry("all_reduce", "tp", "float32", 100))
    ledger.record(Entry("all_gather", "tp", "float32", 40))
    ledger.record(Entry("all_reduce", "tp", "float32", 100))
    ledger.record(Entry("reduce_scatter", "dp", "float64", 7))
    ledger.record(Entry("all_reduce", "dp", "float64", 8, scalar=True))
    return ledger


def test_an_all_reduce_counts_twice_and_the_others_once() -> None:
    assert Entry("all_reduce", "tp", "float32", 10).volume == 20
    assert Entry("all_gather", "tp", "float32", 10).volume == 10
    assert Entry("reduce_scatter", "tp", "float32", 10).volume == 10
    assert Entry("broadcast", "tp", "float32", 10).volume == 10


def test_volume_is_summed_by_axis_and_scalars_apart() -> None:
    ledger = some()
    assert ledger.volume("tp") == 440
    assert ledger.volume("dp") == 7
    assert ledger.volume("pp") == 0
    assert ledger.volume() == 447
    assert ledger.volume(scalar=True) == ledger.volume("dp", scalar=True) == 16


def test_equal_calls_are_one_row() -> None:
    rows = some().rows()
    assert rows[0] == {
        "kind": "all_reduce",
        "axis": "tp",
        "dtype": "float32",
        "scalar": False,
        "calls": 2,
        "payload": 200,
        "volume": 400,
        "wire": 0,
    }
    assert [(row["kind"], row["axis"], row["calls"], row["volume"]) for row in rows[1:]] == [
        ("all_gather", "tp", 1, 40),
        ("reduce_scatter", "dp", 1, 7),
        ("all_reduce", "dp", 1, 16),
    ]
    assert json.loads(json.dumps(rows)) == rows


def test_on_the_wire_goes_what_a_rank_does_not_have_itself() -> None:
    ledger = Ledger([Entry(kind, "dp", "float32", 120, ranks=3) for kind in ("all_reduce", "all_gather", "send")])
    assert [entry.wire for entry in ledger.entries] == [160, 80, 120]
    assert ledger.wire() == ledger.wire("dp") == 360
    assert ledger.wire("tp") == ledger.wire(scalar=True) == 0
    assert Entry("receive", "pp", "float32", 120, ranks=2).wire == 0


def test_a_closed_ledger_keeps_what_it_has() -> None:
    ledger = some()
    ledger.close()
    ledger.record(Entry("barrier", "tp", "none", 0, scalar=True))
    assert ledger.entries == some().entries


def test_ledgers_do_not_share_entries() -> None:
    some()
    assert Ledger().entries == []
