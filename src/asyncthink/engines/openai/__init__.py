"""Any model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, Ollama, hosted services.

    engine.py       the engine: servers, keys, what it finds out before the first token
    context.py      what an agent's context looks like in a request: token ids, text, or messages
    session.py      decoding: one block over as many requests as it takes
    request.py      one request: its body, and what it came to
    server.py       one base URL: its connections, and errors in the world's many shapes
    gate.py         how many requests are under way at a time
    reply.py        one reply as it comes, watched until it ends
    stream.py       bytes of a reply -> events, whole, in order and once
    pieces.py       an event's JSON -> what it says, in all common shapes
    secret.py       a key that nothing shows
    retry.py        what may be tried again, and when
    dialect.py      what kinds of server are known to do, and what was learned from refusals
    preflight.py    what is found out of servers before the first token is spent
    probe.py        what a server can do, found out by asking it (`asyncthink doctor`)

It runs under asyncio only, since its HTTP client (aiohttp) does.
"""

from asyncthink.engines.openai.engine import OpenAIEngine

__all__ = ["OpenAIEngine"]
