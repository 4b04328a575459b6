"""One base URL: its connections, how many requests at a time, and its replies."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from typing import Any

import aiohttp
import anyio
import msgspec

from asyncthink.engines.openai import pieces
from asyncthink.engines.openai.gate import Gate
from asyncthink.engines.openai.reply import Reply
from asyncthink.engines.openai.retry import Retries, Trouble, retry_after
from asyncthink.engines.openai.secret import Secret
from asyncthink.engines.openai.stream import Unpacker

_LOG = logging.getLogger(__name__)
_ERROR_BYTES = 64 * 1024
"""Bytes of an error's body that are read."""
_BODY_BYTES = 16 * 1024 * 1024
"""Bytes of any other whole body."""
_FAILED_LATELY = 30.0
"""Seconds for which a server that did not answer gets no new agents, where others do."""
_PATIENCE = 15.0
"""Seconds that a request may take for which nothing, or one token, is decoded."""


class Server:
    """Requests to one base URL.

    Under 429 and its like it sends fewer requests at a time: half as many at once, then one more after each
    round of good replies.
    """

    def __init__(
        self, url: str, http: aiohttp.ClientSession, key: Secret | None, retries: Retries, most: int
    ) -> None:
        self.url = url.rstrip("/")
        self.agents = 0
        """Sessions that stay with it."""
        self.failed_at = -_FAILED_LATELY
        """When it last did not answer at all."""
        self.policy: str | None = None
        """Version of the weights that it holds, as far as is known; None: those that it was started with."""
        self.retries = retries
        self._http, self._key, self._most = http, key, most
        self._gate = Gate(most)
        self._paused_until = 0.0
        self._halved_at = -1.0
        self._good = 0

    @property
    def failed_lately(self) -> bool:
        """Whether it is better left alone for a while."""
        return anyio.current_time() - self.failed_at < _FAILED_LATELY

    def preference(self) -> tuple[bool, int]:
        """Return what is least for the server that a new agent goes to."""
        return self.failed_lately, self.agents

    @property
    def at_a_time(self) -> int:
        """How many requests it is sent at a time now."""
        return self._gate.places

    async def ask(self, route: str, body: Callable[[], dict[str, Any]]) -> Reply:
        """Send a request and return its reply, once its head has come; it must be closed.

        The body is made when its turn has come: thousands may wait.

        Raises:
            Trouble: the request failed.
        """
        await self._gate.enter()
        reply = Reply(self)
        try:
            while (pause := self._paused_until - anyio.current_time()) > 0:
                await anyio.sleep(pause)
            reply.began = anyio.current_time()
            await reply.open(await self._send("POST", route, body(), self.retries.idle))
        except BaseException as error:
            reply.close()
            if isinstance(error, Trouble):
                self.heed(error, reply.began)
            raise
        return reply

    async def get(self, route: str) -> tuple[int, Any]:
        """Return status and JSON of a GET; None where it is no JSON.

        Raises:
            Trouble: no reply came.
        """
        return await self._whole("GET", route, None)

    async def post(self, route: str, body: dict[str, Any]) -> tuple[int, Any]:
        """Return status and JSON of a POST that decodes nothing or next to nothing; see `get`."""
        return await self._whole("POST", route, body)

    async def _whole(self, method: str, route: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        response = await self._send(method, route, body, min(self.retries.idle, _PATIENCE))
        try:
            if 300 <= response.status < 400:
                raise await self.error_of(response)
            text = await self._body(response)
        finally:
            response.close()
        try:
            return response.status, msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return response.status, None

    async def _send(
        self, method: str, route: str, body: dict[str, Any] | None, within: float
    ) -> aiohttp.ClientResponse:
        headers = {"Accept-Encoding": "identity", **(self._key.header() if self._key else {})}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        url = f"{self.url}/{route}"
        again = True
        while True:
            try:
                # The client's own read time-out costs a timer a read, and sees no trickle: see Reply.
                with anyio.fail_after(self.retries.connect + within):
                    return await self._http.request(
                        method, url, data=data, headers=headers, allow_redirects=False
                    )
            except RuntimeError as error:
                raise Trouble("the engine was closed", transient=False) from error
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
                if again and _broke(error):
                    again = False  # an idle connection that was just being closed: another one, at once
                    continue
                # The original may hold the request's headers: it goes no further.
                raise self.trouble(error, unreachable=True) from None

    async def error_of(self, response: aiohttp.ClientResponse) -> Trouble:
        """Return what a reply that is an error says."""
        asked = retry_after(response.headers)
        if 300 <= response.status < 400:
            to = pieces.one_line(response.headers.get("Location", "elsewhere"))
            return Trouble(
                f"it redirects to {to}: name that address", transient=False, status=response.status
            )
        try:
            text = await self._body(response)
        except Trouble:
            text = b""
        try:
            body: Any = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            body = _page(text)
        told = pieces.trouble_of(body or response.reason or "", response.status, asked)
        return self._hidden(f"{response.status}: {told}", told)

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        unpacker = Unpacker(response.headers.get("Content-Encoding", "").strip().lower())
        found, most = bytearray(), _ERROR_BYTES if response.status >= 400 else _BODY_BYTES
        try:
            with anyio.fail_after(self.retries.idle):
                while len(found) < most and (data := await response.content.readany()):
                    found += unpacker.feed(data)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise self.trouble(error) from None
        return self.cleaned(bytes(found[:most]))

    def cleaned(self, data: bytes) -> bytes:
        """Return what came without the key."""
        return data if self._key is None else self._key.erased(data)

    def _hidden(self, message: str, told: Trouble) -> Trouble:
        if self._key:
            message = self._key.hidden(message)
        return Trouble(
            message,
            transient=told.transient,
            status=told.status,
            retry_after=told.retry_after,
            parameter=told.parameter,
            full=told.full,
        )

    def hide(self, trouble: Trouble) -> Trouble:
        """Return a trouble whose message holds no key."""
        return self._hidden(str(trouble), trouble)

    def trouble(self, error: Exception, *, unreachable: bool = False) -> Trouble:
        """Return what an error of the HTTP client means; the server may come back as it was started."""
        self.policy = None
        return Trouble(
            meaning(error, self.retries),
            transient=not isinstance(
                error, aiohttp.ClientSSLError | aiohttp.InvalidURL | aiohttp.NonHttpUrlClientError
            ),
            unreachable=unreachable,
        )

    def heed(self, trouble: Trouble, began: float) -> None:
        """Send fewer requests at a time where the server asks for it; `began`: when that request was sent."""
        if not trouble.limiting:
            return
        now, asked = anyio.current_time(), trouble.retry_after
        if asked is not None and asked <= self.retries.patience:
            self._paused_until = max(self._paused_until, now + asked)
        if began > self._halved_at:  # those that were under way at the last halving say nothing new
            self._halved_at, self._good = now, 0
            at_a_time = max(1, min(self.at_a_time, self._gate.taken + 1) // 2)
            self._gate.resize(at_a_time)
            _LOG.info("%s asks for less: %d requests at a time", self.url, at_a_time)

    def release(self, *, good: bool) -> None:
        """Take back a reply's place."""
        self._gate.leave()
        self._good += good
        if self._good >= self.at_a_time < self._most:
            self._gate.resize(self.at_a_time + 1)
            self._good = 0


def _broke(error: Exception) -> bool:
    """Whether a connection that was there broke; one that could not be made is another matter."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return False
    return isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)


def meaning(error: Exception, retries: Retries) -> str:
    """Return what an error of the HTTP client means, in a few words."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            reason = getattr(error.certificate_error, "verify_message", "") or error.certificate_error
            return f"its certificate is not valid: {pieces.one_line(str(reason))}"
        case aiohttp.ClientSSLError():
            return "no secure connection: is it http:// rather than https://?"
        case aiohttp.ClientConnectorDNSError():
            return f"there is no host {error.host!r}"
        case aiohttp.ClientConnectorError() | aiohttp.ClientOSError():
            return os.strerror(error.errno).lower() if error.errno else "the connection broke"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection"
        case aiohttp.ConnectionTimeoutError():
            return f"no connection within {retries.connect:g} seconds"
        case TimeoutError():
            return f"nothing came for {retries.idle:g} seconds"
        case aiohttp.ClientPayloadError():
            return "the reply broke off"
        case aiohttp.InvalidURL():
            return "that is no address"
        case aiohttp.ClientResponseError():
            return pieces.one_line(f"it does not speak HTTP properly: {error.message}")
        case _:
            return pieces.one_line(f"{type(error).__name__}")


def _page(text: bytes) -> str:
    """Return what a body that is no JSON says, without the markup of a web page."""
    plain = re.sub(rb"<[^<>]*>", b" ", text[:4096]).decode("utf-8", "replace")
    return pieces.one_line(plain)
