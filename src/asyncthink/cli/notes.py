"""What engines warn of, brought to the user's eyes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager


class _Notes(logging.Handler):
    def __init__(self, tell: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())


@contextmanager
def told_to(tell: Callable[[str], None]) -> Generator[None]:
    """Send the warnings of this package, such as repeated retries, to `tell`."""
    logger, handler = logging.getLogger("asyncthink"), _Notes(tell)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
