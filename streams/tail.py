"""
Streams as an operator reads them, line by line.

Numbers and wamids are masked unless asked for; what was said is shown, for that is what an operator looks for here.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from streams.connection import Entry, Store, entries
from streams.errors import ConfigurationError
from streams.masking import Mask
from streams.stores import Stores
from streams.topology import Topology, suggest

_BLOCK_MS = 2_000
_PAGE = 200
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


class Form(msgspec.Struct, kw_only=True):
    """How entries are shown."""

    as_json: bool = False
    full: bool = False
    mask: Mask = msgspec.field(default_factory=Mask)

    def entry(self, id: str, fields: dict[str, bytes]) -> str:
        plain: dict[str, Any] = {"id": id, **{name: value.decode(errors="replace") for name, value in fields.items()}}
        try:
            plain["body"] = json.loads(plain.get("body", "null"))
        except ValueError:
            pass  # shown as it is
        if not self.full:
            plain = {name: value if name == "id" else self.mask.field(name, value) for name, value in plain.items()}
        return json.dumps(plain, ensure_ascii=False) if self.as_json else _line(plain)

    def hide(self, name: str, text: str) -> str:
        """One field's text for a terminal, masked unless asked for."""
        return _CONTROL.sub(" ", text if self.full else str(self.mask.field(name, text)))


def _line(plain: dict[str, Any]) -> str:
    at = datetime.fromtimestamp(int(plain["id"].partition("-")[0]) / 1000).strftime("%d.%m. %H:%M:%S")
    words = [at, plain["id"], str(plain.get("key", "")), str(plain.get("type", ""))]
    if reason := plain.get("reason"):
        words += [f"{plain.get('group')}, {plain.get('attempts')} attempts:", str(reason), "│"]
    words.append(_said(plain.get("body")))
    return _CONTROL.sub(" ", "  ".join(words))


def _said(body: Any) -> str:
    """The words of a message or reply; of anything else its JSON."""
    if isinstance(body, dict):
        for name in ("message", "text", "status"):
            if isinstance(body.get(name), str) and body[name]:
                action = f"  [{body['action']}]" if body.get("action") else ""
                return str(body[name]) + action
    return json.dumps(body, ensure_ascii=False)


def stream_of(name: str, topology: Topology) -> str:
    """
    The name of a stream or of its dead letters, checked.

    Raises:
        ConfigurationError: streams.toml has none of this name.
    """
    known = [*topology.streams, *(f"{stream}.dead" for stream in topology.streams)]
    if name not in known:
        raise ConfigurationError(f"there is no stream {name!r}{suggest(name, known)}; there are: {', '.join(known)}")
    return name


async def follow(stores: Stores, stream: str, *, since: str, count: int | None, form: Form) -> None:
    """
    Print entries as they come; of several shards, each one's in its order.

    Args:
        since: an entry's id (what comes after it), `start`, or `$`.
        count: end after so many.

    Raises:
        ConfigurationError: `since` is none of these.
        Unavailable: Redis cannot be reached.
    """
    if not re.fullmatch(r"start|\$|\d+(-\d+)?", since):
        raise ConfigurationError(f"--from {since!r} is no entry's id, `start` or `$`")
    pages: asyncio.Queue[list[Entry]] = asyncio.Queue(maxsize=1)
    async with asyncio.TaskGroup() as reading:
        readers = [reading.create_task(_read(store, stream, since, count, pages)) for store in stores]
        left = count
        while left is None or left > 0:
            found = (await pages.get())[:left]
            _print(form, found)
            left = None if left is None else left - len(found)
        for reader in readers:
            reader.cancel()


async def _read(store: Store, stream: str, since: str, count: int | None, pages: asyncio.Queue[list[Entry]]) -> None:
    name = store.keys.dead(stream.removesuffix(".dead")) if stream.endswith(".dead") else store.keys.stream(stream)
    follower = store.follower()
    try:
        last = await _last(store, name) if since == "$" else "0-0" if since == "start" else since
        while True:
            for _, found in await follower.read({name: last}, _BLOCK_MS, count=min(count or _PAGE, _PAGE)):
                last = found[-1][0]
                await pages.put(found)
    finally:
        await follower.close()


async def _last(store: Store, name: str) -> str:
    """Now, as an id: unlike `$` it loses nothing between two reads."""
    newest = entries(await store.command("XREVRANGE", name, "+", "-", "COUNT", 1))
    return newest[0][0] if newest else "0-0"


def _print(form: Form, found: Sequence[Entry]) -> None:
    for id, fields in found:
        sys.stdout.write(form.entry(id, fields) + "\n")
    sys.stdout.flush()
