"""
A Redis whose clock stands still until a test moves it, forwards or backwards.

Time stands in a file that libfaketime hands to the server in place of the machine's; its monotonic clock stays real, as
it does where somebody sets a machine's clock.
"""

from __future__ import annotations

import glob
import os
from datetime import UTC, datetime

import pytest
from conftest import Server, named

START_MS = 1_800_000_000_123
"""2027: nobody takes it for the machine's own time."""

_PLACES = (
    "/usr/lib/*/faketime/libfaketime.so.1",
    "/usr/lib*/faketime/libfaketime.so.1",
    "/usr/local/lib/faketime/*.so.1",
)


def _libfaketime() -> str:
    found = [path for place in _PLACES for path in glob.glob(place)]
    if found:
        return found[0]
    if os.environ.get("CAUCE_REQUIRE_SERVERS"):
        pytest.fail("libfaketime is missing (apt-get install libfaketime), and CAUCE_REQUIRE_SERVERS is set")
    pytest.skip("libfaketime is not installed (apt-get install libfaketime)")


def bears_it(path: str) -> bool:
    """Whether this server starts under libfaketime: the jemalloc that Debian links Redis 8 and Valkey to does not."""
    return named(path).startswith(("redis-6.", "redis-7."))


class ClockedServer(Server):
    """A redis-server that knows the time from us alone."""

    def start(self) -> None:
        self.library = _libfaketime()
        self.set(START_MS)
        self.environment = os.environ | {
            # The C library again: jemalloc, which reads the clock while it starts, would wait for itself for ever.
            "LD_PRELOAD": f"{self.library}:libc.so.6",
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "TZ": "UTC",
        }
        super().start()

    def set(self, ms: int) -> None:
        """It is `ms` Unix milliseconds now."""
        self.now_ms = ms
        told = datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
        written = self.folder / "clock.new"
        # In the middle of the millisecond: libfaketime rounds down what it has made a fraction.
        written.write_text(f"{told}.{ms % 1000:03d}5\n", encoding="ascii")
        written.rename(self.folder / "clock")

    def pass_(self, ms: int) -> None:
        """So many milliseconds pass; a negative number sets the clock back."""
        self.set(self.now_ms + ms)
