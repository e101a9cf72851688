"""
What a run of a replay holds: the entries that were read, the turns found in them, and what came of each.

Only shapes: how they lie in a run's file is runs.py's.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

import msgspec

from streams.lab.pastturns import Id

Verdict = Literal["same", "changed", "mended", "failed", "new", "missing"]


WANTED, WAITING = 1, -1
"""Of an entry: a dead letter that is to be replayed; nobody has answered it yet, so there is nothing to compare."""


class Input(NamedTuple):
    """An entry that the group read."""

    key: str
    """The turn's: the person, or where the group has no order the entry itself, by its id and its person."""
    ms: int
    seq: int
    person: str
    type: str
    body: bytes
    v: str
    trace: str
    hurried: bool = False
    origin: str | None = None
    mark: int = 0
    """WANTED or WAITING."""
    turn: str | None = None
    """Of what was carried here: in which turn it was there, as a `Label` says it."""
    only: str = ""
    """Of what came back from the dead letters: the group for which."""

    @property
    def id(self) -> str:
        return f"{self.ms}-{self.seq}"


class Output(NamedTuple):
    """An entry that it appended then."""

    stream: str
    ms: int
    seq: int
    key: str
    type: str
    body: bytes
    v: str = "1"
    trace: str = ""
    cut: Id | None = None
    """The last entry of its turn, where its body says so."""
    first: str = ""
    """The id under which it first came, where it was put back from the dead letters; else empty."""


class Ended(NamedTuple):
    """A turn that ended, as the group's journal tells."""

    first: Id
    last: Id
    at_ms: int
    limited: bool
    """Messages of it were over the rate limit."""
    buried: bool = False


class Label(NamedTuple):
    """What an entry that is carried elsewhere says of the turn in which it was: the journal stays behind."""

    group: str
    last: str
    """The id of its last entry; what is carried with it has the same label."""
    ended_ms: int
    limited: bool
    buried: bool

    @classmethod
    def of(cls, group: str, turn: Ended) -> Label:
        return cls(group, f"{turn.last[0]}-{turn.last[1]}", turn.at_ms, turn.limited, turn.buried)

    @classmethod
    def read(cls, text: str) -> Label | None:
        """None: it is none."""
        if not (match := _LABEL.fullmatch(text)):
            return None
        return cls(match[1], match[2], int(match[3]), bool(match[4]), bool(match[5]))

    def __str__(self) -> str:
        limited, buried = " limited" * self.limited, " buried" * self.buried
        return f"{self.group} {self.last} {self.ended_ms}{limited}{buried}"


_LABEL = re.compile(r"(\S{1,100}) (\d{1,15}-\d{1,18}) (\d{1,15})( limited)?( buried)?")


class Planned(NamedTuple):
    """A turn that is to be told or replayed."""

    number: int
    at_ms: int
    key: str
    first: Id
    last: Id
    ended_ms: int | None
    chosen: bool
    """It is replayed; the others are told again, for the state they left."""
    buried: bool = False
    """No attempt could handle it then."""


class Appended(msgspec.Struct, array_like=True):
    """What a turn would append now."""

    stream: str
    type: str
    key: str
    body: msgspec.Raw


class Result(NamedTuple):
    """What came of a turn that was replayed."""

    turn: int
    verdict: Verdict
    why: str
    outputs: bytes
    """`Appended`s, as JSON."""
    took_ms: float
