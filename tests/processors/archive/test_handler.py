"""A worker's batches: what is kept, whose fault it is where it is not, and what never shows."""

from __future__ import annotations

import asyncio
import contextlib
import io
import signal
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from bench.ports import free_port
from processors.archive import door, handler, importing, opening, rows
from processors.archive.handler import deliveries, messages, replies, statuses
from processors.archive.session import Away
from streams import log, topology, wire
from streams.connection import Store
from streams.effects import Turn
from streams.erasure.erase import Erasure
from streams.errors import Bury, ConfigurationError, Malformed, Retry, Unavailable
from streams.handlers import find
from streams.settings import Secret, Settings
from streams.stores import Stores
from tests.pipeline import ROOT, archive_tables
from tests.postgres import PASSWORD, Postgres
from tests.processors.archive.stories import ANA, WAMID, count, entry, inbound, reply, table, turn
from tests.waiting import until

PLAN = topology.parse(
    {
        "streams": {name: {} for name in ("inbound", "outbound", "statuses", "deliveries")},
        "groups": {
            name: {"reads": name, "handler": f"processors.archive.handler:{name}", "batch": 100, "order": "none"}
            for name in ("inbound", "outbound", "statuses", "deliveries")
        },
    }
)


@asynccontextmanager
async def worker(place: Settings, group: str = "inbound") -> AsyncIterator[handler.Resources]:
    async with handler.opened(PLAN.groups[group], PLAN, place, None) as here:
        yield here


def turns(here: handler.Resources, *bodies: Any) -> list[Turn]:
    return [turn(body, entry(0, number), resources=here) for number, body in enumerate(bodies)]


async def test_each_stream_has_its_table(place: Settings) -> None:
    status = wire.Status(message_id=WAMID, status="delivered", recipient_id=ANA, content={"id": WAMID})
    delivery = wire.Delivery(reply_id="reply_1", user_id=ANA, outcome="delivered", status=200)
    for group, keep, body in (
        ("inbound", messages, inbound()), ("outbound", replies, reply()),
        ("statuses", statuses, status), ("deliveries", deliveries, delivery),
    ):  # fmt: skip
        async with worker(place, group) as here:
            assert await keep.handle(turns(here, body, body)) is None
    session = opening.opened(place)
    assert [count(session, name) for name in ("messages", "replies", "statuses", "deliveries")] == [2] * 4
    session.close()


def test_the_tables_that_ship_are_a_pipeline_once_their_signs_are_gone(tmp_path: Path) -> None:
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    off = topology.load(ROOT / "streams.toml")
    path = tmp_path / "streams.toml"
    path.write_text(shipped.replace('# writes = ["deliveries"]', 'writes = ["deliveries"]') + archive_tables())
    found = topology.load(path)
    assert len(found.groups) == len(off.groups) + 4
    for name in found.groups.keys() - off.groups.keys():
        assert find(found.group(name), found).forget is not None


async def test_an_entry_that_is_none_of_ours_is_named_and_its_neighbours_can_be_kept(place: Settings) -> None:
    async with worker(place) as here:
        batch = turns(here, inbound(), b"{", inbound())
        with pytest.raises(Malformed) as caught:
            await messages.handle(batch)
        assert caught.value.entry == batch[1].id
        await messages.handle([batch[0], batch[2]])
        with pytest.raises(Malformed, match="no time that a calendar has"):
            await messages.handle([turn(inbound(), f"{10**15}-0", resources=here)])
    async with worker(place, "outbound") as here:
        wrong = turn(reply(created_at="gestern"), resources=here)
        if place.database_url:
            with pytest.raises(Bury, match="the archive does not take it"):
                await replies.handle([wrong])
        else:
            await replies.handle([wrong])


