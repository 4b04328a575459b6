"""What is to be said next, found from a request alone: the script, less what the client says was written."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import accumulate
from typing import Any, cast

from fault_server.config import Config, Json

from asyncthink.engines.scripted import split_tokens

_JOIN = re.compile("<JOIN-[0-9]+>")
_INSERTED = re.compile(r"(<JOIN-([0-9]+)>).*?</JOIN-\2>", re.DOTALL)
_UNFINISHED = "\ufffd"
ANY = "*"


class MismatchError(Exception):
    """What the client says was written is no beginning of the script."""

    def __init__(self, role: str, written: str, script: str) -> None:
        super().__init__(f"the {role}'s text is no beginning of the script")
        self.entry = {"role": role, "written": written, "script": script}


@dataclass(frozen=True, kw_only=True, slots=True)
class Turn:
    """Where a conversation stands."""

    role: str
    """organizer or worker."""
    question: str
    script: str
    written: str
    """What was decoded so far."""
    begins: bool
    """A new assistant turn begins; else its text goes on."""
    restarts: bool = False
    """The last message is an assistant's that is not to be continued: the script is said from its beginning."""
    held: tuple[int, ...] = ()
    """Ids at the end of the prompt that end within a character."""

    @property
    def start(self) -> int:
        """Where in the script to go on.

        Raises:
            MismatchError: what was written is not the script's.
        """
        if not self.script.startswith(self.written):
            raise MismatchError(self.role, self.written, self.script)
        return 0 if self.restarts else len(self.written)


@dataclass(frozen=True, slots=True)
class Piece:
    """The text of one event."""

    text: str
    n_tokens: int
    """Tokens that this piece completes."""
    token: int | None = None
    field: str = "content"


@dataclass(frozen=True, slots=True)
class Speech:
    """What one request is told."""

    pieces: list[Piece]
    finish: str
    stop_reason: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """How a request wants to be stopped."""

    max_tokens: int | None
    stops: tuple[str, ...]
    keeps_stop: bool
    tells_ids: bool
    """One token an event, whatever `pieces` says."""


def chat_turn(config: Config, body: Json) -> Turn:
    """Find where a chat stands."""
    messages = [(str(each["role"]), content_text(each.get("content"))) for each in body["messages"]]
    question = next((text for role, text in messages if role == "user"), "")
    told = "\n".join(text for role, text in messages if role not in ("user", "assistant"))
    role = "worker" if config.worker_mark in told else "organizer"
    said = "".join(text for role, text in messages if role == "assistant")
    last_is_own = bool(messages) and messages[-1][0] == "assistant"
    goes_on = last_is_own and config.prefix and bool(body.get("continue_final_message"))
    return Turn(
        role=role,
        question=question,
        script=_script(config, role, question),
        written=_without_inserted(role, said),
        begins=not goes_on,
        restarts=last_is_own and not goes_on,
    )


def prompt_turn(config: Config, prompt: str, held: tuple[int, ...] = ()) -> Turn:
    """Find where a completions prompt stands.

    Raises:
        MismatchError: the prompt does not hold the question and what stands behind it.
    """
    role = "worker" if config.worker_mark in prompt else "organizer"
    question, written = (
        _split_worker(config, prompt) if role == "worker" else _split_organizer(config, prompt)
    )
    return Turn(
        role=role,
        question=question,
        script=_script(config, role, question),
        written=_without_inserted(role, written),
        begins=False,
        held=held,
    )


