"""
The network between one process and Redis, with weather: answers get lost, calls come twice, late, or never.

Every call of a script that Redis has executed is told to `observe`, in the order of execution, whoever made it and
whether or not its answer reached anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Any, NamedTuple

import msgspec

from ingress import append, waiting
from streams import doors, index, sieve, turns, watch
from streams.connection import Argument, Store
from streams.erasure import rewriting, traces
from streams.errors import Unavailable
from streams.scripts import Script


class Weather(Enum):
    """What becomes of a call."""

    CLEAR = "executed, and answered"
    TWICE = "executed; the answer was lost; connection.py repeated it and got the second answer"
    COPIED = "executed and answered; a first copy is still under way and comes later"
    LOST = "executed; no answer came"
    HELD = "no answer came; it is executed later"
    NEVER = "no answer came, and it was never executed"


class Call(NamedTuple):
    """One call of a script."""

    name: str
    script: Script
    keys: tuple[str, ...]
    args: tuple[Argument, ...]

    def told(self, index: int = 0) -> Any:
        """An argument that is msgpack."""
        return msgspec.msgpack.decode(self.args[index])

    def ended(self) -> Iterator[dict[str, Any]]:
        """The turns of a settle; a write is its key, ms, value; an output its stream, whether it answers, its entry."""
        rest = iter([arg.decode() if isinstance(arg, bytes) else str(arg) for arg in self.args[11:]])
        counts, more = self.told(9)
        more = dict(more)
        for number in range(1, len(counts) // 5 + 1):
            ids, writes, outputs, answers, _ = counts[5 * number - 5 : 5 * number]
            key, token = islice(rest, 2)
            turn: dict[str, Any] = {"key": key, "token": token, "ids": list(islice(rest, ids))}
            turn["writes"] = [tuple(islice(rest, 3)) for _ in range(writes)]
            turn["outputs"] = [(*islice(rest, 2), tuple(islice(rest, 4))) for _ in range(outputs)]
            turn["answer"] = tuple(islice(rest, 2 * answers))
            yield turn | more.get(number, {})
        assert next(rest, None) is None, "settle is told more than its turns"


Observe = Callable[[Call, Any], None]


class Network:
    """All wires of one story."""

    def __init__(self, observe: Observe) -> None:
        self.observe = observe
        self.weather = Weather.CLEAR
        """Of the next call; then it is clear again."""
        self.under_way: list[tuple[Wire, Call]] = []
        # Looked up at each story: a mutation puts another script in the place of one of these.
        scripts = {
            "take": turns._TAKE, "settle": turns._SETTLE, "beat": turns._BEAT, "open": turns._OPEN,
            "sweep": watch._SWEEP, "claim": doors._CLAIM, "release": doors._RELEASE,
            "append": append._APPEND, "withdraw": waiting._WITHDRAW,
            "erase": traces._ERASE, "sift": sieve._SIFT, "wipe": traces._WIPE,
            "copy": rewriting._COPY, "swap": rewriting._SWAP, "unlist": index._UNLIST,
        }  # fmt: skip
        self.names = {script.sha: name for name, script in scripts.items()}

    async def arrive(self, which: int) -> str:
        """One of the last calls that were under way comes after all, and nobody waits for its answer."""
        wire, call = self.under_way.pop(-1 - which % min(4, len(self.under_way)))
        await wire.execute(call)
        return call.name


class Wire(Store):
    """A store of one process."""

    network: Network

    async def run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument] = (),
        *,
        silence: float | None = None,
        then: Sequence[Argument] | None = None,
    ) -> Any:
        assert then is None, "no story waits for a disk or a replica"
        call = Call(self.network.names[script.sha], script, tuple(keys), tuple(args))
        weather, self.network.weather = self.network.weather, Weather.CLEAR
        if weather in (Weather.COPIED, Weather.HELD):
            self.network.under_way.append((self, call))
        if weather is Weather.TWICE:
            await self.execute(call)
        if weather in (Weather.HELD, Weather.NEVER):
            raise Unavailable(weather.value, maybe_written=True)
        reply = await self.execute(call)
        if weather is Weather.LOST:
            raise Unavailable(weather.value, maybe_written=True)
        return reply

    async def execute(self, call: Call) -> Any:
        reply = await super().run(call.script, call.keys, call.args)
        self.network.observe(call, reply)
        return reply