async def test_where_the_database_is_away_nobodys_attempt_is_burnt_and_no_password_shows(tmp_path: Path) -> None:
    lines = io.StringIO()
    address = f"postgresql://cauce:{PASSWORD}@127.0.0.1:{free_port()}/cauce"
    where = Settings(data_dir=tmp_path, database_url=Secret(address))
    log.configure(where, lines)
    async with worker(where) as here:
        for _ in range(2):
            with pytest.raises(Retry) as caught:
                await messages.handle(turns(here, inbound()))
            assert not caught.value.counted
            assert caught.value.after is not None
            assert PASSWORD not in str(caught.value) + repr(caught.value.__context__) + repr(here)
    with pytest.raises(Unavailable) as refused:
        await handler.forget(ANA, PLAN.groups["inbound"], PLAN, where)
    assert PASSWORD not in str(refused.value)
    assert lines.getvalue().count("archive.away") == 1
    assert PASSWORD not in lines.getvalue()


async def test_a_wrong_password_is_told_without_telling_any(postgres: Postgres, tmp_path: Path) -> None:
    postgres.empty()
    lines = io.StringIO()
    where = Settings(data_dir=tmp_path, database_url=Secret(postgres.address("cauce", password="not-the-right-one")))
    log.configure(where, lines)
    async with worker(where):
        pass
    assert "password authentication failed" in lines.getvalue()
    assert "not-the-right-one" not in lines.getvalue()


async def test_a_user_without_rights_is_told_which_are_missing(postgres: Postgres, tmp_path: Path) -> None:
    postgres.empty()
    postgres.sql("DROP ROLE IF EXISTS reader")
    postgres.sql("CREATE ROLE reader LOGIN PASSWORD 'reader-reader'")
    lines = io.StringIO()
    where = Settings(data_dir=tmp_path, database_url=Secret(postgres.address("cauce", "reader", "reader-reader")))
    log.configure(where, lines)
    async with worker(where):
        pass
    assert "lacks CREATE on the schema" in lines.getvalue()


async def test_a_newer_schema_stops_the_worker_with_a_sentence(place: Settings) -> None:
    session = opening.opened(place)
    session.run("INSERT INTO archive_versions VALUES (?, ?)", (999, "2099"))
    session.close()
    with pytest.raises(ConfigurationError, match="update Cauce, or name another database"):
        async with worker(place):
            pass


@pytest.mark.slow
async def test_a_database_that_stands_still_is_cut_off_and_found_again(own_postgres: Postgres, tmp_path: Path) -> None:
    where = Settings(data_dir=tmp_path, database_url=Secret(own_postgres.url))
    one = door.Door(lambda: opening.opened(where), stalled=1)
    assert await one.ask(lambda session: session.run("SELECT 1")) == [(1,)]
    [(backend,)] = await one.ask(lambda session: session.run("SELECT pg_backend_pid()"))
    psutil.Process(backend).suspend()
    with pytest.raises(Away, match="has not answered for 1 s"):
        await one.ask(lambda session: session.run("SELECT 2"))
    psutil.Process(backend).send_signal(signal.SIGKILL)

    async def answers() -> bool:  # it is starting again, for one of its own was killed
        with contextlib.suppress(Away):
            return await one.ask(lambda session: session.run("SELECT 3")) == [(3,)]
        return False

    await until(answers)
    await one.close()


async def test_an_erased_person_is_in_no_byte_of_the_files(tmp_path: Path) -> None:
    where = Settings(data_dir=tmp_path)
    digits, wamid = b"59112345678", WAMID.encode()
    others = [inbound(f"hola {n} " + "x" * 300, person=f"+5917{n:07}", message_id=f"m{n}") for n in range(200)]
    async with worker(where) as here:
        for n in range(30):
            mine = [inbound(f"soy {ANA}, cita {n} " + "y" * 700, message_id=f"{WAMID}{n}")]
            await messages.handle([turn(each, entry(n, i), resources=here) for i, each in enumerate(mine + others)])
    async with worker(where, "outbound") as here:
        await replies.handle(turns(here, reply(action="book", slots={"date": "2099-10-07"})))

        def seen(what: bytes) -> bool:
            return any(what in file.read_bytes() for file in tmp_path.iterdir() if file.name.startswith("archive.db"))

        assert seen(digits)
        assert seen(wamid)
        # When they are erased while a worker has the database open, having been counted
        foretold = await handler.kept(ANA, PLAN.groups["inbound"], PLAN, where)
        assert seen(digits)
        receipt = await handler.forget(ANA, PLAN.groups["inbound"], PLAN, where)
        assert receipt == foretold
        assert receipt["messages"] == 30
        assert await handler.forget(ANA, PLAN.groups["outbound"], PLAN, where) == {}
        assert not seen(digits)
        assert not seen(wamid)
        assert seen(b"hola 199")
    assert oct(opening.path(where).stat().st_mode)[-3:] == "600"


