"""
The ingress as a person at a terminal uses it: talking to the bot, posting files.

Goes in through the front door like everybody else, over HTTP; knows nothing of Redis.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from streams.errors import ConfigurationError
from streams.settings import Settings


class Answer(msgspec.Struct):
    """What the ingress said."""

    status: int
    body: Any

    @property
    def good(self) -> bool:
        return 200 <= self.status < 300


class Ingress:
    """The front door at `base`, with the first of our tokens where there is one."""

    def __init__(self, settings: Settings, base: str) -> None:
        self.base = base
        self._headers = {"Content-Type": "application/json"}
        if settings.ingress_tokens:
            self._headers["Authorization"] = f"Bearer {settings.ingress_tokens[0].reveal()}"

    def post(self, path: str, body: bytes, wait: int | None = None) -> Answer:
        """
        Args:
            wait: seconds to wait for the reply.

        Raises:
            ConfigurationError: nothing answers there.
        """
        if not self.base.startswith(("http://", "https://")):
            raise ConfigurationError(f"--url {self.base!r} is no http:// or https:// address")
        headers = {**self._headers, **({"Prefer": f"wait={wait}"} if wait else {})}
        request = urllib.request.Request(self.base + path, data=body, headers=headers)  # noqa: S310 - checked above
        try:
            with urllib.request.urlopen(request, timeout=(wait or 0) + 15) as answer:  # noqa: S310 - checked above
                return Answer(answer.status, _parsed(answer.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _parsed(error.read()))
        except (OSError, ValueError) as error:
            why = getattr(error, "reason", None) or error
            hint = "start `cauce up`, or pass --url"
            raise ConfigurationError(f"nothing answers at {self.base} ({why}): {hint}") from None


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return content.decode(errors="replace")


def chat(ingress: Ingress, user: str | None, wait: int) -> int:
    """One line, one reply, until there are no more lines; returns the exit status."""
    user = user or f"terminal-{_login()}"
    talking = sys.stdin.isatty()
    if talking:
        sys.stdout.write(f"You are {user}.  An empty line ends it.\n")
    while line := _line("» " if talking else ""):
        body = json.dumps({"user_id": user, "message": line}, ensure_ascii=False).encode()
        answer = ingress.post("/chat", body, wait)
        sys.stdout.write(_reply(answer) + "\n")
        sys.stdout.flush()
        if not answer.good and not talking:
            return 1
    return 0


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "you"


def _line(prompt: str) -> str:
    """The next line that says something; empty at the end, and for an empty line typed by a person."""
    with contextlib.suppress(EOFError):
        while True:
            line = input(prompt).strip()
            if line or prompt:
                return line
    return ""


def _reply(answer: Answer) -> str:
    body = answer.body if isinstance(answer.body, dict) else {}
    if body.get("reply"):
        action = f"   [{body['action']}]" if body.get("action") else ""
        return str(body["reply"]) + action
    if not answer.good:
        return f"({answer.status} {body.get('error', '')}: {body.get('detail', answer.body)})"
    return {
        "accepted": "(accepted, but not answered in time; `cauce tail outbound` will show the reply)",
        "merged": "(answered together with a later message)",
        "paused": "(a human has taken over this conversation; the bot stays silent)",
        "delivered": "(the reply went to the webhook)",
    }.get(str(body.get("status")), f"({body.get('status', 'no reply')})")


def send(ingress: Ingress, files: Sequence[str], wait: int | None) -> int:
    """
    Post each file and print each answer; returns the exit status.

    Raises:
        ConfigurationError: a file is not there or is no JSON, or nothing answers.
    """
    payloads = [(name, _read(name)) for name in files]
    refused = False
    for name, body in payloads:
        path = _path(name, body)
        answer = ingress.post(path, body, wait if path == "/chat" else None)
        refused |= not answer.good
        shown = answer.body if isinstance(answer.body, str) else json.dumps(answer.body, ensure_ascii=False)
        sys.stdout.write(f"{name} → {path}: {answer.status} {shown}\n")
    return 1 if refused else 0


def _read(name: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror or error}") from None


def _path(name: str, body: bytes) -> str:
    try:
        content = json.loads(body)
    except ValueError as error:
        raise ConfigurationError(f"{name}: no JSON: {error}") from None
    return "/chat" if isinstance(content, dict) and {"user_id", "message"} <= content.keys() else "/whatsapp"