def content_text(content: Any) -> str:
    """Return a message's text: a string, or a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in cast("list[Json]", content))
    return "" if content is None else str(content)


def _script(config: Config, role: str, question: str) -> str:
    if role == "organizer":
        return config.script.get("organizer", "")
    workers: dict[str, str] = config.script.get("workers", {})
    return workers.get(question, workers.get(question.strip(), workers.get(ANY, "")))


def _without_inserted(role: str, text: str) -> str:
    return _INSERTED.sub(r"\1", text) if role == "organizer" else text


def _split_organizer(config: Config, prompt: str) -> tuple[str, str]:
    mark = config.query + config.prompt_tail
    at = prompt.find(mark)
    if at < 0:
        raise MismatchError("organizer", prompt, f"(a prompt with {mark!r} in it)")
    return config.query, prompt[at + len(mark) :]


def _split_worker(config: Config, prompt: str) -> tuple[str, str]:
    tail = config.prompt_tail if config.worker_tail is None else config.worker_tail
    workers: dict[str, str] = config.script.get("workers", {})
    found = [(prompt.find(key + tail), key) for key in workers if key != ANY]
    # One sub-query may be the end of another: the one that begins first is the whole one.
    places = sorted((at, -len(key), key) for at, key in found if at >= 0)
    if places:
        at, _, key = places[0]
        return key, prompt[at + len(key + tail) :]
    return _split_unknown(prompt, tail, workers.get(ANY, ""))


def _split_unknown(prompt: str, tail: str, script: str) -> tuple[str, str]:
    """Split at the first tail behind which the script begins: nobody said what the sub-query is."""
    for match in re.finditer(f"(?={re.escape(tail)})", prompt):
        written = prompt[match.start() + len(tail) :]
        if script.startswith(written):
            return prompt[: match.start()], written
    raise MismatchError("worker", prompt, f"(a prompt with {tail!r} before the text) {script}")


class Words:
    """Tokens without ids."""

    def pieces(self, text: str, start: int = 0, held: tuple[int, ...] = ()) -> list[Piece]:
        """Return the tokens of a text from a character on."""
        del held
        return [Piece(token, 1) for token in split_tokens(text[start:])]

    def count(self, text: str) -> int:
        return len(split_tokens(text))


class Ids:
    """Tokens of a tokenizer.json."""

    def __init__(self, path: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True
        self._known = lru_cache(maxsize=1 << 12)(self._pieces)

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(ids), skip_special_tokens=False)

    def read(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """Return a prompt's text, and behind it the ids that end within a character."""
        end = len(ids)
        while (text := self.decode(ids[:end])).endswith(_UNFINISHED):
            end -= 1
        return text, tuple(ids[end:])

    def pieces(self, text: str, start: int = 0, held: tuple[int, ...] = ()) -> list[Piece]:
        """Return the tokens of a text from a character on, less those that the prompt holds already.

        They are the tokens of the whole text where one begins there, so that a retry does not change them.
        """
        pieces = self._known(text)
        ends = [0, *accumulate(len(piece.text) for piece in pieces)]
        for place in range(bisect_left(ends, start), bisect_right(ends, start)):
            end = place + len(held)
            if held == tuple(piece.token for piece in pieces[place:end]):
                return list(pieces[end:])
        if held:
            raise MismatchError("prompt", f"(ends in the ids {list(held)})", text[start:])
        return list(self._known(text[start:]))

    def count(self, text: str) -> int:
        return len(self._known(text))

    def _pieces(self, text: str) -> tuple[Piece, ...]:
        ids = self.encode(text)
        pieces: list[Piece] = []
        told = ""
        for end, token in enumerate(ids, 1):
            whole = self.decode(ids[:end]).rstrip(_UNFINISHED)
            pieces.append(Piece(whole[len(told) :], 1, token))
            told = max(told, whole, key=len)
        return tuple(pieces)


Tokens = Words | Ids


def _until_join(config: Config, turn: Turn) -> str:
    """Return the script, up to the next join where a turn is to end at one."""
    join = _JOIN.search(turn.script, turn.start) if config.end_at_join else None
    return turn.script[: join.end()] if join else turn.script


def speak(config: Config, tokens: Tokens, turn: Turn, limits: Limits) -> Speech:
    """Return what this request is told.

    Raises:
        MismatchError: what was written is not the script's.
    """
    pieces = [
        *_reasoning(config, tokens, turn),
        *tokens.pieces(_until_join(config, turn), turn.start, turn.held),
    ]
    limited = pieces if limits.max_tokens is None else pieces[: limits.max_tokens]
    stop = _first_stop(limited, limits.stops)
    if stop is not None:
        at, found = stop
        end = at + len(found) if limits.keeps_stop else at
        limited = _cut(limited, end, at + len(found))
    # As with real models, the end itself is a token that the limit may not leave room for.
    finish = "length" if stop is None and len(limited) == limits.max_tokens else "stop"
    if config.pieces and not limits.tells_ids:
        limited = _regrouped(limited, config.pieces)
    return Speech(limited, finish, stop[1] if stop else None)


def _reasoning(config: Config, tokens: Tokens, turn: Turn) -> Iterator[Piece]:
    if config.reasoning and turn.begins:
        for piece in tokens.pieces(config.reasoning["text"]):
            yield replace(piece, field=config.reasoning["field"])


def _first_stop(pieces: list[Piece], stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Return the stop string that is complete first, and where in the content it begins."""
    text = "".join(piece.text for piece in pieces if piece.field == "content")
    found = [(text.find(stop) + len(stop), stop) for stop in stops if stop and stop in text]
    if not found:
        return None
    end, stop = min(found)
    return end - len(stop), stop


def _cut(pieces: list[Piece], end: int, last: int) -> list[Piece]:
    """Keep `end` characters of the content, and the tokens up to the one that holds the character `last`."""
    kept: list[Piece] = []
    at = 0
    for piece in pieces:
        if piece.field != "content":
            kept.append(piece)
            continue
        if at >= last:
            break
        kept.append(replace(piece, text=piece.text[: max(0, end - at)]))
        at += len(piece.text)
    return kept


def _regrouped(pieces: list[Piece], size: int) -> list[Piece]:
    """Cut the text of each field into pieces of so many characters."""
    groups: list[Piece] = []
    for name in dict.fromkeys(piece.field for piece in pieces):
        own = [piece for piece in pieces if piece.field == name]
        text = "".join(piece.text for piece in own)
        ends = list(accumulate(len(piece.text) for piece in own))
        counted = 0
        for start in range(0, len(text), size):
            done = len(own) if start + size >= len(text) else bisect_left(ends, start + size + 1)
            groups.append(Piece(text[start : start + size], done - counted, field=name))
            counted = done
    return groups
