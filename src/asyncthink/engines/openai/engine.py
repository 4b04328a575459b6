"""The engine: servers, keys, and what it finds out before the first token is spent."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import aiohttp
import anyio
import sniffio

from asyncthink import extras
from asyncthink.engines.base import Capabilities, Message, Profile
from asyncthink.engines.openai.context import ChatContext, Context, TextContext
from asyncthink.engines.openai.dialect import Continuation, Dialect, Learned
from asyncthink.engines.openai.preflight import BASE_URL, KEY, failure, meet
from asyncthink.engines.openai.retry import Retries, Trouble
from asyncthink.engines.openai.secret import Secret
from asyncthink.engines.openai.server import Server
from asyncthink.engines.openai.session import RemoteSession
from asyncthink.errors import EngineError, UnknownNameError, UsageError

if TYPE_CHECKING:
    from asyncthink.engines.openai.tokens import Tokens

HOSTED = "https://api.openai.com/v1"
APIS = ("auto", "chat", "completions")


class OpenAIEngine:
    """A model behind one OpenAI-compatible server, or behind several that serve the same.

    Args:
        model: its name at the server.
        base_url: of the server, up to and including /v1; several for one model. None: `OPENAI_BASE_URL`, else
            OpenAI's own.
        api: `chat`, `completions` (raw text), or `auto`: completions with a tokenizer, else chat where there is it.
        tokenizer: folder of the served checkpoint (tokenizer.json, config.json, templates): with it the server is
            sent token ids, and its own are recorded.
        continuation: how a chat server goes on from the model's own text; `auto`: what this kind of server is
            known to do.
        key: None: `OPENAI_API_KEY`.
        max_concurrency: requests at a time to each server; fewer where it asks for it (429).
        extra_body: fields added to every request.
        extra_headers: headers added to every request, such as a gateway's own.

    Raises:
        UsageError: an argument makes no sense.
        CheckpointError: the tokenizer's folder cannot be read.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | Sequence[str] | None = None,
        api: str = "auto",
        tokenizer: Path | str | None = None,
        continuation: str = "auto",
        key: str | None = None,
        retries: Retries | None = None,
        max_concurrency: int = 256,
        extra_body: Mapping[str, Any] | None = None,
        extra_headers: Mapping[str, str] | None = None,
    ) -> None:
        if not model:
            raise UsageError("openai: needs the model's name at the server, as in openai:my-model")
        if api not in APIS:
            raise UnknownNameError("api", api, APIS)
        if continuation not in ("auto", *Continuation):
            raise UnknownNameError("continuation", continuation, ["auto", *Continuation])
        if max_concurrency < 1:
            raise UsageError(f"max_concurrency must be 1 or more, not {max_concurrency}")
        self.model = model
        self.name = f"openai:{model}"
        self.retries = retries or Retries()
        self.extra_body = dict(extra_body or {})
        self.dialect = Dialect()
        self.learned = Learned()
        self.api = self._asked_api = api
        self.servers: list[Server] = []
        self.policy: str | None = None
        """Version of the weights that its servers are to hold, where somebody changes them."""
        self.profile = Profile()
        self.urls = _addresses(base_url or os.environ.get(BASE_URL) or HOSTED)
        self._secret = _secret((os.environ.get(KEY, "") if key is None else key).strip(), self.urls)
        self._headers = {"User-Agent": "asyncthink", **(extra_headers or {})}
        self._continuation = continuation
        self._most = max_concurrency
        self._http: aiohttp.ClientSession | None = None
        self._tokens = _tokens(tokenizer)
        if self._tokens:
            self.profile = self._tokens.lexicon.profile
        self.capabilities = self._abilities(None)

    async def __aenter__(self) -> Self:
        """Connect, and find out what the servers are: no token is spent.

        Raises:
            UsageError: the model is not there (the server's own list is shown), or another event loop runs.
            EngineError: a server cannot be reached, refuses the key, or lacks what is needed.
        """
        if self._http is not None:
            raise UsageError("the engine is open already")
        if sniffio.current_async_library() != "asyncio":
            raise UsageError("openai: models run under asyncio, not under trio")
        loopback = all(_is_loopback(url) for url in self.urls)
        http = aiohttp.ClientSession(
            connector=_connector(self.urls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.retries.connect),
            auto_decompress=False,
            trust_env=not loopback,
            headers=self._headers,
        )
        try:
            self._http = http
            servers = [Server(url, http, self._secret, self.retries, self._most) for url in self.urls]
            found = await meet(servers, self.model, self._asked_api, self._tokens)
        except BaseException:
            self._http = None
            await http.close()
            raise
        self.servers, self.api, self.dialect = found.servers, found.api, found.dialect
        if self._continuation != "auto":
            self.dialect = replace(self.dialect, continuation=Continuation(self._continuation))
        self.capabilities = self._abilities(found.context)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self.servers = []
        if self._http is not None:
            with anyio.CancelScope(shield=True):
                await self._http.close()
            self._http = None

    def open(
        self, messages: Sequence[Message], *, role: str, episode: str, path: str, capacity: int
    ) -> RemoteSession:
        """Begin a context at the server with the fewest agents; it stays there.

        Raises:
            UsageError: the engine is not open.
            EngineError: no server holds the policy.
            CheckpointError: the tokenizer's folder has no template for this role.
        """
        if not self.servers:
            raise UsageError("the engine is not open: use it in 'async with'")
        server = min(self._fit(), key=Server.preference, default=None)
        if server is None:
            raise self.error(self.servers[0], f"nobody holds {self.policy} any more")
        return RemoteSession(self, server, self._context(messages, role, capacity), path)

    def _context(self, messages: Sequence[Message], role: str, capacity: int) -> Context:
        if self._tokens is not None:
            from asyncthink.engines.openai.tokens import TokenContext

            prompt = self._tokens.prompts.build(messages, role=role, capacity=capacity)
            if self.capabilities.token_ids:
                return TokenContext(prompt, self._tokens)
            return TextContext(self._tokens.begin + prompt.text)
        if self.api == "completions":
            return TextContext("\n\n".join(each.content for each in messages) + "\n\n")
        return ChatContext(messages, self.dialect, self.learned)

    def another(self, server: Server) -> Server:
        """Return another server of the same model that has not failed lately; the same if there is none."""
        others = [each for each in self._fit() if each is not server and not each.failed_lately]
        return min(others, key=Server.preference, default=server)

    def hold(self, policy: str, urls: Collection[str]) -> None:
        """Take note that these servers hold other weights now; the rest of them get no agents.

        One whose connection breaks, or that does not answer, is counted among the rest: it may have been started
        again, with the weights that it began with. What it has in hand goes on at another.
        """
        self.policy = policy
        for server in self.servers:
            server.policy = policy if server.url in urls else None

    def _fit(self) -> list[Server]:
        """Return the servers that hold the policy."""
        return [each for each in self.servers if each.policy == self.policy]

    def learn(self, trouble: Trouble, body: Mapping[str, Any]) -> bool:
        """Take note of a parameter that a server refuses; say whether the request is worth another try."""
        learned = self.learned.learn(trouble, body)
        if learned:
            self.capabilities = replace(self.capabilities, continues=self._continues())
        return learned and not (self.capabilities.token_ids and "return_token_ids" in self.learned.dropped)

    def error(self, server: Server, message: str, *, transient: bool = False) -> EngineError:
        """Return an error that names the model and its server."""
        return failure(self.model, server, message, transient=transient)

    def _continues(self) -> bool:
        if self.api != "chat":
            return True
        return self.dialect.continuation is not Continuation.TURNS and not self.learned.turns_only

    def _abilities(self, context: int | None) -> Capabilities:
        ids = self._tokens is not None and self.dialect.token_ids
        return Capabilities(
            token_ids=ids,
            streaming=True,
            continues=self._continues(),
            context=context,
        )


