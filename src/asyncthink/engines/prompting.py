"""From messages to a prompt: text and token ids, where no message can forge a special token."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, cast

import msgspec
from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from asyncthink.engines.base import Chunk, Message
from asyncthink.engines.lexicon import Lexicon, render
from asyncthink.errors import CheckpointError

CHAT_CONFIG, CHAT_TEMPLATE = "tokenizer_config.json", "chat_template.jinja"


class Prompts:
    """How a checkpoint wants to be asked.

    Its own role templates come first, then its chat template; without either, the messages follow one another.
    """

    def __init__(self, folder: Path, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        self._chat = None if lexicon.templates else _chat_template(folder)

    def build(self, messages: Sequence[Message], *, role: str, capacity: int) -> Chunk:
        """Return the prompt as the model sees it.

        Raises:
            CheckpointError: the template is broken, or there is none for this role.
        """
        if self._chat is not None:
            return self._encode(self._chat.split(messages))
        if not self._lexicon.templates:
            text = "\n\n".join(message.content for message in messages)
        elif role in self._lexicon.templates:
            template = self._lexicon.templates[role]
            text = render(template, query=messages[-1].content, capacity=capacity)
        else:
            known = ", ".join(sorted(self._lexicon.templates))
            raise CheckpointError(
                f"the checkpoint has no template for the role {str(role)!r}, only for: {known}"
            )
        return self._encode([(text, False)], self._lexicon.bos)

    def insertion(self, text: str) -> Chunk:
        """Return text that the model did not write; special-token strings in it stay text."""
        return self._encode([(text, False)])

    def _encode(self, pieces: Sequence[tuple[str, bool]], bos: int | None = None) -> Chunk:
        """Encode pieces of text, each with whether special tokens in it are meant as such."""
        ids = [] if bos is None else [bos]
        for text, trusted in pieces:
            ids += encode(self._lexicon.tokenizer, text, trusted=trusted)
        text = "".join(text for text, _ in pieces)
        return Chunk(text=text, n_tokens=len(ids), token_ids=tuple(ids))


def encode(tokenizer: Tokenizer, text: str, *, trusted: bool = False) -> list[int]:
    """Return the ids of a text; only where it is trusted do special-token strings become special tokens."""
    with _special_tokens(tokenizer, recognised=trusted):
        return tokenizer.encode(text, add_special_tokens=False).ids


@contextmanager
def _special_tokens(tokenizer: Tokenizer, *, recognised: bool) -> Generator[None]:
    before = tokenizer.encode_special_tokens
    tokenizer.encode_special_tokens = not recognised
    try:
        yield
    finally:
        tokenizer.encode_special_tokens = before


class ChatTemplate:
    """A chat template as transformers writes it, rendered in a sandbox."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        self._special = special
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise _broken(error) from error

    def split(self, messages: Sequence[Message]) -> list[tuple[str, bool]]:
        """Return the prompt in pieces, each with whether the template wrote it.

        What the messages say is hidden from the template behind marks that nobody can guess.
        """
        mark = secrets.token_hex(16)
        hidden = [{"role": each.role, "content": f"{mark}-{place}-"} for place, each in enumerate(messages)]
        try:
            text = self._template.render(
                messages=hidden, add_generation_prompt=True, raise_exception=_raise, **self._special
            )
        except Exception as error:  # a template may raise anything
            raise _broken(error) from error
        pieces = re.split(f"{mark}-([0-9]+)-", text)
        return [
            (messages[int(piece)].content, False) if place % 2 else (piece, True)
            for place, piece in enumerate(pieces)
            if piece
        ]


def _chat_template(folder: Path) -> ChatTemplate | None:
    config = _read_json(folder / CHAT_CONFIG)
    source: Any = config.get("chat_template")
    if (folder / CHAT_TEMPLATE).exists():
        try:
            source = (folder / CHAT_TEMPLATE).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _broken(error) from error
    if isinstance(source, list):  # several, by name
        try:
            several = msgspec.convert(source, list[dict[str, str]])
            source = {each["name"]: each["template"] for each in several}.get("default")
        except (msgspec.ValidationError, KeyError) as error:
            raise _broken(error) from error
    if not source:
        return None
    special = {
        name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")
    }
    return ChatTemplate(str(source), special)


def _content(token: Any) -> str:
    """Return a special token's text; files hold it bare or as an object."""
    if isinstance(token, Mapping):
        return str(cast("Mapping[str, Any]", token).get("content", ""))
    return token or ""


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), dict[str, Any])
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: {str(error).splitlines()[0]}") from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _to_json(value: Any, indent: int | None = None, **options: Any) -> str:
    """Return JSON without the escapes for HTML that jinja's own filter adds."""
    return json.dumps(value, ensure_ascii=False, indent=indent, **options)


def _broken(error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(f"the checkpoint's chat template is broken: {first}")
