"""
What must hold after any crash: accepted is kept, answered once, in order, remembered as said, delivered with its id.

Pure: plain data in, violations out.  evidence.py reads the data from Redis and the sink.  The engine is the echo, whose
reply is what it answers, line by line; so every word can be followed from the client that said it to the webhook.
Stream ids compare as `connection.order` has them.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from streams.connection import order

T = TypeVar("T", "Message", "Entry", "Reply", "Delivery")


class Violation(NamedTuple):
    """One thing that must never be."""

    rule: str
    what: str


class Told(NamedTuple):
    """A reply that a request which waited for it brought back."""

    id: str
    text: str
    in_reply_to: tuple[str, ...]


@dataclass
class Message:
    """What one client said, and what it was told."""

    person: str
    id: str
    text: str
    entries: list[str] = field(default_factory=list)
    """The entry of each 2xx."""
    firsts: int = 0
    """How many of them did not call it a duplicate."""
    refused: int = 0
    """Answers that say that nothing was appended."""
    unknown: int = 0
    """No answer, or one that says that it may have been."""
    strange: list[str] = field(default_factory=list)
    """Answers that docs/http.md does not let a client expect."""
    told: list[Told] = field(default_factory=list)
    at: float = 0.0
    """Unix seconds when it was first said."""


@dataclass(frozen=True)
class Entry:
    """A message on `inbound`."""

    id: str
    person: str
    message_id: str
    text: str
    shard: int | None = None
    """Where there are several."""

    @property
    def reply_id(self) -> str:
        """What a reply is named of whose turn this is the last message, as the webhook's contract has it."""
        return f"reply_{self.id}" if self.shard is None else f"reply_{self.id}.s{self.shard}"


@dataclass(frozen=True)
class Reply:
    """A reply on `outbound`."""

    entry: str
    person: str
    id: str
    in_reply_to: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Line:
    """A message of a conversation, as it is remembered."""

    role: str
    id: str
    text: str


@dataclass(frozen=True)
class Delivery:
    """One POST to the webhook, in the order in which they came."""

    id: str
    """The header `webhook-id`."""
    person: str
    body: str
    text: str
    in_reply_to: tuple[str, ...]
    taken: bool
    """The receiver answered 2xx, whether or not that answer arrived."""
    signed: bool
    at: float = 0.0
    """Unix seconds."""


@dataclass
class Evidence:
    """All that a run has left behind."""

    said: list[Message]
    """Each person's in the order in which it was said."""
    inbound: list[Entry]
    outbound: list[Reply]
    histories: dict[str, list[Line]]
    counts: dict[str, int]
    """`message_count` of each conversation."""
    deliveries: list[Delivery]
    buried: list[str] = field(default_factory=list)
    """Dead letters: nobody's message is a poison here."""
    unsettled: list[str] = field(default_factory=list)
    """What the groups still keep of work that should be done."""
    died: list[str] = field(default_factory=list)
    """Processes that ended and that nobody had killed."""


def violations(found: Evidence) -> list[Violation]:
    """Everything that is wrong; empty where all promises were kept."""
    rules = (
        _something_happened, _taken_once, _kept, _answered_once, _in_order, _remembered, _delivered, _told, _at_rest,
    )  # fmt: skip
    return [violation for rule in rules for violation in rule(found)]


def _something_happened(found: Evidence) -> Iterator[Violation]:
    """A run in which nothing was said keeps every promise and shows nothing."""
    for name, there in (
        ("said", found.said), ("taken", [each for each in found.said if each.entries]), ("on inbound", found.inbound),
        ("on outbound", found.outbound), ("remembered", found.histories), ("delivered", found.deliveries),
    ):  # fmt: skip
        if not there:
            yield Violation("empty", f"nothing was {name}")


def _taken_once(found: Evidence) -> Iterator[Violation]:
    said = {(each.person, each.id): each for each in found.said}
    seen: set[tuple[str, str]] = set()
    for entry in found.inbound:
        key = entry.person, entry.message_id
        message = said.get(key)
        if key in seen:
            yield Violation("doubled", f"{entry.person} {entry.message_id} is on inbound twice, again as {entry.id}")
        elif message is None:
            yield Violation("forged", f"{entry.person} {entry.message_id} is on inbound and nobody said it")
        elif message.text != entry.text:
            yield Violation("forged", f"{entry.person} {entry.message_id} is on inbound as {entry.text!r}")
        seen.add(key)


def _kept(found: Evidence) -> Iterator[Violation]:
    there = {(entry.person, entry.message_id): entry for entry in reversed(found.inbound)}
    for message in found.said:
        kept = there.get((message.person, message.id))
        if message.entries and kept is None:
            yield Violation("lost", f"{message.person} {message.id} was accepted and is not on inbound")
        if kept is not None and set(message.entries) - {kept.id}:
            yield Violation("unstable", f"{message.person} {message.id} is {kept.id}; clients heard {message.entries}")
        if kept is not None and not message.entries and not message.unknown:
            yield Violation("refused", f"{message.person} {message.id} was refused each time, and is on inbound")
        for answer in message.strange:
            yield Violation("strange", f"{message.person} {message.id} was answered {answer}")
        if message.firsts > 1:
            yield Violation("doubled", f"{message.person} {message.id} was called new {message.firsts} times")


