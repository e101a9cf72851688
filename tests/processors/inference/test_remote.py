"""The engine whose model is on another server: what becomes of each way in which that can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer, unused_port

from processors.inference.generation import Generated, Line, Refused, Request, Sampling, StepFailed, open_engine
from processors.inference.remote import Remote, served
from streams.errors import ConfigurationError, Retry
from streams.settings import Secret, Settings
from streams.tables import Inference

ASKED = Request(
    lines=[Line("system", "s"), Line("user", "hola"), Line("assistant", "¡hola!"), Line("user", "¿qué tal?")]
)
Reply = Callable[[web.Request, Any], Awaitable[web.StreamResponse]]


def piece(text: str = "", finish: str | None = None) -> bytes:
    told = {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": finish}]}
    return b"data: " + json.dumps(told).encode() + b"\n\n"


async def stream(request: web.Request, *pieces: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for each in pieces:
        await response.write(each)
    return response


async def well(request: web.Request, _body: Any) -> web.StreamResponse:
    return await stream(request, piece("muy "), piece("bien"), piece(finish="stop"), b"data: [DONE]\n\n")


class Scripted:
    """A server that answers as the test says, and remembers what it was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[Any] = []
        self.keys: list[str | None] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body)
        self.keys.append(request.headers.get("authorization"))
        return await (self.replies.pop(0) if self.replies else well)(request, body)

    async def _models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": "qwen"}]})

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[Scripted]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_get("/v1/models", self._models)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/v1"))
            yield self


@contextlib.asynccontextmanager
async def engine_at(*urls: str, patience: float = 5.0, key: str | None = None) -> AsyncIterator[Remote]:
    engine = Remote(urls, "qwen", key=key, timeout=patience)
    try:
        yield engine
    finally:
        await engine.close()


def status(code: int, told: Any = "", **headers: str) -> Reply:
    async def reply(_request: web.Request, _body: Any) -> web.Response:
        return web.Response(status=code, text=json.dumps(told), headers=headers)

    return reply


async def breaks_off(request: web.Request, _body: Any) -> web.StreamResponse:
    response = await stream(request, piece("a med"))
    assert request.transport is not None
    request.transport.close()
    return response


async def test_a_reply_is_streamed_and_put_together() -> None:
    async with Scripted().up() as server, engine_at(server.url, key="sk-secret") as engine:
        said = await engine.generate(ASKED)
        assert (said.text, said.finish, said.tokens) == ("muy bien", "stop", 2)
        [asked] = server.asked
        assert asked["model"] == "qwen"
        assert [each["role"] for each in asked["messages"]] == ["system", "user", "assistant", "user"]
        assert server.keys == ["Bearer sk-secret"]
        assert "secret" not in repr(engine) + repr(engine.describe())


async def test_a_server_that_does_not_stream_is_understood() -> None:
    whole = {
        "choices": [{"message": {"content": "Hola"}, "finish_reason": "length"}],
        "usage": {"completion_tokens": 9},
    }

    async def reply(_request: web.Request, _body: Any) -> web.Response:
        return web.json_response(whole)

    async with Scripted(reply).up() as server, engine_at(server.url) as engine:
        said = await engine.generate(ASKED)
    assert (said.text, said.finish, said.tokens) == ("Hola", "length", 9)


@pytest.mark.parametrize("fails", [status(503), status(429), status(502), breaks_off], ids=["503", "429", "502", "cut"])
async def test_another_server_is_asked_where_one_is_away(fails: Reply) -> None:
    first, second = Scripted(fails), Scripted()
    async with first.up(), second.up(), engine_at(first.url, second.url) as engine:
        assert (await engine.generate(ASKED)).text == "muy bien"
        assert (len(first.asked), len(second.asked)) == (1, 1)
        # And the one that failed is left alone
        await engine.generate(ASKED)
        assert (len(first.asked), len(second.asked)) == (1, 2)
        assert engine.describe()["away"] == ([] if fails is breaks_off else [first.url])


