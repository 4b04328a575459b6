"""The engine for OpenAI-compatible servers: what it finds out, what it counts, and what it never shows."""

from __future__ import annotations

import datetime
import json
import logging
import ssl
import traceback
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme
from fault_server.control import FaultServer
from remote_worlds import FAST, QUERY, SCRIPT, decoded, engine_at, think_at

from asyncthink import Episode, Limits, Organization, load_engine, measure
from asyncthink.engines.openai import OpenAIEngine
from asyncthink.engines.openai.probe import probe
from asyncthink.episodes.events import Event, Neared
from asyncthink.episodes.record import Outcome, SegmentKind, StopReason
from asyncthink.errors import EngineError, UnknownNameError, UsageError
from asyncthink.runtime.prices import Price

pytestmark = pytest.mark.anyio
KEY = "sk-7c1f0aa9f0f94f5a8d"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


async def meet(engine: OpenAIEngine) -> None:
    async with engine:
        pass


# What is found out before the first token is spent


def spent(server: FaultServer) -> list[Any]:
    """Return the requests that could have decoded anything."""
    return [body for body in server.stats()["last_bodies"] if body]


async def test_a_wrong_model_shows_the_servers_own_list_the_nearest_first(server: FaultServer) -> None:
    server.configure({"models": ["llama-3-8b", "mistral-small", "qwen3-4b"]})
    with pytest.raises(UnknownNameError) as caught:
        await meet(OpenAIEngine("qwen3-4B-it", base_url=server.url))
    message = str(caught.value)
    assert message == (
        f"unknown model at {server.url} 'qwen3-4B-it': did you mean 'qwen3-4b'? "
        "known: qwen3-4b, llama-3-8b, mistral-small"
    )
    assert spent(server) == []


def test_openai_itself_needs_a_key() -> None:
    with pytest.raises(UsageError, match="needs a key: export OPENAI_API_KEY="):
        OpenAIEngine("gpt")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ftp://x/v1", "no address such as"),
        ("localhost:8000/v1", "no address such as"),
        ("http://", "no address such as"),
        ("http://[::1", "makes no sense"),
        ("http://x:99999/v1", "makes no sense"),
        (f"http://me:{KEY}@x/v1", "more than an address: a key is given by OPENAI_API_KEY"),
        (f"http://x/v1?key={KEY}", "more than an address"),
        (" , ", "is empty"),
    ],
)
def test_an_address_that_makes_no_sense(address: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        OpenAIEngine("m", base_url=address)
    assert said in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"api": "responses"}, "unknown api 'responses'"),
        ({"continuation": "plane"}, "did you mean 'plain'"),
        ({"max_concurrency": 0}, "max_concurrency must be 1 or more"),
        ({"key": "two words"}, "the key holds blanks or letters that no key has: see OPENAI_API_KEY"),
        ({"tokenizer": "/nowhere"}, "no checkpoint folder"),
    ],
)
def test_an_argument_that_makes_no_sense(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, EngineError), match=said):
        OpenAIEngine("m", base_url="http://127.0.0.1:9/v1", **arguments)


def test_servers_are_for_openai_models_only() -> None:
    with pytest.raises(
        UsageError, match="base_url only make sense with --model openai:MODEL, not with 'embedded'"
    ):
        load_engine("embedded", {"base_url": "http://127.0.0.1:9/v1", "api": None})


@pytest.mark.parametrize(("key", "said"), [(None, "401"), (KEY, "401")])
async def test_a_key_that_is_refused(server: FaultServer, key: str | None, said: str) -> None:
    server.configure({"key": "another"})
    with pytest.raises(EngineError) as caught:
        await meet(OpenAIEngine("scripted", base_url=server.url, key=key or "", retries=FAST))
    assert said in str(caught.value) and "check OPENAI_API_KEY" in str(caught.value)
    assert KEY not in str(caught.value)


