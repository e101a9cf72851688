"""
What may come over a connection before it is a request, how much of it, and how slowly.

uvicorn's HTTP/1.1 with the bounds that it leaves to a proxy in front: on the head, on what is asked ahead of the
answers, on the time in which a request has to be here and its answer read, and on the connections.  Knows no route.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Any

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from ingress.brief import Answer, Brief, Given, Short
from ingress.refusal import Refused
from ingress.whole import Whole
from streams import metrics, wire

MOST_HEADERS = 64 * 1024
"""Bytes of a request's first line and headers; the parser itself knows no limit."""

PART_COST = 32
"""Bytes that each of them counts for besides its own: many small ones cost as well."""

PIECE = 4096
"""Bytes given to the parser at once: it cannot be stopped within them, and they may hold hundreds of requests."""

AHEAD = 16
"""Requests of one connection that may wait behind the one being answered; those after them are not looked at yet."""

SHARE = 100
"""One in so many connections is closed where there are too many: looking for them costs the same for one or for all."""

_CLOSES = (b"connection", b"close")


class Protocol(HttpToolsProtocol):
    """
    One connection.

    Args:
        patience: seconds in which a request has to be here, and an answer to be read.
        most: connections of this process.
        short: who answers what the application need not see.
    """

    connections: set[Protocol]  # type: ignore[assignment]  # uvicorn's names all protocols that it has

    cycle: RequestResponseCycle | Brief  # type: ignore[assignment]

    def __init__(self, *args: Any, patience: float, most: int, short: Short, **more: Any) -> None:
        super().__init__(*args, **more)
        self._patience, self._most, self._short = patience, most, short
        self._unparsed = bytearray()
        self._cost = self._bodiless = 0
        self._arriving = False
        """A request has begun and is not all here."""
        self._due: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._last_word: Refused | None = None
        self._in_work: RequestResponseCycle | Brief | None = None
        self._brief: Brief | None = None
        """What is arriving, where the application need not see it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._whole = Whole(transport)
        self.transport = self._whole  # type: ignore[assignment]
        self.flow = self._flow = _Flow(transport)
        self._expect()
        if len(self.connections) > self._most:
            self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._due, self._stuck):
            if timer is not None:
                timer.cancel()
        self._unparsed.clear()
        self._unset_keepalive_if_required()
        # uvicorn tells the newest request only; the one in work may be one before it.
        if self._in_work is not None and not self._in_work.response_complete:
            self._in_work.disconnected = True
            self._in_work.message_event.set()
        self.pipeline.clear()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._in_work = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if len(data) <= PIECE and not self._unparsed and not self.pipeline and not self._ending():
            self._parse_piece(data)
            self._expect_the_rest()
        else:
            self._unparsed += data
            self._parse()

    def _parse(self) -> None:
        """Give the parser what is here, unless enough requests wait for their answers."""
        while self._unparsed and len(self.pipeline) < AHEAD and not self._ending():
            piece = bytes(self._unparsed[:PIECE])
            del self._unparsed[:PIECE]
            self._parse_piece(piece)
        if self._ending():
            self._unparsed.clear()
        self._flow.hold(bool(self._unparsed))
        self._expect_the_rest()

    def _parse_piece(self, piece: bytes) -> None:
        self._bodiless += len(piece)
        self._feed(piece)
        # The parser gathers a header until it ends, and would do so for ever.
        if self._bodiless > MOST_HEADERS + PIECE and not self._ending():
            self.send_400_response("the headers do not end")

    def _feed(self, data: bytes) -> None:
        """
        As uvicorn's, but who would rather speak another protocol (`Upgrade: h2c` of curl and Java) is answered in this
        one, as RFC 9110 (7.8) allows.  The parser stops behind such a head, and would take the body for the next
        request; so another one is given the head once more, without the wish.
        """
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if not self._wants_another_protocol():
                    return
                data = self._head_without_upgrade() + data[stopped.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            except httptools.HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
                return

    def on_message_begin(self) -> None:
        self._cost = self._bodiless = 0
        self._arriving = True
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._bound(len(url) + PART_COST)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(len(name) + len(value) + 2 * PART_COST)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._wants_another_protocol():
            return
        given = self._heeded()
        if given is None:
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()
        self._brief = Brief(given, list(self.server_state.default_headers), keep_alive=keep_alive)
        self.cycle = self._in_work = self._brief

    def _heeded(self) -> Given | None:
        # Who does not read its answers is for uvicorn, which waits for it.
        if self.flow.write_paused or not (self.cycle is None or self.cycle.response_complete):
            return None
        return self._short.heed(self.parser.get_method(), self.url, self.headers)

    def on_body(self, body: bytes) -> None:
        self._bodiless = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._wants_another_protocol():
            self._bodiless = 0
            self._arriving = False
            if self._due is not None:
                self._due.cancel()
                self._due = None
            super().on_message_complete()
            if self._brief is not None:
                brief, self._brief = self._brief, None
                self._answer_briefly(brief)

    def _answer_briefly(self, brief: Brief) -> None:
        body, brief.body = bytes(brief.body), bytearray()
        if self._short.take(brief.given, body, lambda said: self._answer(brief, said)):
            return
        brief.response_complete = True
        super().on_headers_complete()
        self.cycle.keep_alive &= brief.keep_alive
        super().on_body(body)
        super().on_message_complete()

    def _answer(self, brief: Brief, said: Answer) -> None:
        if brief.disconnected:
            return
        more = brief.default_headers
        if b"connection" in dict(more):  # the server ends, and says so
            brief.keep_alive = False
        elif not brief.keep_alive:
            more = [*more, _CLOSES]
        self.transport.write(said.whole(more))
        brief.response_complete = True
        if not brief.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        self._whole.flush()
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
        elif self._last_word is not None:
            self._hang_up(self._last_word)
        elif self._unparsed:
            self._parse()
            self.flow.resume_reading()

    def _wants_another_protocol(self) -> bool:
        # CONNECT stops the parser as well, with whatever head.
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _bound(self, cost: int) -> None:
        self._cost += cost
        if self._cost > MOST_HEADERS:
            raise httptools.HttpParserError("the headers are too long")

    # Time

    def _expect(self) -> None:
        """From now on the client owes us a request, or the rest of one."""
        if self._due is None and not self._ending():
            self._due = self.loop.call_later(self._patience, self._too_late)

    def _expect_the_rest(self) -> None:
        """Unless what came ended with a request, which is ours to answer, or nothing has begun since an answer."""
        if self._arriving or not (self.answering or self.timeout_keep_alive_task):
            self._expect()

    def _too_late(self) -> None:
        self._due = None
        if self._ending():
            return
        if self.answering:
            self._expect()  # the client waits for us, not we for it
        elif self._arriving and (self.cycle is None or not self.cycle.response_started or self.cycle.response_complete):
            self._hang_up(Refused(408, "request_timeout", f"the request was not here within {self._patience:g} s"))
        else:
            self._close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._abort_later()

    def resume_writing(self) -> None:
        if self._stuck is not None and not self.transport.is_closing():
            self._stuck.cancel()
            self._stuck = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self._close()

    def _abort_later(self) -> None:
        """Whoever has not read its answer by then never will; `close` would wait for that."""
        if self._stuck is None:
            self._stuck = self.loop.call_later(self._patience, self.transport.abort)

    # The end

    def send_400_response(self, msg: str) -> None:
        self._hang_up(Refused(400, "malformed_http", f"this is no HTTP request we can read: {msg}"))

    @property
    def answering(self) -> bool:
        """A request that is all here has no answer yet."""
        cycle = self.cycle
        under_way = cycle is not None and not cycle.response_complete and not cycle.more_body
        return under_way or bool(self.pipeline)

    def _ending(self) -> bool:
        return self._last_word is not None or self.transport.is_closing()

    def _hang_up(self, refused: Refused) -> None:
        """Answer with this and close, behind the answers to what was asked before."""
        self._last_word = refused
        if self.answering:
            return
        named = [(name.encode(), value.encode()) for name, value in refused.headers.items()]
        said = Answer(refused.status, [(b"content-type", b"application/json"), *named], wire.encode(refused.body))
        self.transport.write(said.whole([_CLOSES]))
        metrics.REQUESTS.labels("none", str(refused.status)).inc()
        self._close()

    def _close(self) -> None:
        self.transport.close()
        self._abort_later()

    def _make_room(self) -> None:
        """Close those whose time is up soonest; where all are being answered, this one."""
        others = self.connections - {self}
        waiting = [(timer.when(), id(each), each) for each in others if (timer := each._patient())]
        for _, _, each in heapq.nsmallest(max(1, self._most // SHARE), waiting):
            self.connections.discard(each)
            each._close()
        if len(self.connections) > self._most:
            self._hang_up(Refused(503, "busy", "there are too many connections", headers={"Retry-After": "1"}))

    def _patient(self) -> asyncio.TimerHandle | None:
        """Until when this connection may be silent; None where it is we who are."""
        if self.answering or self.transport.is_closing():
            return None
        return self.timeout_keep_alive_task or self._due


class _Flow(FlowControl):
    """Reads nothing more of a connection while what was read is not parsed."""

    _held = False

    def hold(self, held: bool) -> None:
        self._held = held
        if held:
            self.pause_reading()

    def resume_reading(self) -> None:
        if not self._held:
            super().resume_reading()
