"""The engine on OpenVINO: the tokens of the other one, and one result for each request, whatever happens in a step."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from processors.inference.door import Crashed, Died
from processors.inference.exchange import Failed, Process, Stepped, Turn
from processors.inference.generation import Generated, Line, Request, Sampling, StepFailed, open_engine
from streams.errors import ConfigurationError, Retry
from streams.settings import Settings
from streams.tables import Inference

pytestmark = [pytest.mark.slow]

WISHES = ("cardiología", "pediatría", "odontología", "neurología", "dermatología", "traumatología")


def asked(words: str, **how: Any) -> Request:
    return Request(lines=[Line("user", words)], **{"sampling": Sampling(temperature=0.0)} | how)


@asynccontextmanager
async def opened(model: Path | str, **how: Any) -> AsyncIterator[Any]:
    how = {"slots": 4, "threads": 1, "dtype": "float32", "keep_mb": 64} | how
    engine = await asyncio.to_thread(open_engine, Settings(model=str(model)), Inference(**how))
    try:
        yield engine
    finally:
        await engine.close()


class Failing:
    """A pipeline whose steps fail while somebody is in it whose prompt is of that length; 0: always."""

    def __init__(self, process: Process, length: int) -> None:
        self._process, self._length = process, length
        self._guilty: set[int] = set()
        self.close = process.close

    def step(self, turn: Turn) -> Stepped | Failed:
        self._guilty |= {put.number for put in turn.put if self._length in (0, len(put.prompt))}
        self._guilty -= set(turn.out)
        stepped = self._process.step(turn)
        return Failed("RuntimeError: a step failed") if self._guilty else stepped


async def test_its_replies_are_those_of_the_other_engine(exported: Path) -> None:
    questions = [asked(f"Hola, quiero una cita con {wish}") for wish in WISHES]
    async with opened("demo") as other:
        theirs = [await other.generate(each) for each in questions]
    async with opened(exported) as engine:
        ours = await asyncio.gather(*(engine.generate(each) for each in questions))
        assert [(each.text, each.tokens, each.prompt_tokens, each.finish) for each in ours] == [
            (each.text, each.tokens, each.prompt_tokens, each.finish) for each in theirs
        ]


async def test_a_seed_gives_the_same_reply_alone_and_beside_others(exported: Path) -> None:
    async with opened(exported, slots=3) as engine:
        warm = [asked(f"cita con {wish}", sampling=Sampling(temperature=3.0, seed=n)) for n, wish in enumerate(WISHES)]
        together = await asyncio.gather(*(engine.generate(each) for each in warm))
        alone = [await engine.generate(each) for each in warm]
        assert [each.text for each in together] == [each.text for each in alone]
        again = await engine.generate(asked("cita con cardiología", sampling=Sampling(temperature=3.0, seed=77)))
        assert again.text != alone[0].text


async def test_a_step_that_fails_takes_only_the_guilty_with_it(exported: Path) -> None:
    async with opened(exported) as engine:
        guilty = asked("Hola, quiero una cita con cardiología el martes que viene por la mañana")
        length = (await engine.generate(guilty)).prompt_tokens
        engine._steps = Failing(engine._steps, length)
        others = [asked(f"Hola, quiero una cita con {wish}") for wish in WISHES]
        results = await asyncio.gather(*map(engine.generate, [*others, guilty, *others]), return_exceptions=True)
        assert isinstance(results.pop(len(others)), StepFailed)
        for wish, said in zip(WISHES * 2, results, strict=True):
            assert isinstance(said, Generated)
            assert wish in said.text


async def test_a_wish_that_the_pipeline_does_not_take_harms_nobody_else(exported: Path) -> None:
    async with opened(exported) as engine:
        wrong = asked("Hola", sampling=Sampling(temperature=1.0, top_p=7.0))
        questions = [
            asked("Hola, quiero una cita con cardiología"),
            wrong,
            asked("Hola, quiero una cita con pediatría"),
        ]
        first, failed, last = await asyncio.gather(*map(engine.generate, questions), return_exceptions=True)
        assert isinstance(failed, StepFailed)
        assert "cardiología" in first.text
        assert "pediatría" in last.text


async def test_a_pipeline_that_fails_in_every_step_ends_the_worker(exported: Path) -> None:
    async with opened(exported) as engine:
        engine._steps = Failing(engine._steps, 0)
        watching = asyncio.create_task(engine.failed())
        results = await asyncio.gather(*(engine.generate(asked("Hola")) for _ in range(12)), return_exceptions=True)
        assert {type(result) for result in results} == {StepFailed, Retry}
        with pytest.raises(Died):
            await asyncio.wait_for(watching, 10)
        assert not engine.ready()


async def test_a_pipeline_whose_process_dies_ends_the_worker(exported: Path) -> None:
    async with opened(exported) as engine:
        asking = asyncio.create_task(
            engine.generate(asked("Hola", max_tokens=900, sampling=Sampling(temperature=50.0)))
        )
        await asyncio.sleep(0)
        engine._steps._process.kill()
        with pytest.raises(Crashed):
            await asyncio.wait_for(asking, 10)
        with pytest.raises(Crashed, match="Gone"):
            await asyncio.wait_for(engine.failed(), 10)


async def test_it_forgets_by_being_opened_anew_and_nobody_loses_a_reply(exported: Path) -> None:
    async with opened(exported) as engine:
        question = asked("Hola, quiero una cita con cardiología el martes que viene por la mañana")
        before = await engine.generate(question)
        asking = [asyncio.create_task(engine.generate(question)) for _ in range(3)]
        await asyncio.sleep(0)
        engine.forget()
        after = [await each for each in [*asking, asyncio.create_task(engine.generate(question))]]
        assert [each.text for each in after] == [before.text] * 4
        assert not engine._stale


async def test_who_gives_up_frees_the_place_for_who_waits(exported: Path) -> None:
    async with opened(exported, slots=1) as engine:
        long = asked("Hola", max_tokens=900, sampling=Sampling(temperature=50.0))
        asking = [asyncio.create_task(engine.generate(long)) for _ in range(3)]
        waiting = asyncio.create_task(engine.generate(asked("Hola, quiero una cita con cardiología")))
        await asyncio.sleep(0)
        for each in asking:
            each.cancel()
        assert "cardiología" in (await asyncio.wait_for(waiting, 10)).text
        assert not engine._jobs


async def test_a_long_conversation_loses_its_oldest_turns_and_ends_with_the_context(exported: Path) -> None:
    async with opened(exported) as engine:
        lines = [Line("user" if n % 2 == 0 else "assistant", f"palabras y más palabras, {n}") for n in range(401)]
        said = await engine.generate(Request(lines=lines, max_tokens=50, sampling=Sampling(temperature=50.0)))
        assert (
            engine.describe()["context_length"] - 100 < said.prompt_tokens <= engine.describe()["context_length"] - 50
        )


async def test_with_hardly_any_memory_everybody_is_served_all_the_same(exported: Path) -> None:
    async with opened(exported, keep_mb=1, slots=8) as engine:
        words = "Hola, le cuento mi caso con todos sus detalles, que son muchos. " * 12
        said = await asyncio.gather(
            *(engine.generate(asked(f"{words} Quiero una cita con {wish}", max_tokens=60)) for wish in WISHES * 3)
        )
        assert all(each.tokens for each in said)
        assert len({each.text for each in said}) <= len(WISHES)


async def test_what_cannot_be_opened_says_what_to_do(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"inference\.device = 'cuda': .*write auto or cpu"):
        open_engine(Settings(model=str(exported)), Inference(device="cuda"))
    with pytest.raises(ConfigurationError, match=r"inference\.dtype = 'int8': .*model export --weights int8"):
        open_engine(Settings(model=str(exported)), Inference(dtype="int8"))
    for name in ("config.json", "openvino_model.xml", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigurationError, match="make it anew with `cauce model export`"):
        open_engine(Settings(model=str(tmp_path)), Inference())


def test_it_needs_no_torch_and_says_nothing_to_anybody(exported: Path) -> None:
    story = """
import sys
import processors.inference.pipeline  # what its process runs
from processors.inference.generation import open_engine
from streams.settings import Settings
from streams.tables import Inference
open_engine(Settings(model=sys.argv[1]), Inference())
print(sorted({"torch", "transformers"} & sys.modules.keys()), sys.modules["openvino_telemetry"])
"""
    done = subprocess.run(
        [sys.executable, "-c", story, exported], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[] None"