async def test_an_address_without_v1_is_told(server: FaultServer) -> None:
    server.configure({})
    with pytest.raises(EngineError, match="base URLs usually end in /v1"):
        await meet(OpenAIEngine("scripted", base_url=server.url.removesuffix("/v1"), retries=FAST))


@pytest.mark.parametrize(
    ("routes", "arguments", "missing"),
    [
        ({"chat": False}, {"api": "chat"}, "it has no /chat/completions"),
        ({"completions": False}, {"api": "completions"}, "it has no /completions"),
        ({"chat": False, "completions": False}, {}, "it has no /chat/completions and no /completions"),
    ],
)
async def test_a_server_that_lacks_what_is_needed(
    server: FaultServer, routes: dict[str, bool], arguments: dict[str, Any], missing: str
) -> None:
    server.configure({"routes": routes})
    with pytest.raises(EngineError, match=f"{missing}: the model cannot be asked"):
        await meet(OpenAIEngine("scripted", base_url=server.url, retries=FAST, **arguments))
    assert spent(server) == []


async def test_without_chat_completions_are_used_and_without_a_list_any_name_goes(
    server: FaultServer,
) -> None:
    episode = await think_at(server, "flags", {"routes": {"chat": False, "models": False}})
    assert episode.answer == "48"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Generator[tuple[Path, Path]]:
    """An authority that is trusted, and a certificate of its that has expired."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    before = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    expired = authority.issue_cert("127.0.0.1", not_after=before)
    expired.private_key_and_cert_chain_pem.write_to_path(str(folder / "expired.pem"))
    yield folder / "ca.pem", folder / "expired.pem"


async def test_an_expired_certificate_is_one_clear_line(
    certificates: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, expired = certificates
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    assert ssl.get_default_verify_paths().cafile == str(authority)
    with FaultServer(certfile=expired, keyfile=expired) as server:
        with pytest.raises(EngineError, match=r"its certificate is not valid: certificate has expired$"):
            await meet(OpenAIEngine("scripted", base_url=server.url, retries=FAST))
        plain = server.url.replace("https", "http")
        with pytest.raises(EngineError, match="is the server running"):
            await meet(OpenAIEngine("scripted", base_url=plain, retries=FAST))


async def test_a_plain_server_asked_for_https(server: FaultServer) -> None:
    server.configure({})
    with pytest.raises(EngineError, match=r"is it http:// rather than https://|no connection within"):
        await meet(OpenAIEngine("scripted", base_url=server.url.replace("http", "https"), retries=FAST))


def test_trio_is_refused() -> None:
    engine = OpenAIEngine("m", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(UsageError, match="run under asyncio, not under trio"):
        anyio.run(meet, engine, backend="trio")


# The ways to speak


async def test_results_are_turns_or_go_into_the_models_own_text(server: FaultServer) -> None:
    def inserted(episode: Episode) -> list[str]:
        return [one.text for one in episode.traces[0].segments if one.kind is SegmentKind.INSERTED]

    assert inserted(await think_at(server, "turns")) == ["JOIN-1: 42", "JOIN-2: 6"]
    messages = server.stats()["last_bodies"][-1]["messages"]
    assert [each["role"] for each in messages] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert messages[3]["content"] == "JOIN-1: 42"
    assert "the next message brings the result" in messages[0]["content"]
    assert inserted(await think_at(server, "flags")) == ["42</JOIN-1>", "6</JOIN-2>"]
    messages = server.stats()["last_bodies"][-1]["messages"]
    assert [each["role"] for each in messages] == ["system", "user", "assistant"]
    assert messages[2]["content"].endswith("<JOIN-2>6</JOIN-2>")
    assert "are inserted for you" in messages[0]["content"]


async def test_a_refused_continuation_becomes_turns(server: FaultServer) -> None:
    """The kind of server promises more than this one takes."""
    episode = await think_at(server, "flags", {"prefix": False})
    assert episode.stop_reason is StopReason.ANSWER
    assert decoded(episode) == SCRIPT["organizer"]
    assert server.stats()["last_bodies"][-1]["messages"][-1]["role"] == "user"


async def test_unknown_parameters_are_left_out_once_refused(
    server: FaultServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "asyncthink"):
        engine = engine_at(server, "turns", {"strict": True}, extra_body={"seed_of_all": 1})
        async with Organization(engine) as organization:
            episode = await organization.think(QUERY)
    assert episode.stop_reason is StopReason.ENGINE_ERROR  # the user's own field is not ours to drop
    assert "seed_of_all" in (episode.cause or "")
    async with Organization(engine_at(server, "flags", {"strict": True, "stop_kept": False})) as organization:
        assert (await organization.think(QUERY)).answer == "48"
    bodies = server.stats()["last_bodies"]
    assert "include_stop_str_in_output" in bodies[1]
    assert "include_stop_str_in_output" not in bodies[-1]


@pytest.mark.parametrize("mode", ["text", "turns"])
@pytest.mark.parametrize("size", [2, 3, 5, 7, 11, 40])
async def test_what_stands_past_a_join_never_belonged_to_the_context(
    server: FaultServer, size: int, mode: str
) -> None:
    """Events end anywhere, also behind a join: the server checks what it is sent next."""
    episode = await think_at(server, mode, {"pieces": size})
    assert (episode.answer, episode.format_errors) == ("48", [])
    assert decoded(episode) == SCRIPT["organizer"]
    assert server.stats()["mismatches"] == []


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content"])
async def test_reasoning_costs_and_is_never_read(server: FaultServer, field: str) -> None:
    told = "<ANSWER>no</ANSWER> and <FORK-9>nothing</FORK-9>"
    episode = await think_at(server, "turns", {"reasoning": {"field": field, "text": told}})
    assert (episode.answer, episode.format_errors) == ("48", [])
    kinds = [one.kind for one in episode.traces[0].segments]
    assert SegmentKind.REASONED in kinds
    reasoned = [one for one in episode.traces[0].segments if one.kind is SegmentKind.REASONED]
    assert "".join(one.text for one in reasoned).startswith(told)
    plain = measure(await think_at(server, "turns"))
    assert measure(episode).critical_path > plain.critical_path
    assert all(told not in json.dumps(body["messages"]) for body in spent(server))


async def test_reasoning_that_never_comes_to_an_end_is_given_up(server: FaultServer) -> None:
    """Each reply is cut before its first visible word: asking again and again would cost and bring nothing."""
    config = {
        "reasoning": {"field": "reasoning", "text": "Let me think about this for as long as I may"},
        "faults": {"name": "length_early", "times": 99, "override": {"after": 5}},
    }
    with anyio.fail_after(60):
        episode = await think_at(server, "turns", config)
    assert episode.stop_reason is StopReason.ENGINE_ERROR
    assert f"given up after {FAST.attempts} attempts" in (episode.cause or "")
    assert len(spent(server)) == FAST.attempts


async def test_a_tag_in_reasoning_asks_for_nothing(server: FaultServer) -> None:
    config: dict[str, Any] = {
        "script": {"organizer": "I", "workers": {}},
        "reasoning": {"field": "reasoning", "text": "so it would be <ANSWER>no</ANSWER>"},
    }
    async with Organization(engine_at(server, "turns", config), reminders=False) as organization:
        with anyio.fail_after(60):
            episode = await organization.think(QUERY)
    assert (episode.stop_reason, decoded(episode)) == (StopReason.END_OF_TEXT, "I")
    assert len(spent(server)) == 1


async def test_reasoning_fills_the_context_only_while_it_lasts(server: FaultServer) -> None:
    """Each of three turns reasons for 150 tokens where no more than 200 have room, and the next is not sent them."""
    told = " ".join(["hm"] * 150)
    config = {"reasoning": {"field": "reasoning", "text": told}, "end_at_join": True}
    plain = await think_at(server, "turns", {"end_at_join": True})
    sizes = sum(one.n_tokens for one in plain.traces[0].segments)
    room = sizes + 200
    episode = await think_at(server, "turns", {**config, "max_model_len": room})
    reasoned = [one for one in episode.traces[0].segments if one.kind is SegmentKind.REASONED]
    assert sum(one.n_tokens for one in reasoned) > 300
    assert episode.answer == "48", episode.cause


async def test_hidden_reasoning_counts_by_the_reported_usage(server: FaultServer) -> None:
    """OpenAI's way: no text of it, but the usage says how many tokens it was; at an answer, and at a join."""
    script = {
        "organizer": "<FORK-1>a</FORK-1> <JOIN-1> <ANSWER>1</ANSWER>",
        "workers": {"a": "<RETURN>1</RETURN>"},
    }
    faults = {"name": "usage_hidden", "times": 9}
    episode = await think_at(server, "turns", {"script": script, "faults": faults, "end_at_join": True})
    hidden = [
        [(one.text, one.n_tokens, one.exact) for one in trace.segments if one.kind is SegmentKind.REASONED]
        for trace in episode.traces
    ]
    assert hidden == [[("", 99, True), ("", 100, True)], [("", 100, True)]]
    assert measure(episode).decoded_tokens == 103 * 3


