"""
What is said to Redis, and what becomes of it when no answer comes.

Which server it is said to is for routes.py to know, how it is written and read for line.py.  Commands go out as bytes
and replies come back as Redis sent them: no callbacks, no decoding.  What is lost on the way is repeated here, the same
call with the same arguments, so every script and every command given to a `Store` must be safe to repeat.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    NoScriptError,
    RedisError,
    ResponseError,
)
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import TimeoutError as TooSlow

from streams import metrics
from streams.errors import Unavailable
from streams.keys import Keys
from streams.line import Argument, Line
from streams.outage import LOST_AFTER, Outage
from streams.routes import Connections, Direct, Route
from streams.scripts import Script
from streams.trouble import AWAY, FULL, READ_ONLY, code_of

PAGE = 500
"""Keys that Redis looks at for one answer to SCAN."""

SILENCE = 5.0
"""Seconds without an answer after which a connection counts as lost."""

OVERSLEPT = 1.0
"""Seconds beyond that after which it was this process that was stopped, and the time says nothing of Redis."""

_LOST = (LostConnection, TooSlow, OSError, asyncio.IncompleteReadError)
_REFUSED = ("WRONGPASS", "NOAUTH", "invalid username-password", "DB index is out of range")
"""What a server says to a connection that it will never take, however often it is tried."""


class Store:
    """
    One shard in its Redis, as the rest of Cauce sees it.

    Connections are made when first needed; a lost one is replaced.  Safe for many tasks at once.
    """

    def __init__(self, route: Route, keys: Keys, patience: float = 5.0, outage: Outage | None = None) -> None:
        self.keys = keys
        self.patience = patience
        """Seconds for which a call is repeated while Redis cannot be reached."""
        self._outage = outage or Outage()
        self._route = route
        self.void = [keys.of("void")] if route.clustered else []
        """
        On a Cluster, a key that never exists.  A call that names it besides one that does is turned away (TRYAGAIN)
        while its slot is under way.
        """

    @classmethod
    def open(cls, url: str, *, namespace: str = "", patience: float = 5.0) -> Store:
        """
        The only shard of one server; stores.py opens several, and what lies behind sentinels or in a cluster.

        Args:
            url: `redis://…`, `rediss://…` or `unix:///path/to.sock`.
            namespace: prefix of every key; its `:` is added where it is missing.
        """
        return cls(Direct(url), Keys(namespace=prefix(namespace)), patience)

    async def run(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument] = (), *, silence: float | None = None
    ) -> Any:
        """
        Run a script.  It may run more than once with the same arguments; it must make that harmless.

        Args:
            silence: seconds without an answer after which it is repeated over another connection; None: SILENCE.

        Raises:
            Unavailable: Redis cannot be reached, is full, or takes no writes.
            redis.ResponseError: the script is wrong.
        """
        return (await self._run(script, keys, args, [], silence))[0]

    async def run_and(
        self, script: Script, keys: Sequence[str], args: Sequence[Argument], then: Sequence[Argument]
    ) -> list[Any]:
        """
        Run a script, and behind it over the same connection a command that waits for what it wrote.

        Returns:
            both replies; the command's may be an error.
        """
        return await self._run(script, keys, args, [then], None)

    async def _run(
        self,
        script: Script,
        keys: Sequence[str],
        args: Sequence[Argument],
        behind: list[Sequence[Argument]],
        silence: float | None,
    ) -> list[Any]:
        command = self.calling(script, keys, args)
        try:
            return await self._repeat([command, *behind], raising=True, silence=silence, call=script.name)
        except NoScriptError:
            command = ("EVAL", script.text, *command[2:])
            return await self._repeat([command, *behind], raising=True, silence=silence, call=script.name)

    def calling(self, script: Script, keys: Sequence[str], args: Sequence[Argument] = ()) -> tuple[Argument, ...]:
        """A call of a script that Redis knows, as a command."""
        # A script touches keys that it cannot declare, and while a slot moves some may be here and some there.
        declared = [*keys, *self.void]
        return ("EVALSHA", script.sha, len(declared), *declared, *args)

    async def command(self, *args: Argument) -> Any:
        """One command that may be repeated.  Raises Unavailable, redis.ResponseError."""
        return (await self._repeat([args], raising=True))[0]

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Several such commands in one round trip; an error reply comes back in its place.  Raises Unavailable."""
        return await self._repeat(commands) if commands else []

    async def scan(self, pattern: str) -> AsyncIterator[list[bytes]]:
        """
        Names of keys that match, page by page: each once or (as SCAN has it) more often; not everybody's are text.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        cursor = b"0"
        while True:
            cursor, found = await self.command("SCAN", cursor, "MATCH", pattern, "COUNT", PAGE)
            yield found
            if cursor == b"0":
                return

    async def ping(self) -> float:
        """Seconds of one round trip.  Raises Unavailable."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        await self.command("PING")
        return loop.time() - start

    async def close(self) -> None:
        await self._route.close()

    def follower(self) -> Follower:
        """A connection of its own for blocking reads."""
        return Follower(self._route)

    async def _repeat(
        self,
        commands: Sequence[Sequence[Argument]],
        *,
        raising: bool = False,
        silence: float | None = None,
        call: str = "",
    ) -> list[Any]:
        loop = asyncio.get_running_loop()
        started, pause, maybe_written = loop.time(), 0.02, False
        call = call or str(commands[0][0])
        pool = instead = None
        trouble: Exception | None
        while True:
            until, begun = loop.time() + (silence or SILENCE), time.perf_counter()  # a loop's may count milliseconds
            try:
                pool = instead or await self._route.pool()
                line = await pool.borrow(until)
                maybe_written = True
                replies = await _exchange(pool, line, commands, until, asking=instead is not None)
                if (trouble := _trouble(replies, raising=raising)) is None:
                    metrics.redis_call(call, time.perf_counter() - begun)
                    self._heard(call, pool, replies)
                    return replies
                why = f"Redis takes no {'calls' if code_of(trouble) in AWAY else 'writes'} now: {trouble}"
            except (AuthenticationError, InvalidResponse) as error:
                raise self._lost(call, started, f"Redis refuses us: {error}") from error
            except _LOST as lost:
                trouble, why = lost, f"Redis cannot be reached: {str(lost) or type(lost).__name__}"
                if any(word in why for word in _REFUSED):
                    raise self._lost(call, started, f"Redis refuses us: {lost}") from lost
            if pool is not None:
                instead = self._route.learn(pool, trouble)
            readable = code_of(trouble) in READ_ONLY
            if loop.time() > until + OVERSLEPT:
                started = loop.time()
            if loop.time() >= started + self.patience:
                raise self._lost(call, started, why, readable=readable, maybe_written=maybe_written) from trouble
            if loop.time() >= started + LOST_AFTER:
                self._outage.fails(call, started, why, readable=readable)
            await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, 0.5)

    def _lost(
        self, call: str, since: float, why: str, *, readable: bool = False, maybe_written: bool = False
    ) -> Unavailable:
        self._outage.fails(call, since, why, readable=readable)
        return Unavailable(why, maybe_written=maybe_written, told=True)

    def _heard(self, call: str, pool: Connections, replies: list[Any]) -> None:
        refused = [each for each in replies if isinstance(each, ResponseError) and code_of(each) in READ_ONLY]
        for reply in refused:
            self._route.learn(pool, reply)  # the next call may find the new master
        if not refused:
            self._outage.works(call, writes=call == "SET")


