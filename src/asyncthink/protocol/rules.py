"""Which action is legal now, for the runtime while it happens and for loaders afterwards.

Two things are not judged here. `pool_overflow` needs to know which workers were active: it is decided on
the virtual clock, from the record (`episodes/`); with capacity 1 by the organizer, at once. And that the index of a dropped fork stays unused needs no
rule: the parser reports it as `Malformed`, without an index.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import assert_never

from asyncthink.protocol.actions import Action, Answer, Fork, FormatError, Join, Malformed, Return, Think


@dataclass(slots=True)
class Rules:
    """What an organizer has done so far. The episode goes on after every error."""

    forked: set[int] = field(default_factory=set[int])
    joined: set[int] = field(default_factory=set[int])
    answered: bool = False

    def judge(self, action: Action) -> FormatError | None:
        """Return what is wrong with the organizer's next action, or None, and take note of it.

        A fork with an error starts nothing; a join with an error receives the empty string.
        """
        match action:
            case Think():
                return None
            case Fork():
                return self._fork(action.index)
            case Join():
                return self._join(action.index)
            case Answer():
                self.answered = True
                return None
            case Malformed() | Return():
                return FormatError.MALFORMED_TAG
            case _:
                assert_never(action)

    def finish(self) -> FormatError | None:
        """Return what is wrong with stopping now, or None."""
        return None if self.answered else FormatError.NO_ANSWER

    def _fork(self, index: int) -> FormatError | None:
        if index in self.forked:
            return FormatError.DUPLICATE_FORK
        self.forked.add(index)
        return None

    def _join(self, index: int) -> FormatError | None:
        if index not in self.forked:
            return FormatError.UNKNOWN_JOIN
        if index in self.joined:
            return FormatError.DUPLICATE_JOIN
        self.joined.add(index)
        return None


def format_errors(actions: Iterable[Action]) -> list[FormatError]:
    """Judge a whole organizer's trace: its errors in order, `pool_overflow` left out."""
    rules = Rules()
    errors = [rules.judge(action) for action in actions]
    return [error for error in (*errors, rules.finish()) if error]
