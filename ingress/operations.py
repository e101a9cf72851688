"""
What operators ask: which model answers, the metrics, and, in development, what lies in Redis.

Reads, and deletes only keys of our own table.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ingress.health import PATIENCE
from ingress.refusal import Json, Refused
from streams import keys as table
from streams import memory, metrics, published
from streams.connection import PAGE, Store, info, literally
from streams.errors import Unavailable
from streams.keys import Keys
from streams.stores import Stores
from streams.survey import lengths, survey
from streams.topology import Topology


class Operations:
    """The pages of one ingress."""

    def __init__(self, stores: Stores, topology: Topology) -> None:
        self._stores = stores
        self._topology = topology

    async def model(self, _: Request) -> Response:
        """GET /model/info: what the live inference workers have published, counted."""
        store = self._stores.first
        names = [name async for page in store.scan(_all(store, "model")) for name in page]
        models = published.models(await store.pipeline([("GET", name) for name in names]))
        nothing: dict[str, Any] = dict.fromkeys(("name", "dtype", "device", "parameters", "context_length"))
        first = models[0] if models else nothing
        # Several only while a deployment changes the model.
        others = {"others": models[1:]} if models[1:] else {}
        return Json(first | {"workers": sum(model["workers"] for model in models)} | others)

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: this process's, and the pipeline's gauges as of now."""
        try:
            async with asyncio.timeout(PATIENCE):
                views = await survey(self._stores, self._topology)
                metrics.observe(views, memory.fullest([await memory.look(store) for store in self._stores]))
        except (Unavailable, TimeoutError):
            # What this process counted is worth having without Redis; of the groups nobody knows anything now.
            metrics.forget({group.name: group.reads for group in self._topology.groups.values()})
        else:
            await self._try_to_write()
        return Response(metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _try_to_write(self) -> None:
        """So that cauce_redis_up is right also where no message has come for long."""
        with contextlib.suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                for store in self._stores:
                    await store.command("SET", store.keys.of("test", secrets.token_hex(8)), "1", "PX", 10_000)

    async def test(self, _: Request) -> Response:
        """GET /redis/test"""
        store = self._stores.first
        key, value = store.keys.of("test", secrets.token_hex(8)), secrets.token_hex(8)
        seconds = await store.ping()
        written, read, deleted, told = await store.pipeline(
            [("SET", key, value, "PX", 10_000), ("GET", key), ("DEL", key), ("INFO", "server")]
        )
        good = written == b"OK" and read == value.encode() and deleted == 1
        return Json({"ok": good, "latency_ms": round(seconds * 1000, 3), "version": info(told).get("redis_version")})

    async def stats(self, _: Request) -> Response:
        """GET /redis/stats"""
        views = await survey(self._stores, self._topology)
        counted = await lengths(self._stores, self._topology)
        [told] = await self._stores.first.pipeline([("INFO",)])
        fields = info(told)
        conversations = 0
        for store in self._stores:
            async for page in store.scan(_all(store, "conversation")):
                conversations += len(page)
        streams = {
            name: {
                "length": row["length"],
                "groups": {
                    group.name: {"lag": views[group.name].lag, "pending": views[group.name].pending}
                    for group in self._topology.readers(name)
                },
            }
            for name, row in counted.items()
        }
        return Json(
            {
                "version": fields.get("redis_version"),
                "memory_bytes": int(fields.get("used_memory", 0)),
                "conversations": conversations,
                "streams": streams,
                "dead": {name: row["dead"] for name, row in counted.items()},
            }
        )

    async def conversations(self, request: Request) -> Response:
        """GET /redis/conversations?cursor="""
        given = re.fullmatch(r"([0-9]{1,20})(?:\.([0-9]{1,3}))?", request.query_params.get("cursor") or "0")
        if not given or int(given[1]) >= 2**64:
            raise Refused(400, "invalid_field", "`cursor` must be the one of the answer before, or 0")
        at, shard = int(given[1]), int(given[2] or 0)
        if shard >= len(self._stores):
            return Json({"user_ids": [], "cursor": "0"})
        store = list(self._stores)[shard]
        prefix = store.keys.of("conversation") + ":"
        cursor, found = await store.command("SCAN", at, "MATCH", _all(store, "conversation"), "COUNT", PAGE)
        people = [name.decode(errors="replace").removeprefix(prefix) for name in found]
        shard += cursor == b"0"
        where = f".{shard}" if shard else ""
        return Json({"user_ids": people, "cursor": "0" if shard == len(self._stores) else cursor.decode() + where})

    async def clear(self, request: Request) -> Response:
        """DELETE /redis/clear?confirm=yes: keys of our table, whatever else lies in this Redis."""
        if request.query_params.get("confirm") != "yes":
            raise Refused(400, "not_confirmed", "this deletes everything of this bot; add ?confirm=yes")
        return Json({"deleted": sum([await self._clear(store) for store in self._stores])})

    async def _clear(self, store: Store) -> int:
        whole, prefixes = self._ours(store.keys)
        deleted = 0
        async for page in store.scan(literally(store.keys.namespace) + "*"):
            if ours := [name for name in page if name in whole or name.startswith(prefixes)]:
                deleted += await store.command("UNLINK", *ours)
        return deleted

    def _ours(self, keys: Keys) -> tuple[set[bytes], tuple[bytes, ...]]:
        """Every key that a shard may have: whole names, and what names begin with."""
        whole = {key for name in self._topology.streams for key in (keys.stream(name), keys.dead(name))}
        prefixes = {keys.group("due", "").partition(":due")[0]}
        for kind, row in table.TABLE.items():
            if not row.pattern.startswith(("<", "group:")):
                if ":" in row.pattern:
                    prefixes.add(keys.of(kind) + ":")
                else:
                    whole.add(keys.of(kind))
        return {name.encode() for name in whole}, tuple(prefix.encode() for prefix in prefixes)


def _all(store: Store, kind: str) -> str:
    """What every key of a kind matches."""
    return literally(store.keys.of(kind)) + ":*"
