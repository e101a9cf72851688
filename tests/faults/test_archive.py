"""The archive under kill -9: of its workers, and of its database."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections import Counter
from functools import partial
from pathlib import Path

import psycopg
import pytest
from conftest import Server, binary, sometimes
from deployments import Cluster, Ground
from pipeline import Pipeline, Redis, archive_tables, pipeline
from postgres import Postgres
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

GROUPS = ("archive", "archive-replies")
PEOPLE, EACH = 25, 12


async def chatter(whole: Pipeline, start: int, count: int) -> None:
    """Some messages of everybody, all of them accepted."""
    for number in range(start, start + count):
        said = (
            whole.say(f"+5917000{who:04}", f"mensaje {number}, quiero una cita", f"m{who}.{number}")
            for who in range(PEOPLE)
        )
        await asyncio.gather(*said)


async def entries(whole: Pipeline, stream: str) -> Counter[tuple[int, str]]:
    """Ground truth: what lies on a stream of each shard, each once."""
    found: Counter[tuple[int, str]] = Counter()
    for store in whole.stores:
        rows = await store.command("XRANGE", store.keys.stream(stream), "-", "+")
        found.update((store.keys.shard, id.decode()) for id, _ in rows)
    return found


def rows(database: str | Path, table: str) -> Counter[tuple[int, str]]:
    sql = f"SELECT shard, entry FROM {table}"  # noqa: S608 - of a test
    if isinstance(database, Path):
        with sqlite3.connect(database) as lite:
            found = lite.execute(sql).fetchall()
        lite.close()
        return Counter(found)
    with psycopg.connect(database) as connection:
        return Counter(connection.execute(sql.encode()).fetchall())


def counted(database: str | Path) -> tuple[int, int]:
    """What people's rows say of how much there is: counted once for each new row."""
    sql = "SELECT sum(messages), sum(replies) FROM people"
    if isinstance(database, Path):
        with sqlite3.connect(database) as lite:
            found = lite.execute(sql).fetchone()
        lite.close()
    else:
        with psycopg.connect(database) as connection:
            found = connection.execute(sql).fetchone()
    messages, replies = found or (0, 0)
    return int(messages or 0), int(replies or 0)


async def all_of_it(whole: Pipeline, database: str | Path) -> None:
    """Wait until the archive has as many rows as the streams have entries; then they are the same."""

    async def there() -> bool:
        said = [(await entries(whole, name)).total() for name in ("inbound", "outbound")]
        return said == [rows(database, table).total() for table in ("messages", "replies")]

    await until(there, within=60)
    assert rows(database, "messages") == await entries(whole, "inbound")
    assert rows(database, "replies") == await entries(whole, "outbound")
    assert counted(database) == (rows(database, "messages").total(), rows(database, "replies").total())


@pytest.mark.parametrize("database", sometimes(["sqlite", "postgres"], ["postgres"]))
async def test_workers_killed_in_the_middle_lose_and_double_nothing(
    own_server: Server, database: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    where: str | Path = tmp_path / "archive.db"
    environment = {"DATA_DIR": str(tmp_path), "RATE_LIMIT_PER_MINUTE": "0"}
    if database == "postgres":
        where = environment["DATABASE_URL"] = request.getfixturevalue("postgres").empty()
    await workers_killed(own_server, where, **environment)


async def test_nor_do_they_on_a_cluster(tmp_path: Path) -> None:
    with Ground(binary("redis-server")) as ground:
        cluster = Cluster(ground, "appendonly yes", replicas=False)
        environment = {"DATA_DIR": str(tmp_path), "RATE_LIMIT_PER_MINUTE": "0"}
        where = tmp_path / "archive.db"
        await workers_killed(cluster, where, placement="shards = 6", **environment)
        assert all(node.ask("DBSIZE") for node in cluster.masters)


async def workers_killed(redis: Redis, where: str | Path, placement: str = "", **environment: str) -> None:
    async with pipeline(
        redis, "ingress", "inference", *GROUPS, streams=archive_tables(*GROUPS), placement=placement, **environment
    ) as whole:
        for number in range(EACH):
            load = asyncio.create_task(chatter(whole, number, 1))
            name = GROUPS[number % 2]
            await whole.kill(name)
            await whole.start(name)
            await load
        await all_of_it(whole, where)
        assert rows(where, "messages").total() == PEOPLE * EACH


async def test_a_database_killed_and_started_again_loses_nothing_and_burns_no_attempt(
    own_server: Server, own_postgres: Postgres
) -> None:
    async with pipeline(
        own_server, "ingress", "inference", *GROUPS, streams=archive_tables(*GROUPS),
        DATABASE_URL=own_postgres.url, RATE_LIMIT_PER_MINUTE="0",
    ) as whole:  # fmt: skip
        for number in range(3):
            # Given a load in the middle of which the database dies
            before = rows(own_postgres.url, "messages").total() if number else 0
            load = asyncio.create_task(chatter(whole, number * 8, 4))
            await until(partial(_more_rows, own_postgres.url, before))
            own_postgres.kill()
            await load
            await chatter(whole, number * 8 + 4, 4)

            # Then nobody waits for it, and it is said once
            await whole.processes["archive"].says("archive.away")
            own_postgres.start()
            await whole.processes["archive"].says("archive.back")
        await all_of_it(whole, own_postgres.url)
        for name in ("inbound", "outbound"):
            assert await whole.store.command("XLEN", whole.store.keys.dead(name)) == 0
        said = "\n".join(line for process in whole.processes.values() for line in process.lines)
        assert "geheim" not in said
        told = [json.loads(line)["event"] for line in whole.processes["archive"].lines]
        assert told.count("archive.away") == told.count("archive.back") == 3


async def _more_rows(url: str, than: int) -> bool:
    try:
        return rows(url, "messages").total() > than
    except psycopg.errors.UndefinedTable:
        return False
