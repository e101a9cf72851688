"""`cauce up` as a person runs it, for the tests that need all of it."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil


class Up:
    """A running `cauce up`, and what it says."""

    def __init__(self, folder: Path, **environ: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATA_DIR")}
        self.folder = folder
        self.base = ""
        """Where its ingress is, once a test has read it."""
        self.environ = {**clean, "INGRESS_PORT": "0", "NO_COLOR": "1", "MODEL": "echo", **environ}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", "up"], cwd=folder, env=self.environ, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.said: list[str] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._lines.put(line)
        self._lines.put(None)

    def until(self, pattern: str) -> str:
        """The next line that matches."""
        while (line := self._lines.get(timeout=60)) is not None:
            self.said.append(line)
            if re.search(pattern, line):
                return line
        raise AssertionError(f"it never said {pattern!r}, but:\n{''.join(self.said)}")

    def end(self) -> int:
        """Wait for its end, and hear it out."""
        while (line := self._lines.get(timeout=60)) is not None:
            self.said.append(line)
        self.listener.join()
        return self.process.wait(timeout=60)

    def stop(self) -> None:
        """However the test ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        self.listener.join()

    def child(self, words: str) -> psutil.Process:
        """Its process with these words in its command line."""
        children = psutil.Process(self.process.pid).children()
        return next(child for child in children if words in " ".join(child.cmdline()))

    def cauce(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "streams.cli", *arguments], cwd=self.folder, env=self.environ, text=True,
            capture_output=True, timeout=60, check=False, input=given,
        )  # fmt: skip