def literally(text: str) -> str:
    """For MATCH, where some characters mean something."""
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)


def info(reply: Any) -> dict[str, str]:
    """Redis's INFO as a dict; empty where this user may not ask."""
    lines = reply.decode(errors="replace").splitlines() if isinstance(reply, bytes) else []
    return {name: value for name, _, value in (line.partition(":") for line in lines) if value}


def prefix(namespace: str) -> str:
    """A namespace as keys begin with it: `bot2` → `bot2:`."""
    return namespace if not namespace or namespace.endswith(":") else namespace + ":"


async def _exchange(
    pool: Connections, line: Line, commands: Sequence[Sequence[Argument]], until: float, *, asking: bool
) -> list[Any]:
    if asking:
        commands = [command for each in commands for command in (("ASKING",), each)]
    try:
        replies = await line.ask(commands, until)
        return replies[1::2] if asking else replies
    except BaseException:
        # Half an exchange leaves replies under way that the next user would take for its own.
        line.close()
        raise
    finally:
        pool.give_back(line)


def _trouble(replies: list[Any], *, raising: bool) -> RedisError | None:
    """
    A reply that makes it worth repeating all of them.

    Raises:
        Unavailable: no repeat will help soon.
        RedisError: any other error of the first, where errors are to be raised.
    """
    for number, reply in enumerate(replies):
        if not isinstance(reply, RedisError):
            continue
        code = code_of(reply)
        if code in AWAY or (raising and code in READ_ONLY):
            return reply
        if not raising or number > 0:
            continue  # it comes back in its place
        if code == FULL:
            raise Unavailable("Redis is full (maxmemory)", retry_after=5) from reply
        if isinstance(reply, NoPermissionError):
            raise Unavailable(f"Redis refuses us: {reply}") from reply
        raise reply
    return None