async def test_token_ids_are_those_of_the_server(server: FaultServer, folder: Path) -> None:
    config = {
        "tokenizer": str(folder / "tokenizer.json"),
        "prompt_tail": "\nAgents: 4\n",
        "worker_tail": "\n",
        "worker_mark": "Solve",
        "script": {
            "organizer": "1 <FORK-1>3 + 4</FORK-1> 2 <JOIN-1> <ANSWER>7</ANSWER>",
            "workers": {"3 + 4": "it is <RETURN>7</RETURN>"},
        },
        "query": "4 + 3",
    }
    engine = engine_at(server, "flags", config, tokenizer=folder)
    engine.profile = type(engine.profile)(trained=True)
    async with Organization(engine) as organization:
        assert engine.capabilities.token_ids
        episode = await organization.think("4 + 3")
    assert (episode.answer, episode.format_errors) == ("7", [])
    tokenizer = engine._tokens.lexicon.tokenizer  # type: ignore[union-attr]  # pyright: ignore
    for trace in episode.traces:
        for segment in trace.segments:
            assert segment.exact and segment.token_ids is not None
            assert len(segment.token_ids) == segment.n_tokens
            assert tokenizer.decode(list(segment.token_ids), skip_special_tokens=True) == segment.text
            assert (segment.logprobs is not None) == (segment.kind is SegmentKind.DECODED)
    last = [body for body in server.stats()["last_bodies"] if body.get("prompt")][-1]
    before = [i for one in episode.traces[0].segments[:3] for i in one.token_ids or ()]
    assert last["prompt"] == before
    assert measure(episode).exact
    assert server.stats()["mismatches"] == []


