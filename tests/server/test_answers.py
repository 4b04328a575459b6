"""What a client is told: whole, streamed, and when there is nothing to tell."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from server.serving_worlds import CHAT, SCRIPT, ask, chat, world

from asyncthink.engines.scripted import ScriptedEngine
from asyncthink.episodes import fold, measure
from asyncthink.episodes.events import Ended, Event, Joined, Text, decode_event
from asyncthink.episodes.record import Episode, Outcome, SegmentKind, decode
from asyncthink.errors import EngineError
from asyncthink.server.transcript import Transcript

pytestmark = pytest.mark.anyio

REASONING = """first <FORK-1>7*6</FORK-1> <FORK-2>idle</FORK-2> then
more <JOIN-1>
[0/1] six
[0/1] sevens <RETURN>42</RETURN>
 so <ANSWER>42 it is</ANSWER>
[0/2] w w w
"""


async def test_an_answer_with_its_reasoning_usage_and_episode() -> None:
    async with world() as app:
        reply = await ask(app, body=chat(seed=5, asyncthink={"episode": True}))
    assert reply.status == 200
    (choice,) = reply.json["choices"]
    assert choice["message"]["content"] == "42 it is" and choice["finish_reason"] == "stop"
    assert choice["message"]["reasoning"] == choice["message"]["reasoning_content"] == REASONING
    told = reply.json["asyncthink"]
    episode = decode(json.dumps(told["episode"]))
    metrics = measure(episode)
    assert told["id"] == episode.id and reply.json["id"] == f"chatcmpl-{episode.id}"
    assert told["metrics"] == json.loads(msgspec.json.encode(metrics))
    assert (told["seed"], told["capacity"], told["stop_reason"]) == (5, 4, "answer")
    assert (told["method"], told["cause"], told["score"], told["format_errors"]) == (
        "asyncthink",
        None,
        None,
        [],
    )
    usage = reply.json["usage"]
    assert usage["prompt_tokens"] == 3 and usage["completion_tokens"] == metrics.decoded_tokens == 24
    assert usage["total_tokens"] == 27
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 20}  # 42, it, is and the closing tag


async def test_a_stream_says_the_same() -> None:
    async with world() as app:
        whole = (await ask(app, body=chat(seed=5))).json
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        reply = await ask(app, body=chat(seed=5, **options))
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, last = reply.chunks
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    for name in ("reasoning", "reasoning_content"):
        assert "".join(delta.get(name, "") for delta in deltas) == REASONING
    assert "".join(delta.get("content", "") for delta in deltas) == "42 it is"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks if "asyncthink" not in chunk][
        -1
    ] == "stop"
    assert last["choices"] == [] and last["usage"] == whole["usage"]
    assert {chunk["id"] for chunk in chunks} == {last["id"]}
    assert last["asyncthink"]["metrics"]["critical_path"] == whole["asyncthink"]["metrics"]["critical_path"]
    assert len(chunks) > 10, "it came at once"


async def test_without_usage_the_last_chunk_is_the_finish() -> None:
    async with world() as app:
        *_, last = (await ask(app, body=chat(stream=True))).chunks
    assert last["choices"][0]["finish_reason"] == "stop" and "usage" not in last
    assert last["asyncthink"]["stop_reason"] == "answer"


async def test_the_events_of_a_stream_are_the_episode() -> None:
    async with world() as app:
        body = chat(stream=True, asyncthink={"events": True, "episode": True})
        chunks = (await ask(app, body=body)).chunks
    told = [chunk["asyncthink"]["event"] for chunk in chunks[:-1] if "event" in chunk.get("asyncthink", {})]
    assert told[0]["type"] == "started" and told[-1]["type"] == "finished"
    assert {event["type"] for event in told} == {
        "started",
        "opened",
        "began",
        "text",
        "joined",
        "ended",
        "finished",
    }
    episode = fold(decode_event(json.dumps(event)) for event in told)
    assert episode == decode(json.dumps(chunks[-1]["asyncthink"]["episode"]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == REASONING


async def test_a_stream_with_a_view_draws_and_ends_with_the_page() -> None:
    async with world() as app:
        *chunks, last = (await ask(app, body=chat(stream=True, asyncthink={"view": True}))).chunks
    drawn = [chunk["asyncthink"]["drawing"] for chunk in chunks if "asyncthink" in chunk]
    assert drawn and all(each.startswith("<svg") for each in drawn)
    assert last["asyncthink"]["page"].startswith('<article class="episode"')


def test_a_worker_s_worker_gives_the_floor_back_to_it() -> None:
    def text(path: str, what: str) -> Text:
        return Text(path=path, kind=SegmentKind.DECODED, text=what, n_tokens=1)

    def ended(path: str) -> Ended:
        return Ended(path=path, outcome=Outcome.RETURNED, result=None, cause=None, wall=0.0)

    events: list[Event] = [
        *(text("0", "a"), text("0/1", "b"), text("0/1/1", "c")),
        *(Joined(path="0/1", joined_at=1), Joined(path="0/1/1", joined_at=1)),
        *(ended("0/1/1"), text("0/1", "d"), ended("0/1"), text("0", "e")),
    ]
    assert "".join(map(Transcript().take, events)) == "a\n[0/1] b\n[0/1/1] c\n[0/1] d\ne"


@pytest.mark.parametrize("stream", [False, True])
async def test_completions(stream: bool) -> None:
    async with world() as app:
        reply = await ask(app, "/v1/completions", {"model": "m", "prompt": "What?", "stream": stream})
    whole = reply.chunks if stream else [reply.json]
    choices = [chunk["choices"][0] for chunk in whole]
    assert "".join(choice["text"] for choice in choices) == "42 it is"
    assert "".join(choice.get("reasoning", "") for choice in choices) == REASONING
    assert choices[-1]["finish_reason"] == "stop"
    assert whole[0]["object"] == "text_completion" and whole[0]["id"].startswith("cmpl-")
    assert whole[-1]["asyncthink"]["stop_reason"] == "answer"


@pytest.mark.parametrize(
    ("script", "more", "finish", "cause"),
    [
        ("no answer", {}, "stop", "the model stopped by itself"),
        ("w " * 50 + "<ANSWER>x</ANSWER>", {"max_tokens": 5}, "length", "the limit of 5 tokens is reached"),
        (
            "w " * 50,
            {"max_completion_tokens": 5, "max_tokens": 9},
            "length",
            "the limit of 5 tokens is reached",
        ),
        (
            "w " * 50,
            {"asyncthink": {"max_critical_path": 4}},
            "length",
            "the critical path's limit of 4 is reached",
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_no_answer_is_empty_content_and_a_cause(
    script: str, more: dict[str, Any], finish: str, cause: str, stream: bool
) -> None:
    async with world({"organizer": script}) as app:
        reply = await ask(app, body=chat(stream=stream, **more))
    assert reply.status == 200
    last = reply.chunks[-1] if stream else reply.json
    assert last["choices"][0]["finish_reason"] == finish
    assert last["asyncthink"]["cause"] == cause
    if not stream:
        assert last["choices"][0]["message"]["content"] == ""


async def test_the_smaller_limit_holds() -> None:
    from asyncthink.runtime.budget import Limits

    async with world({"organizer": "w " * 50}, limits=Limits(max_tokens=7, max_forks=3)) as app:
        for asked, kept in ((None, 7), (100, 7), (3, 3)):
            reply = await ask(app, body=chat(max_tokens=asked))
            assert reply.json["asyncthink"]["cause"] == f"the limit of {kept} tokens is reached"


async def test_capacity_is_bounded() -> None:
    async with world(settings={"max_capacity": 6}) as app:
        for asked, got in ((None, 4), (2, 2), (6, 6), (9999, 6)):
            reply = await ask(app, body=chat(asyncthink={"capacity": asked}))
            assert reply.json["asyncthink"]["capacity"] == got


@pytest.mark.parametrize("stop", ["it", ["is", "it"], ["never", " it"]])
async def test_an_answer_is_cut_before_a_stop(stop: Any) -> None:
    async with world() as app:
        reply = await ask(app, body=chat(stop=stop))
    assert reply.json["choices"][0]["message"]["content"].strip() == "42"


async def test_variants_think_by_other_methods() -> None:
    async with world({"organizer": ["a <ANSWER>1</ANSWER>", "b <ANSWER>2</ANSWER>"]}) as app:
        names = [model["id"] for model in (await ask(app, "/v1/models")).json["data"]]
        assert names == ["m", "m:sequential", "m:parallel"]
        for name, method in zip(names, ("asyncthink", "sequential", "parallel"), strict=True):
            told = (await ask(app, body=chat(model=name))).json
            assert (told["model"], told["asyncthink"]["method"]) == (name, method)
            assert (await ask(app, f"/v1/models/{name}")).json["id"] == name
        parallel = (await ask(app, body=chat(asyncthink={"method": "parallel", "capacity": 2}))).json
        assert parallel["asyncthink"]["metrics"]["forks"] == 1
        assert "[0/1] b" in parallel["choices"][0]["message"]["reasoning"]
        missing = await ask(app, "/v1/models/n")
        assert missing.status == 404 and "did you mean 'm'" not in missing.error["message"]


class Broken(ScriptedEngine):
    """The organizer's stream breaks."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        session = super().open(*args, **kwargs)

        async def broken(member: object) -> int:
            raise EngineError("the cable is cut")

        session.arrive = broken
        return session


