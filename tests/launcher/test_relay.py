"""Oracle: the bytes that went in, and their end."""

import os
import threading

from megalm.launcher.relay import relayed

GIVEN = bytes(range(256)) * 1000


def test_everything_comes_out_up_to_its_end() -> None:
    """More than a pipe holds."""
    read_end, write_end = os.pipe()

    def give() -> None:
        with os.fdopen(write_end, "wb") as into:
            into.write(GIVEN)

    threading.Thread(target=give).start()
    with relayed(read_end) as given, os.fdopen(os.dup(given), "rb") as out:
        assert out.read() == GIVEN
    os.close(read_end)


def test_a_reader_that_is_gone_ends_it() -> None:
    read_end, write_end = os.pipe()
    with relayed(read_end):
        pass
    os.write(write_end, b"nobody reads this")
    os.close(write_end)
    relay = next((thread for thread in threading.enumerate() if thread.name == "relay"), None)
    if relay is not None:
        relay.join(10)
        assert not relay.is_alive()
    os.close(read_end)
