"""One side of benchmarks/peers.py, in this process: prints what it costs as JSON.

It is run by the Python of the environment that has the side's package. To all sides the fake model says the
same, in whole texts and at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import operator
import resource
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, TypedDict

import fan_out
from fan_out import INSTRUCTIONS, QUERY, Fan, Talk, Think, asked, fork_join

MODULES = {
    "ours": ("asyncthink.runtime.think", "whole_pieces"),
    "ours-tokens": ("asyncthink.runtime.think", "asyncthink.engines.scripted"),
    "langgraph-send": ("langgraph.graph", "langgraph.types", "langchain_core.language_models"),
    "langgraph-tasks": ("langgraph.func", "langchain_core.language_models"),
    "langgraph-send-bare": ("langgraph.graph", "langgraph.types"),
    "langgraph-tasks-bare": ("langgraph.func",),
    "openai-agents": ("agents", "openai.types.responses"),
    "pydantic-ai": ("pydantic_ai", "pydantic_ai.models.function"),
    "pydantic-ai-tools": ("pydantic_ai", "pydantic_ai.models.function"),
}
"""What is imported before the clock starts; its cost is told apart."""
PACKAGES = {"ours": "asyncthink", "openai": "openai-agents", "pydantic": "pydantic-ai-slim"}
"""First word of a side -> its distribution, where the word itself is not its name."""


async def ours(fan: Fan, held: AsyncExitStack) -> Think:
    from whole_pieces import PieceEngine

    from asyncthink import Organization

    organization = Organization(PieceEngine(fan), capacity=fan.workers + 1)
    await held.enter_async_context(organization)

    async def think() -> str:
        return (await organization.think(QUERY)).answer or ""

    return think


async def ours_tokens(fan: Fan, held: AsyncExitStack) -> Think:
    from asyncthink import Organization
    from asyncthink.engines.scripted import ScriptedEngine

    script = {"organizer": " ".join(fan.organizer), "workers": {"*": fan_out.WORKER_TEXT}}
    organization = Organization(ScriptedEngine(script), capacity=fan.workers + 1)
    await held.enter_async_context(organization)

    async def think() -> str:
        return (await organization.think(QUERY)).answer or ""

    return think


async def openai_agents(fan: Fan, held: AsyncExitStack) -> Think:
    """`asyncio.gather` over `Runner.run`, as it documents; agents as tools cost half as much again."""
    del held
    agents: Any = import_module("agents")
    interface: Any = import_module("agents.models.interface")
    response: Any = import_module("openai.types.responses")
    options = agents.RunConfig(tracing_disabled=True)

    def model(role: str) -> Any:
        async def get_response(_: Any, *, input: Any, **rest: Any) -> Any:  # noqa: A002  the peer's name
            del rest
            text = fan.reply(role, 0 if isinstance(input, str) else len(input) // 2)
            part = response.ResponseOutputText(text=text, type="output_text", annotations=[])
            said = response.ResponseOutputMessage(
                id="0", type="message", role="assistant", status="completed", content=[part]
            )
            return agents.ModelResponse(output=[said], usage=agents.Usage(), response_id=None)

        def stream_response(*_: Any, **__: Any) -> Any:
            raise NotImplementedError

        methods = {"get_response": get_response, "stream_response": stream_response}
        return type("Fake", (interface.Model,), methods)()

    players = {
        role: agents.Agent(name=role, instructions=told, model=model(role))
        for role, told in INSTRUCTIONS.items()
    }

    async def talk(role: str, said: Any, text: str) -> tuple[str, Any]:
        context = [*said, {"role": "user", "content": text}] if said else text
        result = await agents.Runner.run(players[role], context, run_config=options)
        return result.final_output, result.to_input_list() if role == "organizer" else None

    return partial(fork_join, fan, talk)


async def pydantic_ai(fan: Fan, held: AsyncExitStack) -> Think:
    """`asyncio.gather` over `Agent.run`, the programmatic hand-off of its documentation."""
    del held
    package: Any = import_module("pydantic_ai")
    function: Any = import_module("pydantic_ai.models.function")

    def player(role: str) -> Any:
        async def reply(messages: list[Any], info: Any) -> Any:
            del info
            return package.ModelResponse(parts=[package.TextPart(fan.reply(role, len(messages) // 2))])

        return package.Agent(function.FunctionModel(reply), instructions=INSTRUCTIONS[role])

    players = {role: player(role) for role in INSTRUCTIONS}

    async def talk(role: str, said: Any, text: str) -> tuple[str, Any]:
        result = await players[role].run(text, message_history=said)
        return result.output, result.all_messages() if role == "organizer" else None

    return partial(fork_join, fan, talk)


async def pydantic_ai_tools(fan: Fan, held: AsyncExitStack) -> Think:
    """Delegation: the organizer calls a tool W times in one reply, each of which runs the worker."""
    del held
    package: Any = import_module("pydantic_ai")
    function: Any = import_module("pydantic_ai.models.function")

    async def organize(messages: list[Any], info: Any) -> Any:
        del info
        call = len(messages) // 2
        text = fan.reply("organizer", call)
        calls = [
            package.ToolCallPart("work", {"query": query}, str(i)) for i, query in enumerate(asked(text))
        ]
        return package.ModelResponse(parts=calls or [package.TextPart(text)])

    async def answer(messages: list[Any], info: Any) -> Any:
        del messages, info
        return package.ModelResponse(parts=[package.TextPart(fan.reply("worker", 0))])

    organizer = package.Agent(function.FunctionModel(organize), instructions=INSTRUCTIONS["organizer"])
    worker = package.Agent(function.FunctionModel(answer), instructions=INSTRUCTIONS["worker"])

    async def work(query: str) -> str:
        return (await worker.run(query)).output

    organizer.tool_plain(work)

    async def think() -> str:
        return (await organizer.run(QUERY)).output

    return think


def chat_model(fan: Fan) -> Talk:
    """Return a fake LangChain chat model: what nodes and tasks call in LangGraph's documentation."""
    models: Any = import_module("langchain_core.language_models")
    messages: Any = import_module("langchain_core.messages")
    outputs: Any = import_module("langchain_core.outputs")

    async def generate(_: Any, given: list[Any], *__: Any, **rest: Any) -> Any:
        del rest
        role = "organizer" if given[0].content == INSTRUCTIONS["organizer"] else "worker"
        message = messages.AIMessage(content=fan.reply(role, len(given) // 2 - 1))
        return outputs.ChatResult(generations=[outputs.ChatGeneration(message=message)])

    def never(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    methods = {"_agenerate": generate, "_generate": never, "_llm_type": property(lambda _: "fake")}
    model = type("Fake", (models.BaseChatModel,), methods)()

    async def talk(role: str, said: Any, text: str) -> tuple[str, Any]:
        before = said or [messages.SystemMessage(INSTRUCTIONS[role])]
        context = [*before, messages.HumanMessage(text)]
        reply = await model.ainvoke(context)
        return reply.text, [*context, reply]

    return talk


def bare_model(fan: Fan) -> Talk:
    """Return a fake model that is a plain function: LangGraph as an executor of tasks, and nothing else."""

    async def talk(role: str, said: Any, text: str) -> tuple[str, Any]:
        context = [*(said or ()), text]
        reply = fan.reply(role, len(context) // 2)
        return reply, [*context, reply]

    return talk


class _State(TypedDict):
    text: str
    said: Any
    results: Annotated[list[str], operator.add]


class _Part(TypedDict):
    query: str


async def langgraph_send(fan: Fan, held: AsyncExitStack, *, model: Callable[[Fan], Talk]) -> Think:
    """Fan out with `Send`, collect with a reducer: all workers are joined together."""
    del held
    graph: Any = import_module("langgraph.graph")
    types: Any = import_module("langgraph.types")
    talk = model(fan)

    async def organize(state: _State) -> dict[str, Any]:
        text, said = await talk("organizer", state.get("said"), "\n".join(state["results"]) or QUERY)
        return {"text": text, "said": said}

    async def work(state: _Part) -> dict[str, Any]:
        return {"results": [(await talk("worker", None, state["query"]))[0]]}

    def onward(state: _State) -> Any:
        return [types.Send("work", {"query": query}) for query in asked(state["text"])] or graph.END

    builder = graph.StateGraph(_State)
    builder.add_node("organize", organize)
    builder.add_node("work", work)
    builder.add_edge(graph.START, "organize")
    builder.add_conditional_edges("organize", onward, ["work", graph.END])
    builder.add_edge("work", "organize")
    compiled = builder.compile()

    async def think() -> str:
        return (await compiled.ainvoke({"results": []}))["text"]

    return think


async def langgraph_tasks(fan: Fan, held: AsyncExitStack, *, model: Callable[[Fan], Talk]) -> Think:
    """Call each agent as a `task` of the functional API."""
    del held
    func: Any = import_module("langgraph.func")
    talk: Any = func.task(model(fan))

    async def play(_: str) -> str:
        return await fork_join(fan, talk)

    flow: Any = func.entrypoint()(play)
    return partial(flow.ainvoke, QUERY)


SIDES: dict[str, Callable[[Fan, AsyncExitStack], Awaitable[Think]]] = {
    "ours": ours,
    "ours-tokens": ours_tokens,
    "langgraph-send": partial(langgraph_send, model=chat_model),
    "langgraph-tasks": partial(langgraph_tasks, model=chat_model),
    "langgraph-send-bare": partial(langgraph_send, model=bare_model),
    "langgraph-tasks-bare": partial(langgraph_tasks, model=bare_model),
    "openai-agents": openai_agents,
    "pydantic-ai": pydantic_ai,
    "pydantic-ai-tools": pydantic_ai_tools,
}
TOGETHER = ("langgraph-send", "langgraph-send-bare", "pydantic-ai-tools")
"""Sides whose form joins all workers at once."""


def _mib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("--workers", type=int, nargs="+", required=True)
    parser.add_argument("--seconds", type=float, required=True, help="CPU time of each measurement")
    arguments = parser.parse_args()
    side: str = arguments.side
    began, before = time.process_time(), _mib()
    for name in MODULES[side]:
        import_module(name)
    imported = {"import_cpu_seconds": round(time.process_time() - began, 3), "imported_mib": _mib()}
    joins = [True] if side in TOGETHER else [False] if "ours" in side else [True, False]
    fans = [Fan(workers=workers, together=one) for workers in arguments.workers for one in joins]
    rows = [asyncio.run(fan_out.cost(SIDES[side], fan, arguments.seconds)) for fan in fans]
    word = side.partition("-")[0]
    result = {
        "version": version(PACKAGES.get(word, word)),
        "python_mib": before,
        **imported,
        "peak_mib": _mib(),
    }
    print(json.dumps({**result, "rows": [fan_out.plain(row) for row in rows]}))


if __name__ == "__main__":
    main()
