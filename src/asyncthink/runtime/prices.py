"""What tokens cost: a table that the user gives, since prices change and differ.

["model-name"]          a table for each model, figures per million tokens, in any one currency
input = 2.50
cached_input = 1.25     tokens that the server had in its cache; input's price if left out
output = 10.00
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from pathlib import Path

import msgspec

from asyncthink.engines.base import Usage
from asyncthink.errors import UnknownNameError, UsageError

_MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Price:
    """One model's prices per million tokens."""

    input: float
    output: float
    cached_input: float | None = None

    def __post_init__(self) -> None:
        for price in (self.input, self.output, self.cached_input or 0):
            if not 0 <= price < float("inf"):
                raise UsageError(f"a price of {price} makes no sense")

    def of(self, usage: Usage) -> float:
        """Return what these requests cost."""
        cached = self.input if self.cached_input is None else self.cached_input
        fresh = usage.input_tokens - usage.cached_tokens
        return (
            fresh * self.input + usage.cached_tokens * cached + usage.output_tokens * self.output
        ) / _MILLION

    def of_input(self, n_tokens: int) -> float:
        """Return what sending so many tokens may cost."""
        return n_tokens * self.input / _MILLION

    def affordable(self, rest: float) -> int:
        """Return how many tokens may be decoded for what is left; at most a million."""
        if rest <= 0:
            return 0
        return int(min(_MILLION, rest * _MILLION / self.output)) if self.output else _MILLION


def load_price(path: Path, model: str) -> Price:
    """Read a model's prices from a table; `openai:NAME` is looked up as NAME too.

    Raises:
        UsageError: the file cannot be read, or its figures make no sense.
        UnknownNameError: the model is not in it.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no price table: {error}") from error
    name = model if model in table else model.partition(":")[2]
    if name not in table:
        if "." in name:
            raise UsageError(f'{path}: there is no table ["{name}"]; a name with a dot stands in quotes')
        raise UnknownNameError(f"model in {path}", name or model, table)
    try:
        found = msgspec.convert(table[name], dict[str, float])
        if unknown := sorted(found.keys() - {each.name for each in fields(Price)}):
            raise UnknownNameError(
                f"price of {name} in {path}", unknown[0], [each.name for each in fields(Price)]
            )
        return msgspec.convert(found, Price)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {name}: {error}") from error