async def test_agents_stay_with_one_of_several_servers(server: FaultServer) -> None:
    with FaultServer() as second:
        second.configure({"script": SCRIPT, "query": QUERY, "owned_by": "vllm"})
        engine = engine_at(server, "flags", base_url=f"{server.url},{second.url}")
        async with Organization(engine) as organization:
            assert (await organization.think(QUERY)).answer == "48"
        kinds = [{body["messages"][1]["content"] for body in spent(one)} for one in (server, second)]
        assert kinds[0] and kinds[1]
        assert not kinds[0] & kinds[1]
        assert [each.agents for each in engine.servers] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("refusal", "the model refused: I cannot help with that."),
        ("tool_calls", "the model called a tool, and was given none"),
    ],
)
async def test_refusals_and_calls_of_tools_are_told(server: FaultServer, name: str, said: str) -> None:
    episode = await think_at(server, "turns", {"faults": {"name": name, "times": 9}})
    assert episode.stop_reason is StopReason.ENGINE_ERROR
    assert said in (episode.cause or "")


async def test_a_full_context_is_a_budget(server: FaultServer) -> None:
    script = {"organizer": "word " * 3000 + "<ANSWER>late</ANSWER>"}
    for mode in ("flags", "text", "turns"):
        episode = await think_at(server, mode, {"script": script, "max_model_len": 900})
        assert (episode.stop_reason, episode.answer) == (StopReason.BUDGET, None), mode
        assert "context" in (episode.cause or "") and "full" in (episode.cause or "")


