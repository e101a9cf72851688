"""An appointment's life in the archive, from what a person writes to what n8n says, with real processes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import Server
from pipeline import ROOT, Pipeline, archive_tables, pipeline
from waiting import until

from tests.processors.archive.stories import ANA

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

GROUPS = ("archive", "archive-replies", "archive-deliveries")


def reader(database: str | Path) -> Callable[[str], list[tuple[Any, ...]]]:
    def rows(sql: str) -> list[tuple[Any, ...]]:
        if isinstance(database, Path):
            with sqlite3.connect(database) as lite:
                found = lite.execute(sql).fetchall()
            lite.close()
            return found
        with psycopg.connect(database) as connection:
            return connection.execute(sql.encode()).fetchall()

    return rows


async def tells(whole: Pipeline, message_id: str, **appointment: str) -> None:
    """n8n says what has become of it."""
    body = {"role": "assistant", "message": "…", "message_id": message_id, "metadata": {"appointment": appointment}}
    status, answer = await whole.post(f"/chat/{ANA}/messages", body)
    assert status == 202, answer


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
async def test_a_persons_words_and_n8ns_answers_are_one_appointment(
    any_server: Server, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    where: str | Path = tmp_path / "archive.db"
    environment = {"DATA_DIR": str(tmp_path)}
    if database == "postgres":
        where = environment["DATABASE_URL"] = request.getfixturevalue("postgres").empty()
    rows, shipped = reader(where), (ROOT / "streams.toml").read_text(encoding="utf-8")
    config = tmp_path / "shipped.toml"
    config.write_text(shipped.replace('# writes = ["deliveries"]', 'writes = ["deliveries"]'))
    names = ("ingress", "inference", "egress", *GROUPS)
    async with pipeline(any_server, *names, config=config, streams=archive_tables(), **environment) as whole:

        async def is_now(status: str, asked: str | None, speciality: str | None, hour: str | None) -> None:
            async def holds() -> bool:
                found = rows("SELECT status, asked, speciality, hour FROM appointments")
                return [(*row[:3], row[3] and str(row[3])[:5]) for row in found] == [(status, asked, speciality, hour)]

            await until(holds)

        await whole.say(ANA, "Hola, necesito una cita", "m1")
        await is_now("requested", "book", None, None)
        await whole.say(ANA, "quiero una cita con el cardiólogo el martes a las 3 de la tarde", "m2")
        await is_now("requested", "book", "cardiología", "15:00")
        await tells(whole, "n1", status="confirmed", id="cal-17", time="15:30")
        await is_now("confirmed", None, "cardiología", "15:30")
        await whole.say(ANA, "puedo cambiar mi turno para el 15 de octubre a las 10", "m3")
        await is_now("confirmed", "move", "cardiología", "15:30")
        await tells(whole, "n2", status="moved", id="cal-17", date="2099-10-15", time="10:00")
        await is_now("moved", None, "cardiología", "10:00")
        answer = await whole.say(ANA, "quiero cancelar mi cita", "m4", Prefer="wait=20")
        assert answer["action"] == "cancel"
        await is_now("moved", "cancel", "cardiología", "10:00")
        await tells(whole, "n3", status="cancelled", id="cal-17")
        await is_now("cancelled", None, "cardiología", "10:00")

        causes = rows("SELECT requested_by, confirmed_by, moved_by, cancelled_by, ref FROM appointments")
        assert causes == [("m1", "n1", "n2", "n3", "cal-17")]

        async def delivered() -> bool:
            return sorted(rows("SELECT outcome, status FROM deliveries"), key=str) == [
                ("delivered", 200), ("delivered", 200), ("delivered", 200), ("http", None)
            ]  # fmt: skip

        await until(delivered)
        assert len(whole.sink.requests) == 3
        assert rows("SELECT messages, replies FROM people") == [(4, 4)]