async def test_an_archive_that_is_not_there_is_not_made_to_count_in_it(tmp_path: Path) -> None:
    where = Settings(data_dir=tmp_path)
    assert await handler.kept(ANA, PLAN.groups["inbound"], PLAN, where) == {}
    assert not opening.path(where).exists()
    # Nor its tables, where somebody has made the file
    opening.connected(where).close()
    assert await handler.kept(ANA, PLAN.groups["inbound"], PLAN, where) == {}
    with closing(opening.connected(where)) as session:
        assert session.run("SELECT count(*) FROM sqlite_master") == [(0,)]


async def test_while_it_is_being_read_the_rows_go_and_are_counted_and_the_receipt_says_what_is_left(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("processors.archive.sqlite.BUSY_SECONDS", 0.1)
    where = Settings(data_dir=tmp_path)
    async with worker(where) as here:
        await messages.handle(turns(here, inbound()))
    reader = sqlite3.connect(opening.path(where))
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM people").fetchall()
    plain = topology.parse({"streams": {"inbound": {}}})
    receipt = await Erasure(Stores.alone(store), plain, where, ANA, heard=0).run()
    assert (receipt.status, receipt.counts["archived.messages"]) == ("incomplete", 1)
    assert receipt.left[0].startswith("group archived could not delete all of what it has written: the archive: ")
    reader.close()
    assert (await Erasure(Stores.alone(store), plain, where, ANA, heard=0).run()).status == "erased"


async def test_an_archive_that_no_group_fills_any_more_forgets_too(store: Store, place: Settings) -> None:
    async with worker(place) as here:
        await messages.handle(turns(here, inbound(), inbound(person="web-42", message_id="w")))
    plain = topology.parse({"streams": {"inbound": {}}})
    receipt = await Erasure(Stores.alone(store), plain, place, ANA, heard=0).run()
    assert (receipt.status, receipt.counts["archived.messages"]) == ("erased", 1)
    with closing(opening.opened(place)) as session:
        assert session.run("SELECT user_id FROM people") == [("web-42",)]


async def test_on_postgres_an_erased_person_is_in_no_table(postgres: Postgres, tmp_path: Path) -> None:
    where = Settings(data_dir=tmp_path, database_url=Secret(postgres.empty()))
    async with worker(where) as here:
        await messages.handle(
            turns(here, inbound(name="Ana", wa_id="59112345678"), inbound(person="web-42", message_id="w"))
        )
    async with worker(where, "outbound") as here:
        await replies.handle(turns(here, reply(action="book")))
    await handler.forget(ANA, PLAN.groups["inbound"], PLAN, where)
    with psycopg.connect(postgres.url) as connection:
        tables = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        everything = [connection.execute(f"SELECT t::text FROM {name} t".encode()).fetchall() for (name,) in tables]  # noqa: S608 - of a test
    assert "59112345678" not in str(everything)
    assert WAMID not in str(everything)
    assert "web-42" in str(everything)


async def a_moved_one(postgres: Postgres, tmp_path: Path) -> Settings:
    """An archive that was moved to PostgreSQL, with the file of SQLite still there."""
    where = Settings(data_dir=tmp_path, database_url=Secret(postgres.empty()))
    async with worker(Settings(data_dir=tmp_path)) as here:
        await messages.handle(turns(here, inbound(), inbound(person="web-42", message_id="w")))
    importing.bring(opening.path(where), where, PLAN.archive, lambda _count: None)
    return where


PLAIN = topology.parse({"streams": {"inbound": {}}})


async def test_the_file_that_a_move_to_postgres_left_behind_forgets_too(
    store: Store, postgres: Postgres, tmp_path: Path
) -> None:
    moved = await a_moved_one(postgres, tmp_path)
    erasure = Erasure(Stores.alone(store), PLAIN, moved, ANA, heard=0)
    both = {"archived.messages": 1, "archived.people": 1}
    both |= {f"{table} (archive.db)": rows for table, rows in both.items()}
    foretold = await erasure.count()
    assert foretold.counts.items() >= both.items()
    receipt = await Erasure(Stores.alone(store), PLAIN, moved, ANA, heard=0).run()
    assert (receipt.status, receipt.left) == ("erased", [])
    assert receipt.counts.items() >= both.items()
    files = b"".join(file.read_bytes() for file in moved.data_dir.iterdir() if file.name.startswith("archive.db"))
    assert b"59112345678" not in files
    assert WAMID.encode() not in files
    assert b"web-42" in files
    # Nor does another import bring them back
    assert importing.bring(opening.path(moved), moved, PLAN.archive, lambda _count: None) == 0
    with closing(opening.opened(moved)) as session:
        assert session.run("SELECT user_id FROM people") == [("web-42",)]


async def test_of_two_archives_one_that_cannot_be_reached_is_left_and_the_other_forgets(
    store: Store, postgres: Postgres, tmp_path: Path
) -> None:
    moved = await a_moved_one(postgres, tmp_path)

    async def erase(where: Settings) -> Any:
        return await Erasure(Stores.alone(store), PLAIN, where, ANA, heard=0).run()

    # PostgreSQL is away
    nowhere = Secret(f"postgresql://cauce:{PASSWORD}@127.0.0.1:{free_port()}/cauce")
    receipt = await erase(Settings(data_dir=moved.data_dir, database_url=nowhere))
    assert (receipt.status, receipt.counts["archived.messages (archive.db)"]) == ("incomplete", 1)
    assert "archived.messages" not in receipt.counts
    [left] = receipt.left
    assert left.startswith("group archived could not delete all of what it has written: the archive: PostgreSQL: ")
    assert PASSWORD not in left
    # The file is none that SQLite can read
    opening.path(moved).write_text("no database, but what somebody has put there")
    receipt = await erase(moved)
    assert (receipt.status, receipt.counts["archived.messages"]) == ("incomplete", 1)
    [left] = receipt.left
    assert "the archive (archive.db): SQLite: file is not a database" in left
    # And once it has gone
    opening.path(moved).unlink()
    assert (await erase(moved)).status == "erased"
    assert not opening.path(moved).exists()


async def test_a_worker_that_keeps_while_somebody_is_erased_brings_nothing_back(place: Settings) -> None:
    async with worker(place) as here:

        async def keep(number: int) -> None:
            past = turn(inbound(f"mensaje {number}"), f"{1_700_000_000_000 + number}-0", resources=here)
            await messages.handle([past])

        await keep(0)
        going = [asyncio.create_task(keep(number)) for number in range(1, 40)]
        await handler.forget(ANA, PLAN.groups["inbound"], PLAN, place)
        await asyncio.gather(*going)
    session = opening.opened(place)
    assert table(session, "messages") == []
    assert table(session, "people") == []
    session.close()


async def test_erasing_waits_for_a_batch_that_is_not_committed_yet(postgres: Postgres, tmp_path: Path) -> None:
    where = Settings(data_dir=tmp_path, database_url=Secret(postgres.empty()))
    session = opening.opened(where)
    batch = rows.said(turn(inbound()), "inbound")
    session.make_room("messages", ["2099-10"])
    with session.transaction():
        session.insert("messages", batch)
        erasing = asyncio.create_task(handler.forget(ANA, PLAN.groups["inbound"], PLAN, where))

        async def stands_in_line() -> bool:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"
            return bool(await asyncio.to_thread(postgres.sql, waiting)) or erasing.done()

        await until(stands_in_line)
    assert await erasing == {"messages": 1}
    assert count(session, "messages") == 0
    session.close()
