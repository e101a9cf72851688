"""
What operators ask: which model answers, the metrics, and, in development, what lies in Redis.

Reads, and deletes only keys of our own table.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress.health import PATIENCE
from ingress.refusal import Json, Refused
from streams import keys as table
from streams import metrics
from streams.connection import Store
from streams.errors import Unavailable
from streams.survey import survey
from streams.topology import Topology

SCANNED = 500
"""Keys that Redis looks at for one answer to SCAN."""


class Operations:
    """The pages of one ingress."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._topology = topology

    async def model(self, _: Request) -> Response:
        """GET /model/info: what the live inference workers have published, counted."""
        names = [name async for name in self._scan(self._store.keys.of("model") + ":")]
        replies = await self._store.pipeline([("GET", name) for name in names])
        counts = Counter(reply for reply in replies if isinstance(reply, bytes))
        models = [
            model | {"workers": count}
            for reply, count in counts.most_common()
            if (model := _published(reply)) is not None
        ]
        nothing: dict[str, Any] = dict.fromkeys(("name", "dtype", "device", "parameters", "context_length"))
        first = models[0] if models else nothing
        # Several only while a deployment changes the model.
        others = {"others": models[1:]} if models[1:] else {}
        return Json(first | {"workers": sum(model["workers"] for model in models)} | others)

    async def metrics(self, _: Request) -> Response:
        """GET /metrics: this process's, and the pipeline's gauges as of now."""
        try:
            async with asyncio.timeout(PATIENCE):
                metrics.observe_groups(await survey(self._store, self._topology))
        except (Unavailable, TimeoutError):
            pass  # what this process counted is worth having without Redis
        return Response(metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def test(self, _: Request) -> Response:
        """GET /redis/test"""
        key, value = self._store.keys.of("test", secrets.token_hex(8)), secrets.token_hex(8)
        seconds = await self._store.ping()
        written, read, deleted, told = await self._store.pipeline(
            [("SET", key, value, "PX", 10_000), ("GET", key), ("DEL", key), ("INFO", "server")]
        )
        good = written == b"OK" and read == value.encode() and deleted == 1
        return Json({"ok": good, "latency_ms": round(seconds * 1000, 3), "version": _info(told).get("redis_version")})

    async def stats(self, _: Request) -> Response:
        """GET /redis/stats"""
        keys, names = self._store.keys, list(self._topology.streams)
        views = await survey(self._store, self._topology)
        told, *lengths = await self._store.pipeline(
            [("INFO",), *(("XLEN", key) for name in names for key in (keys.stream(name), keys.dead(name)))]
        )
        fields = _info(told)
        conversations = 0
        async for _name in self._scan(keys.of("conversation") + ":"):
            conversations += 1
        streams = {
            name: {
                "length": _count(lengths[2 * number]),
                "groups": {
                    group.name: {"lag": views[group.name].lag, "pending": views[group.name].pending}
                    for group in self._topology.readers(name)
                },
            }
            for number, name in enumerate(names)
        }
        return Json(
            {
                "version": fields.get("redis_version"),
                "memory_bytes": int(fields.get("used_memory", 0)),
                "conversations": conversations,
                "streams": streams,
                "dead": {name: _count(lengths[2 * number + 1]) for number, name in enumerate(names)},
            }
        )

    async def conversations(self, request: Request) -> Response:
        """GET /redis/conversations?cursor="""
        given = request.query_params.get("cursor") or "0"
        if not re.fullmatch(r"[0-9]{1,20}", given) or int(given) >= 2**64:
            raise Refused(400, "invalid_field", "`cursor` must be the one of the answer before, or 0")
        prefix = self._store.keys.of("conversation") + ":"
        cursor, found = await self._store.command("SCAN", given, "MATCH", _literally(prefix) + "*", "COUNT", SCANNED)
        people = [name.decode(errors="replace").removeprefix(prefix) for name in found]
        return Json({"user_ids": people, "cursor": cursor.decode()})

    async def clear(self, request: Request) -> Response:
        """DELETE /redis/clear?confirm=yes: keys of our table, whatever else lies in this Redis."""
        if request.query_params.get("confirm") != "yes":
            raise Refused(400, "not_confirmed", "this deletes everything of this bot; add ?confirm=yes")
        whole, prefixes = self._ours()
        deleted = 0
        batch: list[bytes] = []
        async for name in self._scan(self._store.keys.namespace):
            if name in whole or name.startswith(prefixes):
                batch.append(name)
                if len(batch) >= SCANNED:
                    deleted += await self._store.command("UNLINK", *batch)
                    batch.clear()
        if batch:
            deleted += await self._store.command("UNLINK", *batch)
        return Json({"deleted": deleted})

    def _ours(self) -> tuple[set[bytes], tuple[bytes, ...]]:
        """Every key we may have: whole names, and what names begin with."""
        keys = self._store.keys
        whole = {key for name in self._topology.streams for key in (keys.stream(name), keys.dead(name))}
        prefixes = {keys.namespace + "group:"}
        for kind, row in table.TABLE.items():
            if not row.pattern.startswith(("<", "group:")):
                if ":" in row.pattern:
                    prefixes.add(keys.of(kind) + ":")
                else:
                    whole.add(keys.of(kind))
        return {name.encode() for name in whole}, tuple(prefix.encode() for prefix in prefixes)

    async def _scan(self, prefix: str) -> AsyncIterator[bytes]:
        """Every key that begins so, once or (as SCAN has it) more often; not everybody's are text."""
        cursor, pattern = b"0", _literally(prefix) + "*"
        while True:
            cursor, found = await self._store.command("SCAN", cursor, "MATCH", pattern, "COUNT", SCANNED)
            for name in found:
                yield name
            if cursor == b"0":
                return


def _literally(text: str) -> str:
    """For MATCH, where some characters mean something."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def _published(reply: bytes) -> dict[str, Any] | None:
    """What a worker says of its model; None where no worker wrote this."""
    try:
        return msgspec.json.decode(reply, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _count(reply: Any) -> int:
    """Of a key of another type, which has no length, none."""
    return reply if isinstance(reply, int) else 0


def _info(reply: Any) -> dict[str, str]:
    lines = reply.decode(errors="replace").splitlines() if isinstance(reply, bytes) else []
    return {name: value for name, _, value in (line.partition(":") for line in lines) if value}
