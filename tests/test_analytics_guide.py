"""docs/analytics.md: its example does what it says, and every name that is counted is in its table."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import pytest
from conftest import Server
from waiting import until

from streams import analytics, topology, wire
from streams.analytics import Asked
from streams.buckets import Calendar
from streams.connection import Store
from streams.handlers import find
from streams.stores import Stores
from streams.worker import Worker

ROOT = Path(__file__).parent.parent
GUIDE = (ROOT / "docs" / "analytics.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    [found] = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


async def test_the_group_of_the_guide_counts_what_it_says(tmp_path: Path, store: Store, any_server: Server) -> None:
    (tmp_path / "streams.toml").write_text((ROOT / "streams.toml").read_text("utf-8") + "\n" + block("toml"), "utf-8")
    (tmp_path / "wishes.py").write_text(block("python"), "utf-8")
    top = topology.load(tmp_path / "streams.toml")
    sys.path.insert(0, str(tmp_path))
    try:
        worker = Worker(store, top, top.group("wishes"), find(top.group("wishes"), top))
    finally:
        sys.path.remove(str(tmp_path))
    running = asyncio.create_task(worker.run(5))
    for slots in ({"speciality": "cardiología"}, {}, {"speciality": "pediatría"}, {"speciality": "cardiología"}):
        reply = wire.Reply(id="reply_1-0", user_id="+59112345678", message="¡Hola!", slots=slots, created_at="")
        await store.command("XADD", "outbound", "*", "key", "+59112345678", "type", "reply", "body", wire.encode(reply))

    async def counted() -> bool:
        total = (await analytics.report(Stores.alone(store), top, Calendar(), Asked(of="wishes"))).total
        wishes = {"speciality.cardiología": 2, "speciality.pediatría": 1}
        return (total.counts, total.distinct) == (wishes, {"people": 1})

    await until(counted)
    worker.stop()
    await running


def test_every_name_that_the_handlers_count_is_told() -> None:
    table = GUIDE[GUIDE.index("| name | what |") : GUIDE.index("Each message is counted once")]
    first = "\n".join(line.split("|")[1] for line in table.splitlines() if "|" in line)
    told = set(re.findall(r"`(\w+)(?:\.[A-Z]+)?`", first)) - {"buried"}  # which nobody counts
    source = (ROOT / "processors" / "analytics.py").read_text(encoding="utf-8")
    patterns = (r'"(\w+)": (?:1\b|said\.|message\.|begun)', r'f"(\w+)\.\{', r'"\w+": "(\w+)"')
    assert {name for pattern in patterns for name in re.findall(pattern, source)} == told


@pytest.mark.parametrize("name", ["minutes", "hours", "days"])
def test_the_guide_tells_how_long_counts_are_kept(name: str) -> None:
    days = int(getattr(topology.Topology().tallies, name) / 86400)
    shown = {"minutes": "2 days", "hours": "60 days", "days": "2 years"}[name]
    assert days == {"2 days": 2, "60 days": 60, "2 years": 730}[shown]
    assert re.search(rf"\| {shown} \| `\[tallies\] {name}` \|", GUIDE)