def _connector(urls: Sequence[str]) -> aiohttp.TCPConnector:
    """Return what makes connections: as many as asked for, trusting whom the environment trusts now."""
    if any(url.startswith("https:") for url in urls):
        return aiohttp.TCPConnector(limit=0, ttl_dns_cache=300, ssl=ssl.create_default_context())
    return aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)


def _addresses(base_url: str | Sequence[str]) -> list[str]:
    given = base_url.split(",") if isinstance(base_url, str) else base_url
    urls = [url.strip().rstrip("/") for url in given if url.strip()]
    if not urls:
        raise UsageError("base_url is empty")
    for url in urls:
        try:
            parts = urlsplit(url)
            _ = parts.port
        except ValueError as error:
            raise UsageError(f"base_url makes no sense: {error}") from error
        if parts.username or parts.password or parts.query:
            raise UsageError(
                f"base_url holds more than an address: a key is given by {KEY}, other headers by extra_headers, "
                "and a query is not supported"
            )
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"base_url {url!r} is no address such as http://127.0.0.1:8000/v1")
    return list(dict.fromkeys(urls))


def _secret(key: str, urls: Sequence[str]) -> Secret | None:
    if any(urlsplit(url).hostname == urlsplit(HOSTED).hostname for url in urls) and not key:
        raise UsageError(f"openai: needs a key: export {KEY}=..., or --base-url for another server")
    if not key.isascii() or any(each.isspace() for each in key):
        raise UsageError(f"the key holds blanks or letters that no key has: see {KEY}")
    return Secret(key) if key else None


def _tokens(folder: Path | str | None) -> Tokens | None:
    if folder is None:
        return None
    extras.require("tokens", "--tokenizer")
    from asyncthink.engines.openai.tokens import Tokens

    return Tokens(Path(folder))


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
