"""
What happened to one message, in the order in which it happened: raw facts in, a timeline out.

Pure: no Redis, no clock.  stories.py gathers the facts; the terminal (trace.py) and the ingress show the timeline.
Times are Redis's, but for `received`, which is the ingress's, and Meta's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from streams.journal import Ending

State = Literal["settled", "unread", "waiting", "in_work"]
Outcome = Literal["delivered", "unsent", "silent", "waiting", "dead", "settled", "unknown"]


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where an entry stands in a group now."""

    state: State
    due_ms: int | None = None
    """waiting: until its turn may start; negative where that is past."""
    starts: int = 0
    """Attempts so far, the one in work included; none are known of what is settled."""
    consumer: str = ""
    """in_work: whose turn it is."""


class Fare(msgspec.Struct, frozen=True, kw_only=True):
    """How an entry fared in one group."""

    group: str
    standing: Standing
    endings: list[Ending] = []
    complete: bool = True
    """False: the journal may tell more than was looked at."""
    whole: bool = True
    """The journal goes back to before this entry."""
    beside: bool = False
    """Another group answers what this one reads, so nobody waits for it."""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """What an entry left among the dead letters, if it is still there."""

    id: str
    group: str
    reason: str
    at_ms: int


class Passage(msgspec.Struct, kw_only=True):
    """One entry of a stream, with what is known of it."""

    stream: str
    id: str
    there: bool = True
    """False: it has gone from its stream; what is known of it others tell."""
    person: str = ""
    type: str = ""
    message_id: str = ""
    """The sender's; of a reply its webhook-id."""
    source: str = ""
    trace: str = ""
    received_ms: int | None = None
    repeats: int = 0
    repeated_ms: int = 0
    replayed: bool = False
    """A replay or an import has appended it, or what it was made of."""
    claimed: bool = False
    """Of a reply: a waiting HTTP request took it."""
    fares: list[Fare] = []
    letters: list[Letter] = []
    redriven: list[Passage] = []
    """As what it came back from the dead letters, the oldest first."""
    outputs: list[Passage] = []

    @property
    def at_ms(self) -> int:
        return int(self.id.partition("-")[0])


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What Meta says of a message of ours."""

    wamid: str
    status: str
    at_ms: int
    """When it was here."""
    told_ms: int | None = None
    """Meta's clock."""
    person: str = ""
    certain: str = ""
    """The reply that it says itself to be about; else time and person say so."""
    why: str = ""