# What it costs


async def test_requests_and_tokens_are_counted_as_the_server_does(server: FaultServer) -> None:
    episode = await think_at(server, "flags")
    usages = [trace.usage for trace in episode.traces]
    assert [usage and usage.requests for usage in usages] == [3, 1, 1]
    assert all(usage and usage.exact for usage in usages)
    assert measure(episode).requests == 5
    assert measure(episode).cost is None
    worker = episode.traces[1].usage
    assert worker is not None and worker.output_tokens == 4


async def test_costs_by_hand_and_their_limit(server: FaultServer) -> None:
    """Output only: a token costs 1, the organizer's are 12 + 2 + 4, those of the workers 4 and 6.

    What the server writes behind a join before it hears of the end is paid for too: how much depends on the machine.
    """
    price = Price(input=0, output=1_000_000)
    engine = engine_at(server, "flags")
    async with Organization(engine, price=price) as organization:
        episode = await organization.think(QUERY)
    organizer, *workers = [trace.usage for trace in episode.traces]
    assert [usage and usage.cost for usage in workers] == [4.0, 6.0]
    assert organizer is not None and organizer.cost == organizer.output_tokens >= 18
    told: list[Event] = []
    async with Organization(engine, price=price, limits=Limits(max_cost=15)) as organization:
        episode = await organization.think(QUERY, listen=told.append)
    assert (episode.stop_reason, episode.answer) == (StopReason.BUDGET, None)
    assert episode.cause == "the limit of 15 for all requests is reached"
    assert [(each.limit, each.of) for each in told if isinstance(each, Neared)] == [("max_cost", 15)]


async def test_requests_that_start_together_do_not_count_on_the_same_money(server: FaultServer) -> None:
    forks = "".join(f"<FORK-{i}>a</FORK-{i}>" for i in range(1, 9))
    script = {
        "organizer": forks + "".join(f"<JOIN-{i}>" for i in range(1, 9)) + "<ANSWER>1</ANSWER>",
        "workers": {"a": "<RETURN>1</RETURN>"},
    }
    engine = engine_at(server, "flags", {"script": script, "pieces": 1000})  # all forks in one event
    price = Price(input=1000, output=0)
    async with Organization(engine, capacity=9, price=price) as organization:
        whole = measure(await organization.think(QUERY)).cost or 0
    for percent in range(20, 60, 5):
        limits = Limits(max_cost=whole * percent / 100)
        async with Organization(engine, capacity=9, price=price, limits=limits) as organization:
            episode = await organization.think(QUERY)
        assert episode.stop_reason is StopReason.BUDGET
        assert 0 < (measure(episode).cost or 0) <= 1.02 * whole * percent / 100  # an estimate is reserved


async def test_a_request_that_cannot_be_paid_is_not_made(server: FaultServer) -> None:
    engine = engine_at(server, "flags")
    limits = Limits(max_cost=0.000_001)
    async with Organization(engine, price=Price(input=10, output=0), limits=limits) as organization:
        episode = await organization.think(QUERY)
    assert episode.stop_reason is StopReason.BUDGET
    assert spent(server) == []


def test_a_cost_needs_prices() -> None:
    with pytest.raises(UsageError, match="max_cost needs the model's prices: --prices FILE"):
        Organization(
            load_engine("openai:m", {"base_url": "http://127.0.0.1:9/v1"}), limits=Limits(max_cost=1)
        )


# Models that were never trained on the protocol


