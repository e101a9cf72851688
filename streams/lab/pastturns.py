"""
The turns of the past, told from what lies on the streams.

An entry does not say with which others it was handled.  What the group appended does: a reply's id names the last entry
of its turn (`reply_<entry>`), `in_reply_to` the messages it answers, and any output carries the trace of that last
entry.  So does the group's journal, as far back as it goes.  Where neither tells, the group's window is reckoned anew
from the entries' times.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from streams.tables import Group

Id = tuple[int, int]
"""An entry's: milliseconds and sequence."""

_REPLY = re.compile(r"reply_(\d{1,18})-(\d{1,18})(?:\.s\d+)?(?:\.\d+)?")


class Came(NamedTuple):
    """An entry of one key that the group read."""

    id: Id
    chars: int = 0
    """Of its body."""
    message_id: str = ""
    hurried: bool = False
    """A request waited for it, so its turn began at once."""


class Went(NamedTuple):
    """What the group appended when a turn of this key ended."""

    cut: Id
    """The last entry of that turn."""
    at_ms: int
    names: frozenset[str] = frozenset()
    """`message_id`s that it says it answers."""
    first: Id | None = None
    """Where the group's journal tells of the turn: the first entry of it."""
    appended: bool = True
    """False: only the journal tells of it."""
    limited: bool = False
    """Messages of it were over the rate limit."""
    buried: bool = False
    """No attempt could handle it."""


class Window(NamedTuple):
    """What decides which entries of a key become one turn."""

    debounce_ms: int
    debounce_max_ms: int
    turn_max: int
    turn_chars: int

    @classmethod
    def of(cls, group: Group) -> Window:
        if group.order == "none":
            return cls(0, 0, 1, group.turn_max_chars)
        return cls(
            int(group.debounce * 1000), int(group.debounce_max * 1000), group.turn_max, group.turn_max_chars
        )  # fmt: skip

    def ends_ms(self, entries: list[Came], busy_ms: int) -> int:
        """
        When the turn that these began would start.

        Args:
            busy_ms: until then the key's turn before was in work.
        """
        first, last = entries[0].id[0], entries[-1].id[0]
        hurried = next((entry.id[0] for entry in entries if entry.hurried), None)
        ends = min(first + self.debounce_max_ms, last + self.debounce_ms)
        return max(ends if hurried is None else min(ends, hurried), busy_ms)

    def takes(self, entries: list[Came], entry: Came, busy_ms: int) -> bool:
        """Whether this entry came early enough, and there is room for it."""
        return (
            entry.id[0] <= self.ends_ms(entries, busy_ms)
            and len(entries) < self.turn_max
            and sum(each.chars for each in entries) + entry.chars <= self.turn_chars
        )


class Past(NamedTuple):
    """A turn that was."""

    entries: list[Came]
    began_ms: int
    """When it was granted, as far as can be told."""
    ended_ms: int | None
    """When what it appended was; None where nothing was."""
    limited: bool = False
    """Messages of it were over the rate limit, which a replay does not know."""
    buried: bool = False
    """No attempt could handle it."""


def turns(came: Iterable[Came], went: Iterable[Went], window: Window) -> Iterator[Past]:
    """
    The turns of one key, in order.

    Args:
        came: its entries, in the stream's order.
        went: how its turns ended, in the order of their cuts; what belongs to one turn has the same cut.
    """
    ends = _one_for_each(went)
    end = next(ends, None)
    waiting: list[Came] = []
    busy_ms = 0
    for entry in came:
        while end is not None and end.cut < entry.id:
            end = next(ends, None)  # its entry is gone, or of before
        if waiting and not _together(waiting, entry, end, window, busy_ms):
            past = _past(waiting, None, window, busy_ms)
            yield past
            waiting, busy_ms = [], past.began_ms
        waiting.append(entry)
        if end is not None and entry.id == end.cut:
            yield _past(waiting, end, window, busy_ms)
            waiting, busy_ms, end = [], end.at_ms, next(ends, None)
    if waiting:
        yield _past(waiting, None, window, busy_ms)


def _together(waiting: list[Came], entry: Came, end: Went | None, window: Window, busy_ms: int) -> bool:
    """Whether an entry is of the turn that these began."""
    if end is not None and end.first is not None and entry.id >= end.first:
        return waiting[0].id >= end.first
    # The next thing that was said answers one of these: they belong to its turn.
    answered = end is not None and any(each.message_id in end.names for each in waiting)
    return answered or window.takes(waiting, entry, busy_ms)


def _past(entries: list[Came], end: Went | None, window: Window, busy_ms: int) -> Past:
    began = window.ends_ms(entries, busy_ms)
    if end is not None:
        began = min(began, end.at_ms)
    else:
        end = Went(entries[-1].id, began, appended=False)
    ended_ms = end.at_ms if end.appended else None
    return Past(entries, max(began, entries[-1].id[0]), ended_ms, limited=end.limited, buried=end.buried)


def _one_for_each(went: Iterable[Went]) -> Iterator[Went]:
    """Outputs of one turn as one."""
    last: Went | None = None
    for each in went:
        if last is not None and each.cut == last.cut:
            first = last if last.appended or not each.appended else each
            last = first._replace(
                names=last.names | each.names, first=last.first or each.first, limited=last.limited or each.limited,
                buried=last.buried or each.buried,
            )  # fmt: skip
            continue
        if last is not None:
            yield last
        last = each
    if last is not None:
        yield last


class _Body(msgspec.Struct):
    """As much of a body as tells of which turn it is."""

    id: Any = ""
    in_reply_to: Any = ()
    message_id: Any = ""


_body = msgspec.json.Decoder(_Body)


def _read(body: bytes) -> _Body:
    try:
        return _body.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return _Body()


def cut_of(body: bytes) -> Id | None:
    """The last entry of the turn that appended this body, by its id; None where that does not tell."""
    named = _read(body).id
    match = _REPLY.fullmatch(named) if isinstance(named, str) else None
    return (int(match[1]), int(match[2])) if match else None


def names_of(body: bytes) -> frozenset[str]:
    """The messages that a reply says it answers."""
    named = _read(body).in_reply_to
    return frozenset(each for each in named if isinstance(each, str)) if isinstance(named, list) else frozenset()


def message_id_of(body: bytes) -> str:
    """A message's own id; empty where it has none."""
    named = _read(body).message_id
    return named if isinstance(named, str) else ""