class Step(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One thing that happened."""

    at_ms: int
    wait_ms: int = 0
    """Since the step before."""
    kind: str
    stream: str = ""
    group: str = ""
    entry: str = ""
    facts: dict[str, Any] = {}


class Timeline(msgspec.Struct, kw_only=True):
    """All of it."""

    entry: str
    stream: str
    person: str
    message_id: str
    type: str
    trace: str
    outcome: Outcome
    took_ms: int | None
    """From the append until the outcome; None while there is none."""
    steps: list[Step]
    gaps: list[str] = []
    """What could not be told, and why."""


def build(root: Passage, statuses: list[Status], *, now_ms: int, gaps: list[str] | None = None) -> Timeline:
    """
    Args:
        root: the message; what came of it hangs below.
        now_ms: Redis's clock.
        gaps: what whoever gathered this could not see.
    """
    steps = sorted([*_of(root, now_ms), *map(_status, statuses)], key=lambda step: step.at_ms)
    for before, step in itertools.pairwise(steps):
        step.wait_ms = step.at_ms - before.at_ms
    outcome = outcome_of(root)
    over = outcome not in ("waiting", "unknown")
    return Timeline(
        entry=root.id,
        stream=root.stream,
        person=root.person,
        message_id=root.message_id,
        type=root.type,
        trace=root.trace[3:35],
        outcome=outcome,
        took_ms=_took(root, outcome) if over else None,
        steps=steps,
        gaps=[*(gaps or []), *_gaps(root)],
    )


def every(passage: Passage) -> Iterator[Passage]:
    """A message and all that came of it."""
    yield passage
    for below in (*passage.outputs, *passage.redriven):
        yield from every(below)


def _of(passage: Passage, now_ms: int, word: str = "appended", at_ms: int = 0) -> Iterator[Step]:
    """The steps of an entry and of what came of it, each part of them in order."""

    def step(at_ms: int, kind: str, group: str = "", **facts: Any) -> Step:
        told = {name: value for name, value in facts.items() if value not in (None, "")}
        return Step(at_ms=at_ms, kind=kind, stream=passage.stream, group=group, entry=passage.id, facts=told)

    if passage.received_ms is not None and word == "appended":
        # By another clock, which may be ahead.
        yield step(min(passage.received_ms, passage.at_ms), "received", type=passage.type)
    shown = passage.message_id if word == "replied" else ""
    yield step(
        max(at_ms, passage.at_ms), word, type=passage.type if word == "replied" else "", source=passage.source, id=shown
    )
    if passage.repeats:
        yield step(passage.repeated_ms, "repeated", times=passage.repeats)
    letters = {letter.group: letter for letter in passage.letters}
    for fare in passage.fares:
        yield from _fared(fare, passage.id, letters, step)
        if (now := _now(fare.standing)) is not None:
            yield step(now_ms, now[0], fare.group, **now[1])
    for letter in letters.values():  # of which no journal tells
        yield step(letter.at_ms, "dead", letter.group, why=letter.reason, letter=letter.id)
    for output in passage.outputs:
        yield from _of(output, now_ms, "replied", _in_the_act(passage, output))
    for again in passage.redriven:
        yield from _of(again, now_ms, "redriven")


def _in_the_act(passage: Passage, output: Passage) -> int:
    """When the turn ended that appended this; 0 where it was appended while the turn was in work."""
    ends = [ending.at_ms for fare in passage.fares for ending in fare.endings]
    # Redis 6.2 looks at its clock for each write of a script.
    return next((at_ms for at_ms in ends if 0 <= at_ms - output.at_ms <= _ONE_ACT_MS), 0)


_ONE_ACT_MS = 50


def _fared(fare: Fare, id: str, letters: dict[str, Letter], step: Any) -> Iterator[Step]:
    """What one group did with an entry; a letter that it left is taken out of `letters`."""
    expected = 1
    for ending in fare.endings:
        told = ending.told
        # A turn's attempt is its first entry's; what joined it later has no history of its own.
        for lost in range(expected, told.attempt) if fare.whole and told.of[0] == id else ():
            yield step(told.at, "lost", fare.group, attempt=lost)
        messages = len(told.of) if len(told.of) > 1 else None
        yield step(told.at, "taken", fare.group, attempt=told.attempt, messages=messages)
        for note in told.notes:
            since = note.facts.get("since")  # it is about this entry of the turn, and those behind it
            if since is None or _order(id) >= _order(since):
                facts = {name: value for name, value in note.facts.items() if name != "since"}
                yield step(told.at + note.ms, note.name, fare.group, **facts)
        facts = {"why": told.why, "handled_ms": told.ms}
        if told.end == "parked":
            facts |= {"again_ms": told.wait_ms, "counted": told.counted}
        if told.end == "buried" and (letter := letters.pop(fare.group, None)):
            facts["letter"] = letter.id
        yield step(ending.at_ms, _ENDS[told.end], fare.group, **facts)
        expected = told.attempt + told.counted


_ENDS = {"settled": "committed", "parked": "parked", "buried": "dead", "superseded": "superseded"}


def _order(id: object) -> tuple[int, int]:
    milliseconds, _, sequence = str(id).partition("-")
    return (int(milliseconds), int(sequence)) if milliseconds.isdecimal() and sequence.isdecimal() else (0, 0)


def _now(standing: Standing) -> tuple[str, dict[str, Any]] | None:
    """What an entry that is not settled is waiting for."""
    if standing.state == "unread":
        return "unread", {}
    if standing.state == "waiting":
        return "waiting", {"due_ms": standing.due_ms, "attempts": standing.starts}
    if standing.state == "in_work":
        return "in_work", {"attempt": standing.starts, "worker": standing.consumer}
    return None


def _status(status: Status) -> Step:
    facts: dict[str, Any] = {"wamid": status.wamid, "matched": "by its id" if status.certain else "by time"}
    if status.told_ms is not None:
        facts["meta_ms"] = status.told_ms
    if status.why:
        facts["why"] = status.why
    return Step(at_ms=status.at_ms, kind=f"meta_{status.status}", stream="statuses", facts=facts)


def outcome_of(passage: Passage) -> Outcome:
    """What came of an entry in the end, as far as is known."""
    if _was_delivered(passage):
        return "delivered"
    again = [each for each in passage.redriven if _decides(each)]
    back = {fare.group: each for each in again for fare in each.fares}
    heeded = [fare for fare in passage.fares if not fare.beside and fare.group not in back]
    if again and not heeded:
        return outcome_of(again[-1])
    if any(fare.standing.state != "settled" for fare in heeded):
        return "waiting"
    last = [fare.endings[-1] for fare in heeded if fare.endings]
    below = [outcome_of(output) for output in passage.outputs if output.type != "typing"]
    below += map(outcome_of, back.values())
    buried = {letter.group for letter in passage.letters} & {fare.group for fare in heeded}
    if buried or any(ending.told.end == "buried" for ending in last):
        below.append("dead")
    own = _by_its_notes(passage, {note.name for ending in last for note in ending.told.notes})
    if own == "unsent":
        below.append(own)
    return next((outcome for outcome in _RANKED if outcome in below), own)


_RANKED: tuple[Outcome, ...] = ("waiting", "dead", "delivered", "unsent", "settled")
"""Of several things that came of one message, the first of these counts."""


_DELIVERED, _UNSENT = frozenset({"claimed", "posted"}), frozenset({"unsent", "left_out"})
"""What egress notes of a reply."""


def _was_delivered(passage: Passage) -> bool:
    """It has gone out, whole: whoever else reads it, and whatever egress writes of it for others, does not matter."""
    ends = [ending.told for fare in passage.fares for ending in fare.endings if ending.told.end == "settled"]
    return passage.claimed or any(note.name in _DELIVERED for told in ends for note in told.notes)


def _decides(again: Passage) -> bool:
    """Whether what came back did so for a group that is waited for, and not for one beside it."""
    # An entry that has gone does not say for whom it was; the journal of whoever had it does.
    fares = again.fares if again.there else [fare for fare in again.fares if fare.endings] or again.fares
    return any(not fare.beside for fare in fares)


def _by_its_notes(passage: Passage, notes: set[str]) -> Outcome:
    if notes & _DELIVERED:
        return "delivered"
    if notes & _UNSENT:
        return "unsent"
    if not passage.fares:
        return "unknown"
    told = any(fare.endings for fare in passage.fares)
    return "silent" if passage.stream == "inbound" and told else "settled"


def _took(root: Passage, outcome: Outcome) -> int | None:
    """Until what the outcome names: a group beside it, an archive or a new one, may settle the message days later."""
    heeded = [fare for passage in every(root) for fare in passage.fares if not fare.beside]
    ends = [ending for fare in heeded for ending in fare.endings if ending.final]
    named = [ending for ending in ends if _brought(ending, outcome)]
    return max(ending.at_ms for ending in named or ends) - root.at_ms if ends else None


def _brought(ending: Ending, outcome: Outcome) -> bool:
    if outcome == "dead":
        return ending.told.end == "buried"
    notes = {note.name for note in ending.told.notes}
    return bool(notes & (_DELIVERED if outcome == "delivered" else _UNSENT if outcome == "unsent" else frozenset()))


def _gaps(root: Passage) -> Iterator[str]:
    if root.replayed:
        yield "what it would have led to: it is of a replay or an import, which only groups with `replay = true` handle"
    for passage in every(root):
        if not passage.there:
            yield f"{passage.id} has gone from {passage.stream}"
        for fare in passage.fares:
            if fare.standing.state == "settled" and not (fare.endings and fare.endings[-1].final):
                more = "" if fare.complete else ", as far as it was read"
                yield f"the journal of {fare.group} does not tell how {passage.id} ended{more}"


def folded(timeline: Timeline) -> dict[str, Any]:
    """A timeline in a line: what matters of it, in plain values."""
    kinds = [step.kind for step in timeline.steps]
    generated = [step.facts for step in timeline.steps if step.kind == "generated"]
    retries = sum(step.kind == "parked" and step.facts.get("counted", False) for step in timeline.steps)
    meta = [kind.removeprefix("meta_") for kind in kinds if kind.startswith("meta_")]
    whole = {
        "retries": retries,
        "repeats": sum(step.facts.get("times", 0) for step in timeline.steps if step.kind == "repeated"),
        "rate_limited": "rate_limited" in kinds,
        "cached": "cached" in kinds,
        "redriven": kinds.count("redriven"),
        "model_ms": sum(facts.get("ms", 0) for facts in generated),
        "meta": meta[-1] if meta else "",
    }
    return {
        "at_ms": int(timeline.entry.partition("-")[0]), "entry": timeline.entry, "message_id": timeline.message_id,
        "type": timeline.type, "outcome": timeline.outcome, "took_ms": timeline.took_ms,
        **{name: value for name, value in whole.items() if value},
    }  # fmt: skip