async def test_a_model_that_forgets_its_last_tag_is_asked_for_it_once(server: FaultServer) -> None:
    script = {
        "organizer": "Now go <FORK-1>a</FORK-1> <JOIN-1> It is seven. <ANSWER>7</ANSWER>",
        "workers": {"a": "it is seven <RETURN>7</RETURN>"},
    }
    config = {"script": script, "faults": {"name": "stops_early", "times": 1}}
    episode = await think_at(server, "turns", config)
    assert server.stats()["by_fault"] == {"stops_early": 2}
    assert episode.answer == "7"
    assert sorted(episode.format_errors) == ["no_answer", "no_return"]
    reminders = [one.text for one in episode.traces[1].segments if one.kind is SegmentKind.INSERTED]
    assert reminders == ["The result is missing. Write it now, and nothing else: <RETURN>result</RETURN>"]
    assert episode.traces[1].outcome is Outcome.RETURNED
    engine = engine_at(server, "turns", config)
    async with Organization(engine, reminders=False) as organization:
        episode = await organization.think(QUERY)
    assert (episode.answer, episode.format_errors) == (None, ["no_answer"])


async def test_limits_are_told_to_the_model(server: FaultServer) -> None:
    limits = Limits(max_tokens=900, max_forks=7, max_worker_tokens=300)
    async with Organization(engine_at(server, "flags"), limits=limits) as organization:
        await organization.think(QUERY)
    told = {body["messages"][0]["content"] for body in spent(server)}
    organizer = next(text for text in told if "organizer" in text)
    worker = next(text for text in told if "You are a worker" in text)
    assert "write at most 900 tokens together" in organizer and "at most 7 workers" in organizer
    assert "You may write at most 300 tokens." in worker
    assert {body.get("max_tokens") for body in spent(server)} <= set(range(250, 901))


# Secrets


async def test_the_key_is_nowhere(
    server: FaultServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in a log, an error, a trace-back, an event, a record or a run directory."""
    from asyncthink.episodes.store import RunDirectory

    caplog.set_level(logging.DEBUG)
    seen: list[str] = []

    def listen(event: Event) -> None:
        seen.append(repr(event))

    for config in (
        {"key": KEY},
        {"key": KEY, "faults": {"name": "status_500", "times": 99}},
        {"key": "other"},
    ):
        engine = engine_at(server, "flags", config, key=KEY)
        seen += [repr(engine), str(vars(engine)), repr(engine.servers)]
        try:
            async with Organization(engine) as organization:
                episode = await organization.think(QUERY, listen=listen)
                seen.append(repr(vars(engine.servers[0])))
                with RunDirectory.create(tmp_path / str(len(seen)), 'model = "openai:scripted"\n', {}) as run:
                    run.append(episode)
        except EngineError as error:
            told = traceback.TracebackException.from_exception(error, capture_locals=True)
            ours = [frame for frame in told.stack if "/asyncthink/" in frame.filename]
            told.stack = traceback.StackSummary.from_list(ours)
            seen.append("".join(told.format()))
    assert server.stats()["headers_seen"]["authorization"]
    seen += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(seen) > 40
    assert [text for text in [*seen, caplog.text] if KEY in text] == []


# What `doctor` says


async def test_doctor_tells_servers_apart(server: FaultServer) -> None:
    script = {"organizer": "one two three four five six seven eight nine"}
    asked = "Count from one to nine, in words, with a blank between them. Write nothing else."
    found: dict[bool, dict[str, bool | None]] = {}
    for rich in (True, False):
        config = {"script": script, "query": asked, "prefix": rich, "stop_kept": rich, "strict": not rich}
        engine = engine_at(server, "flags" if rich else "turns", config)
        async with engine:
            findings = await probe(engine)
        found[rich] = {each.name: each.works for each in findings}
        follows = findings[-1].detail
        assert ("put into the model's own text" in follows) is rich
    assert found[True]["prefix continuation"] is True
    assert found[False]["prefix continuation"] is False
    assert found[True]["streaming"] is found[False]["streaming"] is True
    assert found[True]["stop strings"] is True
