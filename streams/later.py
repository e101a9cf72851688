"""
Something that is done a moment from now, however often it is asked for meanwhile: what a message need not wait for.

Where no event loop runs it is done at once, and when the process ends by itself it is done then.  Knows not what.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from contextvars import Context


class Later:
    """
    Args:
        act: may be called though nothing was asked for.
    """

    def __init__(self, act: Callable[[], None], seconds: float) -> None:
        self._act, self.seconds = act, seconds
        self._loop: asyncio.AbstractEventLoop | None = None
        """The one that is going to."""
        atexit.register(self.now)

    def ask(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.now()
            return
        if loop is not self._loop:
            self._loop = loop
            loop.call_later(self.seconds, self.now, context=Context())

    def now(self) -> None:
        self._loop = None
        self._act()