async def test_where_nobody_answers_it_waits_and_counts_no_attempt() -> None:
    async with engine_at(f"http://127.0.0.1:{unused_port()}/v1") as engine:
        for _ in range(2):
            with pytest.raises(Retry, match=r"does not answer|no model server") as away:
                await engine.generate(ASKED)
            assert not away.value.counted
            assert away.value.after is not None
            assert 1 <= away.value.after <= 45
        assert engine.ready(), "it takes turns, which wait"


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async def silent(request: web.Request, _body: Any) -> web.StreamResponse:
        response = await stream(request, piece("espera"))
        await asyncio.Event().wait()
        return response

    async with Scripted(silent).up() as server, engine_at(server.url, patience=0.2) as engine:
        with pytest.raises(StepFailed, match=r"nothing came for 0\.2 s"):
            await engine.generate(ASKED)


async def test_how_long_a_busy_server_wants_to_be_left_alone_is_heeded() -> None:
    async with Scripted(status(429, **{"retry-after": "7"})).up() as server, engine_at(server.url) as engine:
        with pytest.raises(Retry) as busy:
            await engine.generate(ASKED)
        assert busy.value.after is not None
        assert 6 <= busy.value.after <= 7 * 1.5


async def test_a_failure_of_the_server_counts_an_attempt() -> None:
    async with Scripted(status(500, {"error": "out of memory"})).up() as server, engine_at(server.url) as engine:
        with pytest.raises(StepFailed, match=r"500.*out of memory"):
            await engine.generate(ASKED)
        assert (await engine.generate(ASKED)).text == "muy bien"


@pytest.mark.parametrize("fails", [status(500), status(404), status(401)], ids=["500", "404", "401"])
async def test_one_broken_server_of_two_takes_nothing_from_anybody(fails: Reply) -> None:
    broken, sound = Scripted(*[fails] * 40), Scripted()
    async with broken.up(), sound.up(), engine_at(broken.url, sound.url) as engine:
        for _ in range(5):
            said = await asyncio.gather(*(engine.generate(ASKED) for _ in range(4)))
            assert {each.text for each in said} == {"muy bien"}
        assert len(broken.asked) <= 8, "once it is known, it is left alone"
        assert engine.ready()


async def test_a_request_that_breaks_every_server_comes_to_an_end() -> None:
    async with Scripted(breaks_off).up() as server, engine_at(server.url) as engine:
        with pytest.raises(StepFailed, match=r"broke off|closed|disconnected|payload"):
            await engine.generate(ASKED)
        assert (await engine.generate(ASKED)).text == "muy bien", "others are served meanwhile"


async def test_an_error_in_the_middle_of_a_stream_counts_an_attempt() -> None:
    async def fails(request: web.Request, _body: Any) -> web.StreamResponse:
        return await stream(request, piece("a"), b'data: {"error": {"message": "CUDA error"}}\n\n')

    async with Scripted(fails).up() as server, engine_at(server.url) as engine:
        with pytest.raises(StepFailed, match="CUDA error"):
            await engine.generate(ASKED)


async def test_a_request_that_no_server_takes_is_refused() -> None:
    refusal = status(400, {"error": "invalid"})
    async with Scripted(refusal).up() as server, engine_at(server.url) as engine:
        with pytest.raises(Refused, match=r"400.*invalid"):
            await engine.generate(ASKED)
        with pytest.raises(Refused, match="empty"):
            await engine.generate(Request(lines=[]))


async def test_a_field_that_a_server_does_not_know_is_left_out_from_then_on() -> None:
    refusal = status(422, {"detail": "Unexpected fields in the request: {'top_k'}"})
    asked = Request(lines=ASKED.lines, sampling=Sampling(top_k=5, temperature=0.2))
    async with Scripted(refusal).up() as server, engine_at(server.url) as engine:
        for _ in range(2):
            assert (await engine.generate(asked)).text == "muy bien"
        assert ["top_k" in each for each in server.asked] == [True, False, False]
        assert {each["temperature"] for each in server.asked} == {0.2}


