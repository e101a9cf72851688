"""
What happens, by minute, hour and day: messages, people, replies, actions, the time to a reply, what Meta says.

A group reads one stream, so it is three handlers, each a table of streams.toml that counts under one name.  They are
handlers like anybody's, and the example of some: messages in, what to count of each out; docs/analytics.md says what
each name means.  Once for each message, whoever crashes, because counts are committed with the acknowledgement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeVar

from streams import Effects, Message, Tally, Turn, handler
from streams.errors import Malformed
from streams.wire import Inbound, Reply, Status

T = TypeVar("T")

_SOURCES = {
    "cache": "cache_hits", "notice": "rate_limited", "fallback": "fallbacks", "failure": "failures",
    "staff": "by_staff",
}  # fmt: skip
"""Replies that are counted once more, by what they come from; the others are the model's."""

_ANSWER = re.compile(r"reply_(\d{1,15})-\d+(?:\.s\d+)?")
"""The first reply of a turn: its id says which message it answers, and that one's when it came."""

_CONVERSATION = re.compile(r"conv_.*_(\d{9,11})", re.DOTALL)
"""A conversation's id says when it began."""


@handler(batch=True)
async def messages(turns: list[Turn]) -> list[Effects | None]:
    """Of `inbound`: who wrote."""
    return [_counted(turn, Inbound, _said) for turn in turns]


@handler(batch=True)
async def replies(turns: list[Turn]) -> list[Effects | None]:
    """Of `outbound`: what was said, and how long after."""
    return [_counted(turn, Reply, _answered) for turn in turns]


@handler(batch=True)
async def statuses(turns: list[Turn]) -> list[Effects | None]:
    """Of `statuses`: what Meta says became of a reply."""
    return [_counted(turn, Status, _told) for turn in turns]


def _counted(turn: Turn, shape: type[T], count: Callable[[Message, T], Iterator[Tally]]) -> Effects | None:
    """A turn without order is one message; whatever is none of ours is left to those who have to answer it."""
    [message] = turn.messages
    try:
        return Effects(tallies=list(count(message, message.decode(shape))))
    except Malformed:
        return None


def _said(message: Message, said: Inbound) -> Iterator[Tally]:
    if said.role == "user":
        yield Tally(at_ms=message.at_ms, counts={"messages_in": 1}, distinct={"people": said.user_id})
    else:
        yield Tally(at_ms=message.at_ms, counts={"told": 1})


def _answered(message: Message, reply: Reply) -> Iterator[Tally]:
    if reply.type == "typing":
        return
    if reply.type == "handover":
        yield Tally(at_ms=message.at_ms, counts={"handovers": 1})
    else:
        counts = {"messages_out": 1}
        answer = None if reply.source in ("staff", "notice") else _ANSWER.fullmatch(reply.id)
        if reply.source in _SOURCES:
            counts[_SOURCES[reply.source]] = 1
        if reply.action:
            counts[f"actions.{_name(reply.action)}"] = 1
        took = {"reply": message.at_ms - int(answer[1])} if answer else {}
        yield Tally(at_ms=message.at_ms, counts=counts, timings=took)
    if begun := _CONVERSATION.fullmatch(reply.conversation_id or ""):
        # Each reply says so: how many different ones say so of a day is how many began on it.
        yield Tally(at_ms=int(begun[1]) * 1000, distinct={"new_conversations": begun[0]})


def _told(message: Message, told: Status) -> Iterator[Tally]:
    counts = {f"statuses.{_name(told.status)}": 1}
    errors = told.content.get("errors")
    if told.status == "failed" and isinstance(errors, list):
        codes = {str(error.get("code")) for error in errors if isinstance(error, dict)}
        counts |= {f"failed.{_name(code)}": 1 for code in codes}
    yield Tally(at_ms=message.at_ms, counts=counts)


def _name(text: str) -> str:
    """As a name of something counted: short, and without a colon."""
    return re.sub(r"[:\x00-\x1f]", "_", text)[:60]
