"""
Log lines: a constant event, facts as fields, people masked.

Everything goes through the standard library's logging, so lines of uvicorn and other libraries pass the same formatter
and the same mask.  Knows which events have a text of their own on the console, which are about single messages (info
in development, debug in production), and that what people write is never logged.  docs/logs.md lists every event.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
import traceback as tracebacks
from collections import deque
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from streams import fate
from streams.later import Later
from streams.masking import Mask, passwords
from streams.settings import Secret, Settings

TEXTS: dict[str, str] = {
    "redis.connected": "✅ Conectado a Redis: {url}",
    "service.ready": "✅ ConversationService inicializado con Redis",
    "conversation.created": "📝 Nueva conversación creada en Redis: {conversation_id}",
    "conversation.saved": "💾 Conversación guardada: {user_id} ({messages} mensajes, TTL={ttl_s}s)",
    "conversation.recalled": "📖 Conversación recuperada de Redis: {conversation_id}",
    "conversation.ttl_extended": "⏰ TTL extendido: {user_id} -> {ttl_s}s",
    "rate_limit.ok": "✅ Rate limit OK para {user_id}: {count}/{limit}",
    "rate_limit.exceeded": "⚠️ Rate limit excedido para {user_id}: {count} requests/min",
    "redis.disconnected": "✅ Redis desconectado",
    "reply.shown": "💬 {user_id} ← {message}",
}
"""What the console says instead of event and fields, where those in braces are given.  JSON lines carry all fields."""

EACH_MESSAGE = frozenset(
    {
        "conversation.created", "conversation.saved", "conversation.recalled", "conversation.ttl_extended",
        "rate_limit.ok", "message.accepted", "message.duplicate", "delivery.sent",
        "reply.shown", "call.taken", "turn.superseded",
    }
)  # fmt: skip
"""Events of every message or turn: `info` of these is debug in production."""

MOST_OF_THEM = 50
"""Lines about them in a second; more nobody reads, and they would cost more than the messages.  Debug shows all."""

SPOKEN = frozenset({"message", "text", "body", "content", "reply", "prompt", "caption"})
"""Fields that may hold what somebody wrote.  Only their length is logged; see `reply.shown`."""

ASIDE = 0.001
"""Seconds; by then the call to Redis is under way that the message is waiting for."""

KEY_VARIABLE = "CAUCE_LOG_KEY"
"""Where `cauce up` hands its processes one key, so that a wamid has the same hash in all their lines."""

trace: ContextVar[str] = ContextVar("trace", default="")
"""The W3C traceparent of what is being handled; JSON lines about it carry its trace id."""

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_COLOURS = {logging.DEBUG: "\033[2m", logging.WARNING: "\033[33m", logging.ERROR: "\033[31m"}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BARE = re.compile(r"[^\s\"'=\\]+")
_ROOT = "cauce"


class Log:
    """
    Says what happened in one part of Cauce.

    Fields are plain values; numbers of people, wamids and secrets in them are masked here, so callers need not think of
    it.  Durations end in `_s` or `_ms`.
    """

    __slots__ = ("_logger",)

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(f"{_ROOT}.{name}")

    def debug(self, event: str, /, **fields: object) -> None:
        self._say(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: object) -> None:
        if event not in EACH_MESSAGE:
            self._say(logging.INFO, event, fields)
        elif _Quiet.production:
            self._say(logging.DEBUG, event, fields)
        elif self._logger.isEnabledFor(logging.DEBUG):
            self._say(logging.INFO, event, fields)
        elif _pace.admits() and self._logger.isEnabledFor(logging.INFO):
            _aside.put(self._logger, event, fields)

    def warning(self, event: str, /, **fields: object) -> None:
        self._say(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: object) -> None:
        self._say(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: object) -> None:
        """An error with the traceback of what is being handled: for bugs, not for what was to be expected."""
        self._say(logging.ERROR, event, fields, traceback=True)

    def _say(self, level: int, event: str, fields: Mapping[str, object], *, traceback: bool = False) -> None:
        if self._logger.isEnabledFor(level):
            _aside.write()
            _write(self._logger, level, event, fields, traceback=traceback)


def _write(
    logger: logging.Logger,
    level: int,
    event: str,
    fields: Mapping[str, object],
    *,
    traceback: bool = False,
    at: float | None = None,
) -> None:
    extra, error = {"event": event, "fields": fields}, sys.exc_info() if traceback else None
    record = logger.makeRecord(logger.name, level, "", 0, event, (), error, extra=extra)
    if at is not None:
        record.created = at
    logger.handle(record)


class Out(Protocol):
    """As much of a text stream as lines need."""

    def write(self, text: str, /) -> int: ...
    def flush(self) -> None: ...
    def isatty(self) -> bool: ...


class _Quiet:
    """Set by `configure`; one process has one environment."""

    production = False


class _Pace:
    """Counts the lines of a second."""

    def __init__(self) -> None:
        self._until, self._lines = 0.0, 0

    def admits(self) -> bool:
        if (now := time.monotonic()) >= self._until:
            self._until, self._lines = now + 1, 0
        self._lines += 1
        if self._lines == MOST_OF_THEM + 1:
            get("log").info("log.thinned", most_per_s=MOST_OF_THEM, hint="LOG_LEVEL=debug shows every line")
        return self._lines <= MOST_OF_THEM


_pace = _Pace()


class _Aside:
    """
    Lines about single messages, written a moment later: a message is not to wait while something is said of it.

    Before any other line, so that all stand in their order, and when the process ends by itself.
    """

    def __init__(self) -> None:
        self._lines: deque[tuple[logging.Logger, str, Mapping[str, object], float, str]] = deque()
        self._later = Later(self.write, ASIDE)

    def put(self, logger: logging.Logger, event: str, fields: Mapping[str, object]) -> None:
        self._lines.append((logger, event, fields, time.time(), trace.get()))
        self._later.ask()

    def write(self) -> None:
        while self._lines:
            logger, event, fields, at, traceparent = self._lines.popleft()
            said = trace.set(traceparent)
            _write(logger, logging.INFO, event, fields, at=at)
            trace.reset(said)


_aside = _Aside()


def flush() -> None:
    """Write what was put aside."""
    _aside.write()


def get(name: str) -> Log:
    """The log of a part of Cauce: `get("inference")`."""
    return Log(name)


def plainly(why: str, blame: str) -> str:
    """Why something failed: in production by `blame`, where there is one, for `why` may quote what somebody wrote."""
    return blame or why if _Quiet.production else why


def configure(settings: Settings, stream: Out | None = None, *, digest_key: bytes | None = None) -> None:
    """
    Send every log line of this process, ours and libraries', to `stream` (standard error).

    Args:
        digest_key: keys the hashes that stand for wamids; None takes KEY_VARIABLE, else makes one.
    """
    flush()
    _Quiet.production = settings.production
    out: Out = stream or sys.stderr
    mask = Mask(digest_key or os.environ.get(KEY_VARIABLE, "").encode() or None, _values_to_hide(settings))
    handler = logging.StreamHandler(out)
    json_lines = settings.log_format == "json"
    handler.setFormatter(JsonLines(mask) if json_lines else Console(mask, colour=out.isatty()))
    level = _LEVELS[settings.log_level]
    logging.basicConfig(handlers=[handler], level=max(level, logging.INFO), force=True)
    logging.getLogger(_ROOT).setLevel(level)
    # A library's own lines about each request or byte drown ours.
    for name in ("asyncio", "aiohttp.access", "httpx", "urllib3", "huggingface_hub", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


def _values_to_hide(settings: Settings) -> Iterator[str]:
    for field in msgspec.structs.fields(settings):
        value = getattr(settings, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, Secret):
                # An address is worth reading, but for what is secret in it.
                address = field.name in ("redis_url", "outbound_url", "database_url")
                yield from passwords(item.reveal()) if address else (item.reveal(),)


class _Masking(logging.Formatter):
    """What both forms share: a record's event and fields, masked."""

    def __init__(self, mask: Mask) -> None:
        super().__init__()
        self._mask = mask

    def parts(self, record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
        event = getattr(record, "event", None)
        if event is None:
            return "log", {"message": self._mask.text(record.getMessage())}
        return event, dict(self._fields(event, getattr(record, "fields", {})))

    def _fields(self, event: str, fields: Mapping[str, object]) -> Iterator[tuple[str, object]]:
        for name, value in fields.items():
            if name not in SPOKEN:
                yield name, self._mask.field(name, value)
            elif event == "reply.shown" and not _Quiet.production:
                yield name, value if isinstance(value, str) else str(value)
            elif value is not None:
                yield f"{name}_chars", len(str(value))

    def traceback(self, record: logging.LogRecord) -> str:
        if not record.exc_info or record.exc_info[1] is None:
            return ""
        error = record.exc_info[1]
        return self._mask.text(_unquoting(error) if _Quiet.production else self.formatException(record.exc_info))

    @staticmethod
    def source(record: logging.LogRecord) -> str:
        return record.name.removeprefix(_ROOT + ".")


class Console(_Masking):
    """For people: one line, the event's own text where it has one."""

    def __init__(self, mask: Mask, *, colour: bool) -> None:
        super().__init__(mask)
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self.parts(record)
        if event == "log":
            text = fields["message"]
        else:
            text = self._sentence(event, fields)
        at = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        line = f"{at} {record.levelname.lower():7} {self.source(record)}: {_safe(text)}"
        if traceback := self.traceback(record):
            line += "\n" + _safe(traceback, keep="\n\t")
        colour = _COLOURS.get(record.levelno, "") if self._colour else ""
        return f"{colour}{line}\033[0m" if colour else line

    @staticmethod
    def _sentence(event: str, fields: dict[str, Any]) -> str:
        text = TEXTS.get(event)
        if text and set(re.findall(r"{(\w+)}", text)) <= fields.keys():
            return text.format_map(fields)
        return " ".join([event, *(f"{name}={_value(value)}" for name, value in fields.items())])


class JsonLines(_Masking):
    """For machines: one JSON object on a line, fields beside `time`, `level`, `logger` and `event`."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = self.parts(record)
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": self.source(record),
            "event": event,
        }
        line = {**fields, **line} if fields.keys() & line.keys() else {**line, **fields}
        if traceparent := trace.get():
            line["trace"] = traceparent[3:35]
        if traceback := self.traceback(record):
            line["traceback"] = traceback
        return json.dumps(line, ensure_ascii=False, default=str)


def _unquoting(error: BaseException, shown: frozenset[int] = frozenset()) -> str:
    """A traceback without the texts of errors that are not ours, which may quote what somebody wrote."""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    earlier = [before] if before else []
    if isinstance(error, BaseExceptionGroup):
        earlier += error.exceptions
    shown |= {id(error)}
    lines = [f"{_unquoting(each, shown)}\n\nAnd then:\n\n" for each in earlier if id(each) not in shown]
    lines += ["Traceback (most recent call last):\n", *tracebacks.format_tb(error.__traceback__)]
    return "".join(lines) + (fate.blame(error) or fate.why(error))


def _safe(text: str, keep: str = "") -> str:
    """Without control characters: a value from outside must not forge a line or move a terminal's cursor."""
    if not keep:
        text = text.replace("\n", "\\n").replace("\t", " ")
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, str) and _BARE.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
