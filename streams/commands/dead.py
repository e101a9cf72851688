"""
`cauce dead`: the dead letters at a terminal, listed, shown, put back, dropped.

Knows which letters are meant by what was typed, asks before it acts on many, and says what became of them.  What
putting back is stands in deadletters.py.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from datetime import tzinfo
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

import msgspec

from streams import deadletters
from streams.commands import entry
from streams.commands.steps import Steps
from streams.commands.tail import Form
from streams.connection import Store, order
from streams.deadletters import Letter, Redriven, Wanted
from streams.errors import ConfigurationError
from streams.moments import edge, local
from streams.stores import Stores
from streams.topology import Topology, suggest

_ID = re.compile(r"\d+-\d+")

_WHY = {
    "gone": "no longer there: put back or dropped meanwhile",
    "full": "its stream is at `max_len`; try again when the workers have caught up",
    "nobody": "no group {detail!r} reads its stream; `cauce work {detail}` makes one",
    "foreign": "nothing that was buried: it does not say for which group it is",
}


class Desk(NamedTuple):
    """Where the letters are."""

    stores: Stores
    topology: Topology
    streams: Sequence[str]
    """Those whose dead letters are looked at."""
    zone: tzinfo | None
    """Whose clock a date is told by; None: this machine's."""


class Found(NamedTuple):
    """A letter, and the shard in which it lies."""

    store: Store
    letter: Letter


