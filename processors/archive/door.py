"""
The async door to the archive's database: a thread of its own that has the connection, opened again when it was lost.

Knows how long one that is away is left alone, and that one which does not answer is cut off.  What is asked of it is
keeping.py's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from processors.archive.session import Away, Newer, Session, Wrong
from streams import log as logs
from streams.errors import ConfigurationError, Retry

log = logs.get("archive")

STALLED_SECONDS = 60.0
"""After which a database that neither answers nor refuses is cut off: longer than its own limit for a statement."""

LONGEST_WAIT = 15.0
"""Seconds between two attempts at reaching one that is away."""

T = TypeVar("T")


class _Line:
    """A thread, and the connection that only it uses; given up as a whole where it does not answer."""

    def __init__(self, open_session: Callable[[], Session]) -> None:
        self._open = open_session
        self._session: Session | None = None
        self._given_up = False
        self.thread = ThreadPoolExecutor(1, "archive")

    def do(self, act: Callable[[Session], T]) -> T:
        """In the thread."""
        try:
            if self._session is None and not self._given_up:
                self._session = self._open()
            if self._session is None or self._given_up:
                raise Away("the database did not answer")
            return act(self._session)
        except (Away, Wrong):
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """In the thread."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def give_up(self) -> None:
        """From outside: what it waits for fails, and it ends by itself."""
        self._given_up = True
        if (session := self._session) is not None:
            session.interrupt()
        self.thread.shutdown(wait=False)


class Door:
    """
    One connection.

    Args:
        open_session: blocks.
        stalled: seconds that one act may take.
        hint: what it means to others that it is away.
    """

    def __init__(
        self,
        open_session: Callable[[], Session],
        *,
        stalled: float = STALLED_SECONDS,
        hint: str = "nothing is lost: what comes waits in Redis",
    ) -> None:
        self._open, self._stalled, self._hint = open_session, stalled, hint
        self._line = _Line(open_session)
        self._failures = 0
        self._again_at = 0.0
        self._why = ""

    async def reach(self) -> None:
        """
        Open it now, or say that it is away.

        Raises:
            ConfigurationError: a newer release has made its tables, or its library is missing.
        """
        try:
            await self.ask(lambda _session: None, within=STALLED_SECONDS)
        except Newer as error:
            raise ConfigurationError(str(error)) from None
        except (Away, Wrong):
            pass  # it has been said

    async def kept(self, act: Callable[[Session], T]) -> T:
        """As `ask`; raises Retry, which counts no attempt, where it is the database's fault."""
        try:
            return await self.ask(act)
        except (Away, Wrong) as error:
            raise Retry(str(error), after=max(0.1, self._again_at - time.monotonic()), counted=False) from None

    async def ask(self, act: Callable[[Session], T], *, within: float | None = None) -> T:
        """
        Have it done in the thread, one act after another.

        Raises:
            Away, Wrong: it cannot be done now; also where that was found out a moment ago.
            Unfit: it cannot be done with these values.
        """
        line, patience = self._line, self._stalled if within is None else within
        try:
            async with asyncio.timeout(patience):
                return await asyncio.get_running_loop().run_in_executor(line.thread, self._act, line, act)
        except TimeoutError:
            error = Away(f"the database has not answered for {patience:g} s")
            if line is self._line:
                line.give_up()
                self._line = _Line(self._open)
                self._lost(error)
            raise error from None

    def _act(self, line: _Line, act: Callable[[Session], T]) -> T:
        if time.monotonic() < self._again_at:
            raise Away(self._why)
        try:
            done = line.do(act)
        except (Away, Wrong) as error:
            if line is self._line:
                self._lost(error)
            raise
        self._found()
        return done

    def _lost(self, error: Away | Wrong) -> None:
        self._again_at, self._why = time.monotonic() + min(LONGEST_WAIT, 2.0**self._failures), str(error)
        self._failures += 1
        if self._failures == 1 and isinstance(error, Wrong):
            log.error("archive.away", why=self._why, hint=self._hint)
        elif self._failures == 1:
            log.warning("archive.away", why=self._why, hint=self._hint)

    def _found(self) -> None:
        if self._failures:
            log.info("archive.back")
        self._failures, self._again_at = 0, 0.0

    async def close(self) -> None:
        """What is being done ends first, unless it does not end."""
        try:
            async with asyncio.timeout(self._stalled):
                await asyncio.get_running_loop().run_in_executor(self._line.thread, self._line.hang_up)
        except TimeoutError:
            pass
        self._line.give_up()