Entry = tuple[str, dict[str, bytes]]


def order(id: str) -> tuple[int, int]:
    """An entry's id as something that can be compared."""
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence)


def entries(reply: Any) -> list[Entry]:
    """`[[id, [field, value, …]], …]` as Redis sends a range → ids and fields."""
    return [
        (id.decode(), {flat[i].decode(errors="replace"): flat[i + 1] for i in range(0, len(flat), 2)})
        for id, flat in reply or []
    ]


class Follower:
    """Blocking XREAD on a connection of its own: it wakes when something is appended, and polls nothing."""

    def __init__(self, route: Route) -> None:
        self._route = route
        self._pool: Connections | None = None
        self._line: Line | None = None
        self._closed = 0
        """How often."""

    async def read(self, after: dict[str, str], block_ms: int, count: int = 1) -> list[tuple[str, list[Entry]]]:
        """
        The entries after these ids, waiting up to `block_ms` for the first.

        Raises:
            Unavailable: the connection was lost; the next call makes a new one.
        """
        found, _ = await self.read_then(after, block_ms, [], count)
        return [(name.decode(), entries(some)) for name, some in found]

    async def read_then(
        self, after: dict[str, str], block_ms: int, then: Sequence[Argument], count: int = 1
    ) -> tuple[list[tuple[bytes, list[Any]]], Any]:
        """
        The same, and a command that Redis has by then: it is carried out the moment the wait is over.

        Returns:
            by the stream's name what `entries` reads, and the command's reply: None where there was no command, or
            Redis refused it.
        """
        streams: list[Argument] = [*after.keys(), *after.values()]
        commands = [["XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *streams], *([then] if then else [])]
        try:
            until = asyncio.get_running_loop().time() + block_ms / 1000 + SILENCE
            line = await self._connected(until)
            reply, *answers = await line.ask(commands, until)
            if isinstance(reply, RedisError):
                raise reply
        except (ResponseError, InvalidResponse) as error:
            await self._leave(error)
            told = code_of(error) in AWAY | READ_ONLY
            raise Unavailable(f"Redis refuses to be followed: {error}", told=told) from error
        except _LOST as error:
            await self._leave(error)
            raise Unavailable(f"Redis cannot be reached: {error}", told=True) from error
        except BaseException:
            await self.close()
            raise
        answer = answers[0] if answers and not isinstance(answers[0], RedisError) else None
        return reply or [], answer

    async def _connected(self, until: float) -> Line:
        pool = await self._route.pool()
        line = self._line
        if pool is self._pool and line is not None and line.open:
            return line
        # Perhaps others have found that the server is no longer the one; it would be silent for ever, and not lost.
        await self.close()
        self._pool, closed = pool, self._closed
        async with asyncio.timeout_at(until):
            line = await pool.line()
        if self._closed != closed:  # meanwhile
            line.close()
            raise LostConnection("the connection was closed while it was made")
        self._line = line
        return line

    async def _leave(self, trouble: Exception) -> None:
        """The server of the next read may be another."""
        if self._pool is not None:
            self._route.learn(self._pool, trouble)
        await self.close()

    async def close(self) -> None:
        self._closed += 1
        if self._line is not None:
            self._line.close()
            self._line = None