async def test_a_refusal_that_only_names_a_field_costs_the_others_nothing() -> None:
    echoed = status(400, {"error": "invalid message", "input": "stop, seed"})
    asked = Request(lines=ASKED.lines, stop=("x",))
    async with Scripted(*[echoed] * 3).up() as server, engine_at(server.url) as engine:
        with pytest.raises(Refused, match="invalid message"):
            await engine.generate(asked)
        await engine.generate(asked)
        assert {"stop", "seed"} <= server.asked[-1].keys()


async def test_a_prompt_that_is_too_long_loses_its_oldest_turns() -> None:
    async def short_of_memory(request: web.Request, body: Any) -> web.StreamResponse:
        if len(body["messages"]) > 2:
            told = {"error": {"message": "This model's maximum context length is 8 tokens"}}
            return web.json_response(told, status=400)
        return await well(request, body)

    async with Scripted(short_of_memory, short_of_memory).up() as server, engine_at(server.url) as engine:
        assert (await engine.generate(ASKED)).text == "muy bien"
        assert [each["content"] for each in server.asked[-1]["messages"]] == ["s", "¿qué tal?"]
        server.replies = [status(400, "maximum context length")] * 9
        with pytest.raises(Refused, match="does not fit"):
            await engine.generate(ASKED)


async def test_a_web_page_is_no_fault_of_the_message(caplog) -> None:
    async def page(_request: web.Request, _body: Any) -> web.Response:
        return web.Response(text="<html>Log in</html>", content_type="text/html")

    async with Scripted(page).up() as server, engine_at(server.url) as engine:
        with pytest.raises(Retry, match="web page") as away:
            await engine.generate(ASKED)
        assert not away.value.counted
        assert "model.misconfigured" in [record.event for record in caplog.records if hasattr(record, "event")]


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_a_wrong_key_or_name_is_no_fault_of_the_message(code: int, caplog) -> None:
    async with Scripted(status(code, "no such thing")).up() as server, engine_at(server.url, key="sk-secret") as engine:
        with pytest.raises(Retry, match=f"{code}.*no such thing") as wrong:
            await engine.generate(ASKED)
        assert not wrong.value.counted
        assert not engine.ready()
        assert "model.misconfigured" in caplog.text
        assert "sk-secret" not in caplog.text
        # Once somebody has set it right there, and half a minute is over
        engine._endpoints.works(engine._endpoints.all[0])
        await engine.generate(ASKED)
        assert engine.ready()


async def test_a_call_that_is_cancelled_ends_at_the_server_too() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def endless(request: web.Request, _body: Any) -> web.StreamResponse:
        response = await stream(request)
        began.set()
        try:
            while True:
                await response.write(piece("y "))
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async with Scripted(endless).up() as server, engine_at(server.url) as engine:
        asking = asyncio.create_task(engine.generate(ASKED))
        await began.wait()
        asking.cancel()
        await asyncio.wait({asking})
        await asyncio.wait_for(ended.wait(), 10)
        assert (await engine.generate(ASKED)).text == "muy bien"


async def test_many_at_once_are_spread_over_the_servers() -> None:
    first, second = Scripted(), Scripted()
    async with first.up(), second.up(), engine_at(first.url, second.url) as engine:
        said: list[Generated] = await asyncio.gather(*(engine.generate(ASKED) for _ in range(40)))
        assert {each.text for each in said} == {"muy bien"}
        assert min(len(first.asked), len(second.asked)) >= 10


async def as_a_group_asks(engine: Remote) -> Generated:
    """Again and again, as long as no attempt is counted."""
    while True:
        try:
            return await engine.generate(ASKED)
        except Retry as again:
            if again.counted:
                raise
            await asyncio.sleep(0.01)


