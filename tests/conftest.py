"""What all rooms' tests share."""

import os
import signal

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell's background job ignores SIGINT, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return request.param
