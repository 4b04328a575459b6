"""A live view where somebody watches a terminal, a line now and then where nobody does."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live

if TYPE_CHECKING:
    from asyncthink.evaluation.board import Board


@contextmanager
def watched(board: Board, console: Console, every: float) -> Generator[None]:
    """Show a board while the block runs, and once more at its end.

    Args:
        board: what is shown.
        console: where.
        every: seconds between lines where it is no terminal.
    """
    if console.is_terminal:
        with Live(board, console=console, refresh_per_second=4):
            yield
        return
    stop = threading.Event()

    def tell() -> None:
        while not stop.wait(every):
            _line(board, console)

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        stop.set()
        teller.join()
        _line(board, console)


def _line(board: Board, console: Console) -> None:
    console.print(board.headline(), highlight=False, markup=False, soft_wrap=True)
