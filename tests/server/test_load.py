"""benchmarks/server_load.py in small: who leaves leaves nothing behind, and whoever was let in is served to the end."""

from __future__ import annotations

from collections import Counter

import anyio
from server.load import End, crowd, script
from server.serving_worlds import SECONDS, Serving


def test_a_crowd_of_which_a_fifth_leaves_and_a_signal_in_the_middle() -> None:
    clients = 60
    slow = {"script": script(60), "delay": 0.05}
    with Serving("--served-model-name", "m", "--capacity", "5", "--at-once", "50", slow=slow) as server:
        found = anyio.run(crowd, server, clients, 0.2, 3.0)
        assert server.process.wait(SECONDS) == 0
    assert Counter(stream.end for stream in found.streams) == {End.DONE: 48, End.LEFT: 12}
    assert found.late == [503] * 5
    assert any("stopped: 0 cut off" in line for line in server.log)
    assert not any("Traceback" in line or "Error" in line for line in server.log)