async def test_an_engine_that_fails() -> None:
    async with world(Broken(SCRIPT)) as app:
        reply = await ask(app, body=chat())
        assert reply.status == 502 and reply.headers["x-should-retry"] == "false"
        assert reply.error["message"] == "the cable is cut" and reply.error["code"] == "engine_error"
        stream = await ask(app, body=chat(stream=True))
    assert stream.status == 200 and stream.whole and b"[DONE]" not in stream.body
    last = json.loads(stream.body.decode().strip().split("\n\n")[-1].removeprefix("data: "))
    assert last == {"error": reply.error}


async def test_a_known_task_is_scored() -> None:
    query = "Using the numbers 2, 3, 5, 7, find 4 different expressions that equal 28."
    async with world({"organizer": "<ANSWER>7*(5-3+2)</ANSWER>"}) as app:
        told = (await ask(app, body=chat(query))).json["asyncthink"]
    assert told["score"] == 0.25


async def test_text_that_no_file_can_hold() -> None:
    async with world({"organizer": "half \ud83d <ANSWER>\udc00 \x1b[2J</ANSWER>"}) as app:
        for stream in (False, True):
            reply = await ask(app, body=chat(stream=stream, asyncthink={"events": stream, "episode": True}))
            assert reply.status == 200
            told = reply.chunks[-2]["choices"][0]["delta"] if stream else reply.json["choices"][0]["message"]
            assert told["content"] == "? \x1b[2J"


async def test_episodes_are_kept_whatever_becomes_of_them() -> None:
    kept: list[Episode] = []
    async with world(settings={"save": kept.append}) as app:
        reply = await ask(app, body=chat(stream=True))
    assert [episode.id for episode in kept] == [reply.chunks[-1]["asyncthink"]["id"]]


async def test_a_full_disk_takes_no_answer() -> None:
    from asyncthink.errors import RecordError

    def full(episode: Episode) -> None:
        raise RecordError("runs/x: No space left on device")

    lines: list[str] = []
    async with world(settings={"save": full, "note": lines.append}) as app:
        assert (await ask(app, CHAT, chat())).status == 200
    assert any("not saved: runs/x: No space left on device" in line for line in lines)
