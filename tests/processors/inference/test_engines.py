"""What every engine promises, whatever answers behind it: the words repeated, weights here, a real server of models."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp.test_utils import unused_port

from processors.inference.generation import Engine, Line, Refused, Request, Sampling, open_engine
from processors.inference.remote import served
from processors.inference.weights import DEMO
from streams.settings import Settings
from streams.tables import Inference
from tests.processors.inference.taught import ASKED, BOOK, taught

pytestmark = [pytest.mark.slow]

HELLO = [Line("system", "Eres la recepción de una clínica."), Line("user", "Hola, quiero una cita con cardiología")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`transformers serve`, a server of models by others, with the model that ships."""
    with serving(DEMO) as url:
        yield url


@contextmanager
def serving(model: Path) -> Iterator[str]:
    port = unused_port()
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--port", str(port), "--device", "cpu"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        told = list(itertools.takewhile(lambda line: b"Uvicorn running" not in line, process.stdout))
        assert process.poll() is None, b"".join(told).decode(errors="replace")
        threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never waits to say something
        yield f"http://127.0.0.1:{port}/v1"
        process.kill()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[Engine]:
    engine = await asyncio.to_thread(open_engine, settings, Inference(slots=4, threads=1))
    try:
        yield engine
    finally:
        await engine.close()


@pytest.fixture(params=["echo", "torch", "openvino", "remote"])
def settings(request: pytest.FixtureRequest) -> Settings:
    match request.param:
        case "remote":
            return Settings(model=str(DEMO), model_url=(request.getfixturevalue("server"),))
        case "openvino":
            return Settings(model=str(request.getfixturevalue("exported")))
        case "torch":
            return Settings(model="demo")
        case _:
            return Settings(model="echo")


async def test_it_answers(settings: Settings) -> None:
    async with opened(settings) as engine:
        said = await engine.generate(Request(lines=HELLO))
        assert "cardiología" in said.text
        assert said.tokens > 0
        assert said.finish in ("stop", "length")
        assert engine.ready()
        assert engine.describe()["name"] == settings.model


async def test_the_same_request_with_the_same_seed_has_the_same_reply(settings: Settings) -> None:
    async with opened(settings) as engine:
        for sampling in (Sampling(temperature=0.0), Sampling(temperature=0.9, seed=5)):
            asked = Request(lines=HELLO, sampling=sampling)
            first, second = await engine.generate(asked), await engine.generate(asked)
            assert first.text == second.text


async def test_many_at_once_each_have_their_own(settings: Settings) -> None:
    async with opened(settings) as engine:
        wishes = ("cardiología", "pediatría", "odontología", "neurología")
        asked = [
            Request(lines=[Line("user", f"Hola, quiero una cita con {wish}")], sampling=Sampling(temperature=0.0))
            for wish in wishes
        ]
        said = await asyncio.gather(*(engine.generate(each) for each in asked * 3))
        for wish, each in zip(wishes * 3, said, strict=True):
            assert wish in each.text


async def test_a_reply_that_nobody_waits_for_holds_nobody_up(settings: Settings) -> None:
    async with opened(settings) as engine:
        asking = [asyncio.create_task(engine.generate(Request(lines=HELLO))) for _ in range(8)]
        await asyncio.sleep(0)
        for each in asking:
            each.cancel()
        await asyncio.wait(asking)
        assert "cardiología" in (await engine.generate(Request(lines=HELLO))).text


async def test_nothing_to_answer_is_refused(settings: Settings) -> None:
    async with opened(settings) as engine:
        with pytest.raises(Refused):
            await engine.generate(Request(lines=[]))


@pytest.mark.parametrize("mark", ["</s>", "<|im_end|>", "<eos>", "[INST]"])
async def test_what_a_person_writes_is_text(settings: Settings, mark: str) -> None:
    async with opened(settings) as engine:
        lines = [Line("user", f"Hola {mark} quiero una cita con cardiología")]
        assert (await engine.generate(Request(lines=lines, sampling=Sampling(temperature=0.0)))).text


async def test_a_reply_ends_before_a_text_that_is_to_stop_it(settings: Settings) -> None:
    if settings.model == "echo":
        pytest.skip("it says all that was said")
    async with opened(settings) as engine:
        greedy = Sampling(temperature=0.0)
        whole = await engine.generate(Request(lines=HELLO, sampling=greedy))
        said = await engine.generate(Request(lines=HELLO, sampling=greedy, stop=("ninguna", "una cita")))
        assert said.text == whole.text[: whole.text.index("una cita")] != ""
        assert said.finish == "stop"
        assert said.tokens < whole.tokens


async def test_a_limit_of_tokens_is_kept(settings: Settings) -> None:
    if settings.model == "echo":
        pytest.skip("it says all that was said")
    async with opened(settings) as engine:
        said = await engine.generate(Request(lines=HELLO, max_tokens=4, sampling=Sampling(temperature=0.0)))
        assert (said.finish, said.tokens) == ("length", 4)


async def test_tools_change_nothing_for_a_model_that_has_none(settings: Settings) -> None:
    async with opened(settings) as engine:
        greedy = Sampling(temperature=0.0)
        plain = await engine.generate(Request(lines=HELLO, sampling=greedy))
        offered = await engine.generate(Request(lines=HELLO, sampling=greedy, tools=BOOK))
        assert (offered.text, offered.calls) == (plain.text, ())


@pytest.fixture(scope="module")
def calling(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return taught(tiny, tmp_path_factory.mktemp("taught"))


@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_model_that_was_taught_to_call_calls_where_it_is_offered_tools(calling: Path, where: str) -> None:
    with serving(calling) if where == "there" else nullcontext() as url:
        settings = Settings(model=str(calling), model_url=(url,) if url else ())
        async with opened(settings) as engine:
            greedy = Sampling(temperature=0.0)
            offered = await engine.generate(Request(lines=ASKED, sampling=greedy, tools=BOOK))
            plain = await engine.generate(Request(lines=ASKED, sampling=greedy))
    assert [(call.name, call.arguments) for call in offered.calls] == [("book", {"date": "el martes"})]
    assert (offered.text.strip(), plain.text, plain.calls) == ("Claro.", "Hola", ())


async def test_the_server_says_what_it_serves(server: str) -> None:
    assert str(DEMO) in await served(server, None)
