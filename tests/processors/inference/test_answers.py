"""Replies that were given before: found by all that they depend on, and by nothing else."""

from __future__ import annotations

import msgspec
import pytest

from processors.inference import history
from processors.inference.answers import Answers, plain
from processors.inference.handler import reply
from processors.inference.resources import Resources
from streams.connection import Store
from streams.effects import Effects
from streams.stores import Stores
from streams.tables import Inference
from streams.topology import Topology
from streams.wire import Reply
from tests.processors.inference.test_handler import Scripted, message, replies, turn, written


@pytest.mark.parametrize("question", ["¿A qué hora abren?", "a que hora  abren", "A QUÉ HORA ABREN!!"])
def test_a_question_is_the_same_however_it_is_typed(question: str) -> None:
    assert plain(question) == "a que hora abren"


async def test_a_reply_is_found_by_all_that_it_depends_on(store: Store) -> None:
    stores = Stores.alone(store)
    answers = Answers(stores, 60, "qwen", Inference())
    await answers.keep("+1", "Eres la recepción.", plain("¿A qué hora abren?"), "A las ocho.")
    assert await answers.find("+2", "Eres la recepción.", "a que hora abren") == "A las ocho."
    assert await answers.find("+1", "Eres otra.", "a que hora abren") is None
    assert await answers.find("+1", "Eres la recepción.", "a que hora cierran") is None
    for other in (Answers(stores, 60, "llama", Inference()), Answers(stores, 60, "qwen", Inference(max_tokens=9))):
        assert await other.find("+1", "Eres la recepción.", "a que hora abren") is None
    (key,) = [key async for page in store.scan("answer:*") for key in page]
    assert 0 < await store.command("PTTL", key) <= 60_000
    assert b"abren" not in key


async def test_a_reply_that_is_too_long_is_not_kept(store: Store) -> None:
    await Answers(Stores.alone(store), 60, "qwen").keep("+1", "", "hola", "á" * 3000)
    assert [page async for page in store.scan("answer:*") if page] == []


@pytest.mark.parametrize("said", ["👍", "?!", "No quiero cancelar", "No, quiero cancelar"])
async def test_what_means_something_else_is_something_else(store: Store, said: str) -> None:
    engine = Scripted([f"{number}" for number in range(9)])
    here = Resources(engine=engine, answers=Answers(Stores.alone(store), 60, "qwen"))
    for other in ("😡", "¿?", "No quiero cancelar", "No, quiero cancelar"):
        if other != said:
            await answered(here, other)
    before = len(engine.asked)
    await answered(here, said)
    assert len(engine.asked) == before + 1


async def test_without_redis_the_model_is_asked() -> None:
    nowhere = Store.open("redis://127.0.0.1:1/0", patience=0)
    answers = Answers(Stores.alone(nowhere), 60, "qwen")
    await answers.keep("+1", "", "hola", "¡Hola!")
    assert await answers.find("+1", "", "hola") is None
    await nowhere.close()


async def answered(here: Resources, text: str, **state: bytes) -> tuple[Reply, Effects]:
    effects = await reply.handle(turn(message(text), here=here, **state))
    assert effects is not None
    return replies(effects)[0], effects


async def test_a_first_question_is_answered_from_the_cache_and_a_later_one_never(store: Store) -> None:
    engine = Scripted(["Abrimos a las ocho.", "Cierra a las seis.", "Otra cosa."])
    answers = Answers(Stores.alone(store), 60, "qwen")
    here = Resources(engine=engine, topology=Topology(inference=Inference()), answers=answers)
    said, effects = await answered(here, "¿A qué hora abren?")
    assert (said.source, said.message) == ("model", "Abrimos a las ocho.")
    again, _ = await answered(here, "a que hora abren")
    assert (again.source, again.message, len(engine.asked)) == ("cache", "Abrimos a las ocho.", 1)
    # With a conversation behind it the same words may mean something else
    past = msgspec.json.encode(written(effects, "conversation"))
    later, _ = await answered(here, "a que hora abren", conversation=past)
    assert (later.source, later.message) == ("model", "Cierra a las seis.")
    assert len(engine.asked) == 2
    # And what was answered with one is not kept for others
    assert (await answered(here, "a que hora abren"))[0].message == "Abrimos a las ocho."
    assert history.recall(turn(message("x"))).new


async def test_what_stands_in_for_a_reply_is_not_kept(store: Store) -> None:
    engine = Scripted(["", "", "¡Hola!"])
    here = Resources(engine=engine, answers=Answers(Stores.alone(store), 60, "qwen"))
    assert (await answered(here, "hola"))[0].source in ("failure", "fallback")
    assert (await answered(here, "hola"))[0].source == "model"
