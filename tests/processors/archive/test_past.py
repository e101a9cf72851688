"""`history.from_archive`: who returns after the conversation has expired is remembered, and nobody waits for that."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from bench.ports import free_port
from processors.archive import keeping, opening
from processors.archive.past import Past
from processors.inference.generation import Generated, Request
from processors.inference.handler import reply
from processors.inference.history import Conversation
from processors.inference.resources import Resources
from streams import topology, wire
from streams.effects import Effects, Message, Turn
from streams.settings import Secret, Settings
from streams.tables import Archive
from tests.postgres import Postgres
from tests.processors.archive.stories import ANA, entry, inbound, replied, said

NOW = 60
"""The minute in which the person comes back."""


class Listening:
    """An engine that keeps what it was asked."""

    asked: Request

    async def generate(self, request: Request) -> Generated:
        self.asked = request
        return Generated(text="¡Hola de nuevo!", tokens=4)

    def describe(self) -> dict[str, Any]:
        return {"name": "listening"}

    def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


async def answered(archive: Past, **state: bytes) -> tuple[list[str], Conversation]:
    """What the model gets to read, and the conversation afterwards."""
    engine, body = Listening(), inbound("¿y mi cita?", message_id="now")
    turn = Turn(
        group="inference",
        key=ANA,
        messages=[Message(id=entry(NOW), type="text", body=wire.encode(body))],
        state={"conversation": None, "conversation_meta": None, "paused": None} | state,
        resources=Resources(engine=engine, archive=archive),
        now_ms=int(entry(NOW).partition("-")[0]),
    )
    effects = await reply.handle(turn)
    assert isinstance(effects, Effects)
    [kept] = [write.value for write in effects.writes if write.kind == "conversation"]
    assert kept is not None
    return [line.content for line in engine.asked.lines], msgspec.json.decode(kept, type=Conversation)


def remember(place: Settings) -> None:
    session = opening.opened(place)
    for batch in (
        said("Soy Ana", 0, message_id="m1"), replied("Hola, Ana", 0.5), said("", 1, kind="audio", message_id="m2"),
        replied("No entiendo", 1.5, source="fallback"), said("", 2, kind="reaction", message_id="m3"),
        said("Cita el martes", 3, role="assistant", message_id="n1"),
        said("¿y mi cita?", NOW, message_id="now"), said("no es ella", 1, 1, person="web-42"),
    ):  # fmt: skip
        keeping.keep(session, batch, Archive())
    session.close()


async def test_who_returns_is_remembered_and_the_conversation_goes_on_with_it(place: Settings) -> None:
    remember(place)
    past = Past(place, patience=10)
    lines, conversation = await answered(past)
    assert lines == ["Soy Ana", "Hola, Ana", "[audio]", "Cita el martes", "¿y mi cita?"]
    assert [one.content for one in conversation.messages] == [
        "Soy Ana", "Hola, Ana", "[audio]", "No entiendo", "Cita el martes", "¿y mi cita?", "¡Hola de nuevo!",
    ]  # fmt: skip
    assert conversation.messages[3].metadata["source"] == "fallback"

    # And one that goes on in Redis is not read again
    lines, _ = await answered(
        past, conversation=msgspec.json.encode(msgspec.structs.replace(conversation, messages=[]))
    )
    assert lines == ["¿y mi cita?"]
    await past.close()


async def test_without_an_archive_or_with_one_that_is_away_the_reply_is_made_as_ever(tmp_path: Path) -> None:
    away = Secret(f"postgresql://cauce:geheim-y-secreta@127.0.0.1:{free_port()}/cauce")
    for place in (Settings(data_dir=tmp_path), Settings(data_dir=tmp_path, database_url=away)):
        past = Past(place)
        await past.reach()
        lines, conversation = await answered(past)
        assert lines == ["¿y mi cita?"]
        assert len(conversation.messages) == 2
        await past.close()
    assert not opening.path(Settings(data_dir=tmp_path)).exists()


@pytest.mark.slow
async def test_one_that_stands_still_delays_one_reply_by_its_patience_and_no_other(
    own_postgres: Postgres, tmp_path: Path
) -> None:
    place = Settings(data_dir=tmp_path, database_url=Secret(own_postgres.url))
    remember(place)
    past = Past(place)
    await past.reach()
    [(backend,)] = own_postgres.sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'cauce-archive'")
    psutil.Process(int(str(backend))).suspend()
    for _ in range(3):
        lines, _ = await answered(past)
        assert lines == ["¿y mi cita?"]
    await past.close()


def test_it_is_off_unless_asked_for() -> None:
    assert topology.parse({}).history.from_archive is False
