"""
`cauce top`: the pipeline as it goes, a frame a second, until somebody has seen enough.

Knows when to look, at what, and the keys of a terminal; frame.py draws.  Redis may go away meanwhile: it says so, shows
what it saw last, and goes on trying.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import datetime

import msgspec
from rich.console import Console
from rich.live import Live

from processors.egress import breaker as breakers
from streams.commands.counters import Counted, Counters
from streams.commands.frame import Frame, OfGroup, Stream, Webhook, draw
from streams.commands.sheet import sheet
from streams.errors import Unavailable
from streams.masking import Mask
from streams.pulse import Finger, Pulse
from streams.rates import Meter
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

EVERY = 1.0
"""Seconds between two frames."""

PATIENCE = 2.0
"""Seconds that Redis has to answer before a frame says that it does not."""

HINT = "q quits"


class Looker:
    """Looks, and remembers what rates need."""

    def __init__(self, stores: Stores, topology: Topology, settings: Settings, counters: Counters, where: str) -> None:
        self._stores, self._settings, self._counters = stores, settings, counters
        self._finger = Finger(stores, topology)
        self._meter = Meter()
        self._reads = {name: group.reads for name, group in topology.groups.items()}
        self._last = Frame(at="", where=Mask().text(where))

    async def look(self) -> Frame:
        """A new frame; where Redis is away, the last one with the reason."""
        counted, seen = await asyncio.gather(self._counters.look(), self._seen())
        now = asyncio.get_running_loop().time()
        if counted is not None:
            self._last = msgspec.structs.replace(
                self._last, waiting=int(counted.waiting), rates=self._rates(counted, now)
            )
        self._last = msgspec.structs.replace(self._last, ingress=self._trouble())
        if isinstance(seen, str):
            self._last = msgspec.structs.replace(self._last, trouble=seen)
        else:
            self._last = msgspec.structs.replace(self._last, **self._about(*seen, now))
        return self._last

    async def _seen(self) -> tuple[Pulse, Webhook] | str:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._finger.feel(), await self._webhook()
        except Unavailable as error:
            return str(error)
        except TimeoutError:
            return f"Redis has not answered for {PATIENCE:g} s"

    async def _webhook(self) -> Webhook:
        if self._settings.outbound_url is None:
            return Webhook(breaker="unset")
        sight = await breakers.look(self._stores.first, self._settings.outbound_url.reveal())
        return Webhook(breaker=sight.state, wait_s=sight.remaining_seconds)

    def _trouble(self) -> str:
        return f"{self._counters.base}: {self._counters.trouble}" if self._counters.trouble else ""

    def _about(self, pulse: Pulse, webhook: Webhook, now: float) -> dict[str, object]:
        """The fields of a frame that Redis has told."""
        meter, streams, groups = self._meter, {}, {}
        for name, flow in pulse.streams.items():
            rate = meter.read(name, flow.added, now)
            streams[name] = Stream(entries=flow.entries, dead=flow.dead, per_s=rate, past=meter.past(name))
        for name, view in pulse.groups.items():
            # What has come and does not wait any more.
            rate = meter.read(f"group {name}", pulse.streams[self._reads[name]].added - view.lag, now)
            groups[name] = OfGroup(
                workers=view.workers, lag=view.lag, oldest_s=view.oldest_s, in_work=view.in_work, per_s=rate,
                past=meter.past(f"group {name}"),
            )  # fmt: skip
        return {
            "at": datetime.now(self._settings.zone).strftime("%H:%M:%S"),
            "trouble": "",
            "redis": pulse.server,
            "streams": streams,
            "groups": groups,
            "models": pulse.models,
            "webhook": webhook,
        }

    def _rates(self, counted: Counted, now: float) -> dict[str, dict[str, float]]:
        found: dict[str, dict[str, float]] = {}
        for what in ("messages", "deliveries", "tokens"):
            for kind, total in getattr(counted, what).items():
                rate = self._meter.read(f"{what} {kind}", total, now)
                if rate is not None:
                    found.setdefault(what, {})[kind] = rate
        return found


async def run(looker: Looker, *, once: bool, as_json: bool) -> None:
    """
    Show frames until `q`; where nobody sees them, or with `once`, a single one.

    Raises:
        Unavailable: with `once`, Redis cannot be reached.
    """
    # What a process logs of an outage would be written across the screen, which says it itself.
    logging.disable(logging.CRITICAL)
    try:
        if once or not (as_json or sys.stdout.isatty()):
            await _once(looker, as_json=as_json)
        elif as_json:
            async for frame in _frames(looker, asyncio.Event()):
                sys.stdout.write(_json(frame))
                sys.stdout.flush()
        else:
            await _live(looker)
    finally:
        logging.disable(logging.NOTSET)


async def _once(looker: Looker, *, as_json: bool) -> None:
    """Of two looks, for a rate is a difference."""
    await looker.look()
    await asyncio.sleep(EVERY)
    frame = await looker.look()
    if frame.trouble:
        raise Unavailable(frame.trouble)
    if as_json:
        sys.stdout.write(_json(frame))
    else:
        sheet().print(draw(frame), highlight=False)


async def _live(looker: Looker) -> None:
    quit = asyncio.Event()
    with Live(screen=True, auto_refresh=False, console=Console()) as live, _keys(quit.set):
        async for frame in _frames(looker, quit):
            live.update(draw(frame, hint=HINT), refresh=True)


async def _frames(looker: Looker, quit: asyncio.Event) -> AsyncIterator[Frame]:
    loop = asyncio.get_running_loop()
    while not quit.is_set():
        due = loop.time() + EVERY
        looking = asyncio.create_task(looker.look())
        quitting = asyncio.create_task(quit.wait())
        await asyncio.wait({looking, quitting}, return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            looking.cancel()
            return
        yield looking.result()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(quitting, max(0.0, due - loop.time()))


def _json(frame: Frame) -> str:
    return msgspec.json.encode(frame).decode() + "\n"


@contextlib.contextmanager
def _keys(quit: Callable[[], None]) -> Iterator[None]:
    """Hear single keys, where there is a keyboard."""
    if not sys.stdin.isatty() or sys.platform == "win32":
        yield
        return
    import termios
    import tty

    keyboard, loop = sys.stdin.fileno(), asyncio.get_running_loop()
    before = termios.tcgetattr(keyboard)

    def pressed() -> None:
        if b"q" in os.read(keyboard, 64).lower():
            quit()

    tty.setcbreak(keyboard)
    loop.add_reader(keyboard, pressed)
    try:
        yield
    finally:
        loop.remove_reader(keyboard)
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
