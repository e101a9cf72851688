"""
What is told of a turn once it has ended, for whoever asks later what became of a message.

settle.lua appends it, together with what it tells of, to the group's journal.  Pure.  It holds ids of entries and facts
about the handling, never who wrote nor what, so erasing a person need not touch it: numbers and ids are masked here,
and an error whose text may quote somebody is told by its kind and its place.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from streams.effects import Note, Turn
from streams.fate import Join, Park
from streams.masking import Mask

MOST_NOTES = 32
"""Of one turn; what a handler notes beyond them is left out."""

LONGEST = 200
"""Characters of a text."""

End = Literal["settled", "parked", "buried", "superseded"]


class Told(msgspec.Struct, kw_only=True):
    """How one turn ended: a line of JSON in the journal, where what is as usual is left out."""

    of: list[str]
    """Ids of the entries it ended; of one that was parked, of those that it held."""
    at: int
    """Redis's clock when it was granted, Unix milliseconds."""
    ms: int = 0
    """From then on until its handler had ended."""
    attempt: int = 1
    end: End = "settled"
    why: str = ""
    wait_ms: int = 0
    """parked: until it is due again."""
    at_door: bool = False
    """parked: due as soon as a request takes it, which may be at once."""
    counted: bool = True
    """This start was an attempt."""
    notes: list[Note] = []


class Ending(msgspec.Struct, frozen=True):
    """What a group's journal tells of one turn."""

    group: str
    at_ms: int
    """When Redis had it."""
    told: Told
    entry: str = ""
    """The journal's, in which it stands."""

    @property
    def final(self) -> bool:
        """It ended its entries; else it was given back."""
        return self.told.end in ("settled", "buried")


_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Told)
_mask = Mask()


def told(
    turn: Turn,
    ids: Sequence[str],
    *,
    bury: str | None = None,
    blame: str = "",
    park: Park | Join | None = None,
    uncounted: bool = False,
) -> bytes:
    """How a turn ends now, as a line of the journal; arguments as those of `endings.ending`."""
    # A plain dict in the shape of Told: this happens to every turn, and most have nothing to add to these.
    line: dict[str, Any] = {
        "of": ids or [message.id for message in turn.messages],
        "at": turn.now_ms,
        "ms": int((time.monotonic() - turn.began) * 1000),
    }
    if turn.attempt != 1:
        line["attempt"] = turn.attempt
    if bury is not None:
        line |= {"end": "buried", "why": _shown("why", blame or bury)}
    elif isinstance(park, Park):
        line |= {"end": "parked", "why": _shown("why", park.blame or park.why), "wait_ms": park.delay_ms}
        if park.at_door:
            line["at_door"] = True
    elif park is not None:
        line["end"] = "superseded"
    if uncounted:
        line["counted"] = False
    if turn.notes:
        line["notes"] = [(note.ms, note.name[:LONGEST], _plain(note.facts)) for note in turn.notes[:MOST_NOTES]]
        try:
            return _encode(line) + b"\n"
        except Exception:  # half an emoji in a name, say: what cannot be told must not keep a turn from its end
            del line["notes"]
    return _encode(line) + b"\n"


def read(lines: bytes) -> Iterator[Told]:
    """What `told` made, of several turns; what somebody else wrote, or a newer release, is passed over."""
    for line in lines.splitlines():
        try:
            yield _decoder.decode(line)
        except msgspec.MsgspecError:
            continue


def _plain(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value if type(value) in _PLAIN else _text(name, value) for name, value in facts.items()}


def _text(name: str, value: object) -> str:
    try:
        return _shown(name, str(value))
    except Exception as error:  # whatever a handler's own object does when it is asked
        return type(error).__name__


_PLAIN = frozenset({int, float, bool, type(None)})


@functools.lru_cache(maxsize=1024)
def _shown(name: str, text: str) -> str:
    return str(_mask.field(name, text))[:LONGEST].encode(errors="replace").decode()
