"""A real Prometheus reads a running `cauce up`: what it is told of the groups, and every question we put to it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]  # its stubs are not worth a dependency
from conftest import Server
from test_monitoring import ALERTS, DEPLOY, KEDA, QUESTIONS, ROOT, tool
from up import Up
from waiting import until

from bench.ports import free_port
from streams import lag
from streams.connection import Store

TOKEN = "a-token-for-the-tests-only-0123456789"

pytestmark = pytest.mark.slow


class Prometheus:
    """What it answers."""

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        self._session, self._base = session, f"{base}/api/v1"

    async def get(self, path: str, **query: str) -> Any:
        """`data` of its API's answer."""
        async with self._session.get(f"{self._base}/{path}", params=query) as answer:
            told = await answer.json()
            assert answer.status == 200, told
            return told["data"]

    async def value(self, question: str) -> float | None:
        """Of a question with one answer; None where there is none yet."""
        found = (await self.get("query", query=question))["result"]
        assert len(found) <= 1, found
        return float(found[0]["value"][1]) if found else None

    async def sees(self, question: str, number: float) -> None:
        """Wait until it does."""

        async def does() -> bool:
            nonlocal last
            last = await self.value(question)
            return last == number

        last: float | None = None
        try:
            await until(does, within=30)
        except TimeoutError:
            raise AssertionError(f"{question} is {last}, not {number}") from None

    async def alarms(self) -> set[str]:
        """Raised, or about to be."""
        return {alarm["labels"]["alertname"] for alarm in (await self.get("alerts"))["alerts"]}


@contextlib.asynccontextmanager
async def prometheus(folder: Path, ingress: str, session: aiohttp.ClientSession) -> AsyncIterator[Prometheus]:
    """With the shipped configuration, but for where the ingress is, and how often it is asked."""
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    [job] = [job for job in config["scrape_configs"] if job["job_name"] == "cauce-ingress"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [ingress]}]
    token = folder / job["authorization"]["credentials_file"]
    token.parent.mkdir()
    token.write_text(TOKEN)
    config["scrape_configs"] = [job]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(ALERTS, folder)
    address = f"127.0.0.1:{free_port()}"
    options = {"config.file": folder / "prometheus.yml", "storage.tsdb.path": folder / "data"}
    process = await asyncio.create_subprocess_exec(
        tool("prometheus"), f"--web.listen-address={address}", *(f"--{name}={at}" for name, at in options.items()),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip

    async def ready() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get(f"http://{address}/-/ready") as answer:
                return answer.status == 200
        return False

    try:
        await until(ready)
        yield Prometheus(session, f"http://{address}")
    finally:
        process.kill()
        await process.wait()


@pytest.fixture
def up(any_server: Server, store: Store) -> Iterator[Up]:
    tool("prometheus")
    folder = Path(tempfile.mkdtemp(prefix="cauce-"))
    shutil.copy(ROOT / "streams.toml", folder)
    running = Up(folder, REDIS_URL=any_server.url, DEBOUNCE="0", INGRESS_TOKENS=TOKEN)
    running.base = re.sub(r"\x1b\[[0-9;]*m", "", running.until("Cauce is ready")).split()[-1]
    yield running
    running.stop()
    shutil.rmtree(folder)


async def test_what_prometheus_sees_of_a_group_is_what_lies_in_redis(up: Up, store: Store, tmp_path: Path) -> None:
    inference = 'max(cauce_group_lag{group="inference"})'
    [keda] = [trigger["metadata"] for trigger in KEDA["spec"]["triggers"]]
    headers = {"Authorization": f"Bearer {TOKEN}"}

    async def say(person: str) -> str:
        message = {"user_id": person, "message": "Hola"}
        async with session.post(f"{up.base}/chat", json=message, headers=headers) as answer:
            return str((await answer.json())["entry_id"])

    async def nobody_works() -> bool:
        return "CauceNoWorker" in await seen.alarms()

    async with aiohttp.ClientSession() as session, prometheus(tmp_path, up.base.partition("//")[2], session) as seen:
        # Given a pipeline that has answered somebody
        await say("ana")
        await seen.sees('sum(cauce_turns_total{group="inference",outcome="settled"})', 1)
        await seen.sees(inference, 0)
        [target] = (await seen.get("targets"))["activeTargets"]
        assert target["health"] == "up", target["lastError"]
        # When its inference worker stands still, one message is enough to wake another
        worker = up.child("work inference")
        worker.send_signal(signal.SIGSTOP)
        entries = [await say("luis")]
        await seen.sees(keda["query"], 1)
        assert 1 > float(keda["activationThreshold"])
        # and what comes is counted, also where an entry was deleted and Redis has no number for it
        entries += [await say(f"web-{number}") for number in range(9)]
        await seen.sees(inference, 10)
        await store.command("XDEL", "inbound", entries[4], entries[7])
        assert lag.told(await store.command("XINFO", "GROUPS", "inbound"), "inference") is None
        await seen.sees(inference, 8)
        # and somebody is alarmed
        await seen.sees('max(cauce_group_workers{group="inference"})', 0)
        await until(nobody_works)
        # Then all is well again once it goes on
        worker.send_signal(signal.SIGCONT)
        await seen.sees(inference, 0)
        await seen.sees('sum(cauce_turns_total{group="inference",outcome="settled"})', 9)
        assert await seen.value('sum(cauce_redis_seconds_count{call="append"})') == 11
        assert await seen.value('sum(cauce_messages_total{outcome="shed"})') == 0
        # and whatever a dashboard or an alarm asks is answered
        for _, question in QUESTIONS:
            await seen.get("query", query=question)