class Which(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters a command line means."""

    ids: Sequence[str] = ()
    stream: str | None = None
    group: str | None = None
    reason: str | None = None
    person: str | None = None
    since: str | None = None
    until: str | None = None
    everything: bool = False

    def check(self) -> None:
        """Raises ConfigurationError: it says nothing, or ids and something else."""
        others = any([self.everything, self.group, self.reason, self.person, self.since, self.until])
        if self.ids and others:
            raise ConfigurationError("ids name their letters by themselves; leave filters and --all out")
        if not self.ids and not others and not self.stream:
            raise ConfigurationError("say which dead letters: ids as `cauce dead list` shows them, a filter, or --all")

    def wanted(self, topology: Topology, now: float, zone: tzinfo | None) -> Wanted:
        """
        Args:
            now: Redis's clock, Unix seconds.
            zone: in which a date is meant.

        Raises:
            ConfigurationError: a time or a person that is none.
        """
        return Wanted(
            group=self.group,
            reason=self.reason,
            person=None if self.person is None else entry.person("--person", self.person, topology),
            first=edge("--since", self.since, now, zone) if self.since else "-",
            last=edge("--until", self.until, now, zone) if self.until else "+",
        )


async def _meant(desk: Desk, which: Which) -> AsyncIterator[Found]:
    """All of them, a stream after the other, each shard's oldest first."""
    for id in dict.fromkeys(which.ids):
        if (found := await _one(desk, id)) is not None:
            yield found
    if which.ids:
        return
    wanted = which.wanted(desk.topology, await _now(desk), desk.zone)
    for stream in desk.streams:
        for store in desk.stores:
            async for letter in deadletters.letters(store, stream, wanted):
                yield Found(store, letter)


async def _whole_turns(desk: Desk, which: Which) -> AsyncIterator[Found]:
    """What is meant, where letters are named by their ids with all others of their turns."""
    there: set[tuple[str, str]] = set()
    more = 0
    async for store, letter in _meant(desk, which):
        group = desk.topology.groups.get(letter.group)
        alone = not which.ids or not letter.group or (group is not None and group.order == "none")
        for each in [letter] if alone else await deadletters.beside(store, letter) or [letter]:
            if (each.stream, each.id) not in there:
                there.add((each.stream, each.id))
                more += each.id not in which.ids
                yield Found(store, each)
    if which.ids and more:
        sys.stderr.write(f"with {more} more: of one turn, and answered together\n")


async def _now(desk: Desk) -> float:
    """Redis's clock, Unix seconds."""
    return float((await desk.stores.first.command("TIME"))[0])


async def _one(desk: Desk, id: str) -> Found | None:
    """The letter of this id; None, with a word about it, where there is none."""
    if not _ID.fullmatch(id):
        raise ConfigurationError(f"{id!r} is no dead letter's id; `cauce dead list` shows them")
    found: list[Found] = []
    for store in desk.stores:
        found += [Found(store, letter) for letter in await deadletters.find(store, desk.streams, id)]
    if len(found) > 1:
        names = " and ".join(sorted({f"{letter.stream}.dead" for _, letter in found}))
        raise ConfigurationError(f"{id} is {len(found)} letters, in {names}: say which with --stream, or by a filter")
    if not found:
        sys.stderr.write(f"{id}: {await _gone(desk, id)}\n")
        return None
    return found[0]


async def _gone(desk: Desk, id: str) -> str:
    for store in desk.stores:
        for stream, became in await deadletters.returned(store, desk.streams, id):
            return f"redriven, as {became} of {stream}; `cauce trace {became}` says what came of it"
    return "there is no such dead letter (any more)"


async def show_list(desk: Desk, which: Which, *, count: int, form: Form) -> int:
    """Print the newest `count` letters of each stream, oldest first.  Raises Unavailable, ConfigurationError."""
    wanted = which.wanted(desk.topology, await _now(desk), desk.zone)
    none = True
    for stream in desk.streams:
        found: list[Letter] = []
        for store in desk.stores:
            newest = deadletters.letters(store, stream, wanted, newest_first=True)
            found += await _first(count, newest)
        if found and not form.as_json:
            sys.stdout.write(f"{stream}.dead\n")
        for letter in sorted(found, key=lambda each: order(each.id))[-count:]:
            sys.stdout.write(_line(letter, form) + "\n")
        none = none and not found
    _refuse_unknown_group(desk, which, none=none)
    if none and not form.as_json:
        sys.stderr.write("no dead letters\n")
    return 0


def _refuse_unknown_group(desk: Desk, which: Which, *, none: bool) -> None:
    """
    A group that was taken out of streams.toml may have left letters; where none are, its name is a slip.

    Raises:
        ConfigurationError: it is; says which there are.
    """
    groups = desk.topology.groups
    if none and which.group is not None and which.group not in groups:
        near = suggest(which.group, groups)
        raise ConfigurationError(f"there is no group {which.group!r}{near}; there are: {', '.join(groups)}")


async def _first(count: int, letters: AsyncIterator[Letter]) -> list[Letter]:
    found: list[Letter] = []
    async for letter in letters:
        found.append(letter)
        if len(found) == count:
            break
    return found


async def show(desk: Desk, id: str, *, form: Form, raw: bool) -> int:
    """
    Print one letter whole.

    Args:
        raw: its body's bytes as they came, and nothing else.

    Returns:
        the exit status: 1 where there is no such letter.

    Raises:
        Unavailable, ConfigurationError.
    """
    found = await _one(desk, id)
    if found is None:
        return 1
    letter = found.letter
    if raw:
        sys.stdout.flush()
        sys.stdout.buffer.write(letter.field(b"body"))
    elif form.as_json:
        sys.stdout.write(_line(letter, form) + "\n")
    else:
        for name, value in _told(letter, form):
            sys.stdout.write(f"{name:<12} {value}\n")
    return 0


def _line(letter: Letter, form: Form) -> str:
    """In one line; `origin` is the entry as which it first came."""
    fields = {name.decode(errors="replace"): value for name, value in letter.fields}
    header = {name: getattr(letter, name).encode() for name in ("stream", *deadletters.HEADER)}
    return form.entry(letter.id, {**fields, **{name: value for name, value in header.items() if value}})


def _told(letter: Letter, form: Form) -> Iterator[tuple[str, str]]:
    """A letter's facts and fields, masked unless asked for."""
    yield "letter", f"{letter.id} of {letter.stream}.dead"
    yield "group", letter.group
    yield "reason", form.hide("reason", letter.reason)
    yield "attempts", letter.attempts
    yield "first", _clock(letter.first_ms, form)
    yield "last", _clock(letter.last_ms, form)
    yield "entry", letter.entry + (f", put back; at first {letter.origin}" if letter.origin != letter.entry else "")
    for name, value in letter.fields:
        if name not in (b"for", b"origin"):
            shown = name.decode(errors="replace")
            yield shown, form.hide(shown, value.decode(errors="replace"))


def _clock(ms: str, form: Form) -> str:
    return f"{local(int(ms), form.zone):%Y-%m-%d %H:%M:%S}" if ms.isdigit() else "never started"


class Verb(msgspec.Struct, frozen=True):
    """What can be done to letters."""

    done: str
    """What is said of a letter to which it was done."""
    do: Callable[[Store, Desk, str, Sequence[Sequence[str]]], Awaitable[Sequence[Redriven]]]
    """Given a stream and ids of letters, those of one turn together."""
    meant: Callable[[Desk, Which], AsyncIterator[Found]]
    """Which letters it is done to."""


async def _redrive(store: Store, desk: Desk, stream: str, turns: Sequence[Sequence[str]]) -> Sequence[Redriven]:
    topology = desk.topology
    return await deadletters.redrive(
        store, stream, turns, max_len=topology.streams[stream].max_len, told_seconds=topology.journal.keep
    )


async def _drop(store: Store, _desk: Desk, stream: str, turns: Sequence[Sequence[str]]) -> Sequence[Redriven]:
    ids = list(chain(*turns))
    return [Redriven("done" if there else "gone") for there in await deadletters.drop(store, stream, ids)]


VERBS = {"redrive": Verb("redriven", _redrive, _whole_turns), "drop": Verb("dropped", _drop, _meant)}

Meant = dict[tuple[Store, str], list[Letter]]
"""Shard and stream → letters."""


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How a command is to act."""

    form: Form
    dry_run: bool = False
    """List what is meant, and do nothing."""
    yes: bool = False
    """Do not ask."""


async def act(desk: Desk, verb: Verb, which: Which, how: How) -> int:
    """
    Do it to all letters that are meant, and say what became of them.

    Returns:
        the exit status: 1 where it was not done to all of them.

    Raises:
        Unavailable, ConfigurationError: what was done until then stays done.
    """
    which.check()
    meant: Meant = {}
    async for store, letter in verb.meant(desk, which):
        meant.setdefault((store, letter.stream), []).append(letter)
        if how.dry_run:
            sys.stdout.write(_line(letter, how.form) + "\n")
    total = sum(map(len, meant.values()))
    _refuse_unknown_group(desk, which, none=not total)
    if how.dry_run:
        sys.stderr.write(f"{total} would be {verb.done}; nothing was done\n")
        return 0
    if total and not (which.ids or how.yes or await _agreed(meant, verb)):
        sys.stderr.write("nothing was done\n")
        return 1
    return _report(await _do(desk, verb, meant), verb, how.form, missing=_missing(which, meant))


def _missing(which: Which, meant: Meant) -> int:
    """How many of the ids that were named are no letters."""
    return len(set(which.ids) - {letter.id for letters in meant.values() for letter in letters})


async def _agreed(meant: Meant, verb: Verb) -> bool:
    counts: Counter[str] = Counter()
    for (_, stream), letters in meant.items():
        counts[stream] += len(letters)
    told = ", ".join(f"{count} of {stream}.dead" for stream, count in counts.items())
    return await entry.agreed(f"{told}: to be {verb.done}?")


async def _do(desk: Desk, verb: Verb, meant: Meant) -> list[tuple[str, Redriven]]:
    became: list[tuple[str, Redriven]] = []
    with Steps().measured(verb.done, total=sum(map(len, meant.values()))) as advance:
        for (store, stream), letters in meant.items():
            for turns in _calls(letters):
                batch = list(chain(*turns))
                became += zip(batch, await verb.do(store, desk, stream, turns), strict=True)
                advance(len(batch))
    return became


def _calls(letters: Sequence[Letter]) -> Iterator[list[list[str]]]:
    """The ids of letters, oldest first, turn by turn: `deadletters.MOST` a call, and no turn in two of them."""
    call: list[list[str]] = []
    for _, turn in groupby(sorted(letters, key=lambda each: order(each.id)), key=attrgetter("turn")):
        ids = [letter.id for letter in turn]
        if call and sum(map(len, call)) + len(ids) > deadletters.MOST:
            yield call
            call = []
        call.append(ids)
    if call:
        yield call


def _report(became: list[tuple[str, Redriven]], verb: Verb, form: Form, *, missing: int) -> int:
    counts = Counter(each.outcome for _, each in became)
    done = counts.pop("done", 0)
    if missing:
        counts["gone"] += missing
    for id, each in became:
        if each.outcome != "done":
            sys.stderr.write(f"{id}: {_WHY[each.outcome].format(detail=each.detail)}\n")
    sys.stdout.write(json.dumps({verb.done: done, **counts}) + "\n" if form.as_json else f"{done} {verb.done}\n")
    return 1 if counts else 0