async def test_a_server_that_interrupts_one_for_another_answers_all_in_the_end() -> None:
    # As llama-cpp-python's server is shipped (`interrupt_requests`): at its next token it leaves whom it serves
    server, newest, lock = Scripted(), [0], asyncio.Lock()

    async def fickle(request: web.Request, _body: Any) -> web.StreamResponse:
        newest[0] += 1
        mine = newest[0]
        async with lock:
            response = await stream(request)
            for word in ("muy ", "bien"):
                await response.write(piece(word))
                await asyncio.sleep(0)
                if newest[0] != mine:
                    await response.write(b"data: [DONE]\n\n")
                    return response
            await response.write(piece(finish="stop") + b"data: [DONE]\n\n")
            return response

    server.replies = [fickle] * 1000
    async with server.up(), engine_at(server.url) as engine, asyncio.timeout(20):
        said = await asyncio.gather(*(as_a_group_asks(engine) for _ in range(12)))
        assert {each.text for each in said} == {"muy bien"}, "no half answer is taken for a whole one"
        asked = len(server.asked)
        await asyncio.gather(*(as_a_group_asks(engine) for _ in range(6)))
        assert len(server.asked) == asked + 6, "and then it gets one at a time"


@pytest.mark.slow
async def test_who_waits_too_long_behind_others_has_used_up_no_attempt() -> None:
    server, lock = Scripted(), asyncio.Lock()

    async def one_at_a_time(request: web.Request, body: Any) -> web.StreamResponse:
        async with lock:
            await asyncio.sleep(0.1)
            return await well(request, body)

    server.replies = [one_at_a_time] * 1000
    async with server.up(), engine_at(server.url, patience=0.45) as engine, asyncio.timeout(30):
        said = await asyncio.gather(*(as_a_group_asks(engine) for _ in range(12)))
    assert {each.text for each in said} == {"muy bien"}


async def test_who_finds_no_place_waits_for_one_and_goes_back_uncounted_after_a_while() -> None:
    server, enough = Scripted(), asyncio.Event()

    async def long_winded(request: web.Request, _body: Any) -> web.StreamResponse:
        response = await stream(request)
        while not enough.is_set():
            await response.write(piece("y "))
            await asyncio.sleep(0.02)
        await response.write(piece(finish="stop"))
        return response

    server.replies = [breaks_off, breaks_off, long_winded]
    async with server.up(), engine_at(server.url, patience=0.3) as engine:
        for failed in await asyncio.gather(*(engine.generate(ASKED) for _ in range(2)), return_exceptions=True):
            assert isinstance(failed, Retry), "that it broke off may have been for the other"
        first = asyncio.create_task(engine.generate(ASKED))
        await asyncio.sleep(0)
        with pytest.raises(Retry, match="as much to do") as full:
            await engine.generate(ASKED)
        assert not full.value.counted
        second = asyncio.create_task(engine.generate(ASKED))
        await asyncio.sleep(0)
        assert engine.describe()["waiting"] == 1
        enough.set()
        await first
        assert (await second).text == "muy bien"


async def test_a_server_is_asked_which_models_it_has() -> None:
    async with Scripted().up() as server:
        assert await served(server.url, Secret("k")) == ["qwen"]
        with pytest.raises(ConfigurationError, match="/v1"):
            await served(server.url.removesuffix("/v1"), None)
    with pytest.raises(OSError, match=r"."):
        await served(f"http://127.0.0.1:{unused_port()}/v1", None)


def test_the_servers_name_of_the_model_has_to_be_told() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_URL is set, so write in MODEL"):
        open_engine(Settings(model_url=("http://a/v1",)), Inference())
    opened = open_engine(Settings(model="qwen", model_url=("http://u:pass@a/v1", "http://b/v1")), Inference())
    assert opened.describe()["urls"] == ["http://a/v1", "http://b/v1"]