def _answered_once(found: Evidence) -> Iterator[Violation]:
    there = {(each.person, each.message_id): each for each in found.inbound}
    answers = Counter((reply.person, id) for reply in found.outbound for id in reply.in_reply_to)
    for key in there.keys() - answers.keys():
        yield Violation("lost", f"{' '.join(key)} was never answered")
    for key, count in answers.items():
        if count > 1:
            yield Violation("doubled", f"{' '.join(key)} was answered {count} times")
        if key not in there:
            yield Violation("forged", f"{' '.join(key)} was answered and is not on inbound")
    for id, count in Counter(reply.id for reply in found.outbound).items():
        if count > 1:
            yield Violation("doubled", f"{id} is on outbound {count} times")
    for reply in found.outbound:
        answered = [there[reply.person, id] for id in reply.in_reply_to if (reply.person, id) in there]
        if reply.text != "\n".join(entry.text for entry in answered):
            yield Violation("forged", f"{reply.id} says {reply.text!r} to {[entry.text for entry in answered]}")
        if answered and reply.id != answered[-1].reply_id:
            yield Violation("unstable", f"{reply.id} is not named after its last message, {answered[-1].id}")


def _in_order(found: Evidence) -> Iterator[Violation]:
    said, taken = _by_person(found.said), _by_person(found.inbound)
    for person, entries in taken.items():
        numbers = {message.id: number for number, message in enumerate(said.get(person, []))}
        places = [numbers[entry.message_id] for entry in entries if entry.message_id in numbers]
        yield from _rising(f"what {person} said came to inbound", places)
    for person, replies in _by_person(found.outbound).items():
        ids = {entry.message_id: order(entry.id) for entry in taken.get(person, [])}
        answered = [ids[id] for reply in replies for id in reply.in_reply_to if id in ids]
        yield from _rising(f"{person} was answered", answered)
    outbound = {reply.id: number for number, reply in enumerate(found.outbound)}
    for person, deliveries in _by_person(found.deliveries).items():
        first = dict.fromkeys(each.id for each in deliveries if each.taken and each.id in outbound)
        yield from _rising(f"replies came to {person}", [outbound[id] for id in first])


def _rising(what: str, places: Sequence[Any]) -> Iterator[Violation]:
    for before, after in itertools.pairwise(places):
        if not before < after:
            yield Violation("order", f"{what} in the wrong order: {after} after {before}")


def _remembered(found: Evidence) -> Iterator[Violation]:
    """The conversation is what was said, message by message: their words, then the reply, turn after turn."""
    texts = {(each.person, each.message_id): each.text for each in found.inbound}
    answered = _by_person(found.outbound)
    for person in answered.keys() | found.histories.keys():
        expected = [
            line
            for reply in answered.get(person, [])
            for line in (
                *(Line("user", id, texts.get((person, id), "")) for id in reply.in_reply_to),
                Line("assistant", reply.id, reply.text),
            )
        ]
        remembered = found.histories.get(person, [])
        if remembered != expected:
            place = next(
                (n for n, pair in enumerate(zip(remembered, expected, strict=False)) if pair[0] != pair[1]),
                min(len(remembered), len(expected)),
            )
            yield Violation(
                "history",
                f"{person}: {len(remembered)} lines for {len(expected)}; from line {place} on "
                f"{remembered[place : place + 2]} for {expected[place : place + 2]}",
            )
        if found.counts.get(person) != len(expected):
            yield Violation("history", f"{person}: counted {found.counts.get(person)} of {len(expected)}")


def _delivered(found: Evidence) -> Iterator[Violation]:
    """At least once, and each time the same, signed; but never what a request was told."""
    replies = {reply.id: reply for reply in found.outbound}
    told = {each.id for message in found.said for each in message.told}
    for id in replies.keys() - told - {each.id for each in found.deliveries if each.taken}:
        yield Violation("undelivered", f"{id} never came to the webhook, nor to a request that waited")
    for id in told & {each.id for each in found.deliveries}:
        yield Violation("both doors", f"{id} was told to a request that waited, and came to the webhook")
    bodies: dict[str, str] = {}
    for delivery in found.deliveries:
        reply = replies.get(delivery.id)
        if reply is None:
            yield Violation("forged", f"{delivery.id} came to the webhook and is not on outbound")
        elif (delivery.person, delivery.text, delivery.in_reply_to) != (reply.person, reply.text, reply.in_reply_to):
            yield Violation("unstable", f"{delivery.id} is another reply at the webhook than on outbound")
        if not delivery.signed:
            yield Violation("forged", f"{delivery.id} came to the webhook without a valid signature")
        if bodies.setdefault(delivery.id, delivery.body) != delivery.body:
            yield Violation("unstable", f"{delivery.id} came to the webhook as different bytes")


def _told(found: Evidence) -> Iterator[Violation]:
    """Who waited for a reply was told that of their own message."""
    replies = {reply.id: reply for reply in found.outbound}
    for message in found.said:
        for told in message.told:
            reply = replies.get(told.id)
            if reply is None or reply.person != message.person or message.id not in reply.in_reply_to:
                yield Violation("forged", f"{message.person} {message.id} was told {told.id}, which is no reply to it")
            elif (told.text, told.in_reply_to) != (reply.text, reply.in_reply_to):
                yield Violation("unstable", f"{told.id} was told otherwise than it is on outbound")


def _at_rest(found: Evidence) -> Iterator[Violation]:
    for rule, what in (("buried", found.buried), ("unsettled", found.unsettled), ("died", found.died)):
        for each in what:
            yield Violation(rule, each)


def _by_person(each: Iterable[T]) -> dict[str, list[T]]:
    grouped: dict[str, list[T]] = defaultdict(list)
    for one in each:
        grouped[one.person].append(one)
    return grouped
