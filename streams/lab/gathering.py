"""
A range of the log, gathered into a run: what is to be replayed, what was said before it, what was answered.

From then on the run needs no Redis.  Of a conversation so much is read as its state can rest on: back to a silence that
no state outlives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from streams.connection import order
from streams.deadletters import Letter, Wanted
from streams.lab.logbook import File, Logged, Shard, Unsettled
from streams.lab.pastturns import Id
from streams.lab.replayed import WAITING, WANTED, Ended, Input, Output
from streams.lab.runs import Run
from streams.tables import Group

BATCH = 1000
"""Entries of one transaction."""

SAME_MS = 1000
"""Within which what a turn appended lies from what the journal says of its end."""

Step = Callable[[int], None]
"""Told how many more have been read."""


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be replayed."""

    first: str
    """An id, or milliseconds."""
    last: str
    people: frozenset[str] = frozenset()
    """Only of these; empty: of all."""
    dead: bool = False
    """Only what was buried."""

    def holds(self, at: tuple[int, int]) -> bool:
        first, last = _bound(self.first, 0), _bound(self.last, 1 << 62)
        return first <= at <= last

    @property
    def backwards(self) -> bool:
        """It ends before it begins."""
        return _bound(self.last, 1 << 62) < _bound(self.first, 0)

    def of(self, key: str) -> bool:
        return not self.people or key in self.people


def _bound(text: str, seq: int) -> tuple[int, int]:
    return order(text) if "-" in text else (int(text), seq)


def _as_it_was(letter: Letter) -> Logged:
    """A dead letter as the entry that it was."""
    return Logged(letter.stream, letter.entry, {name.decode(errors="replace"): value for name, value in letter.fields})


class Gathering:
    """
    Args:
        silence_ms: a person who was silent for so long left no state; None: all that there is has to be read.
    """

    def __init__(self, run: Run, group: Group, asked: Range, *, silence_ms: int | None, step: Step) -> None:
        self._run, self._group, self._asked, self._step = run, group, asked, step
        self._silence_ms = silence_ms
        self._ends: dict[str, tuple[Id, Id]] = {}
        """Key → the first and the last that were read of it."""
        self._asked_last: dict[str, Id] = {}
        """Key → the last of those that are to be replayed and were settled."""
        self._begins: dict[str, int] = {}
        """Stream → the time before which retention has left nothing of it."""
        self._unsettled = Unsettled(None, set())
        self._inputs: list[Input] = []
        self._outputs: list[Output] = []

    async def from_redis(self, log: Sequence[Shard], *, alone: bool = False) -> None:
        """
        Args:
            alone: nothing but what lies in the range.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        begins = 0
        for shard in log:
            self._begins = {each: await shard.begins_ms(each) for each in (self._group.reads, *self._group.writes)}
            begins = max(begins, *self._begins.values())
            self._unsettled = await shard.unsettled(self._group)
            earlier, self._ends, self._asked_last = self._ends, {}, {}
            first, last = await self._letters(shard) if self._asked.dead else (self._asked.first, self._asked.last)
            if not alone:
                await self._around(shard, first, last)
            elif not self._asked.dead:
                async for logged in shard.read(self._group.reads, first, last):
                    self._take(logged)
            self._ends |= earlier
        self._flush()
        self._run.forget_copies()
        self._tell_what_is_cut(begins)

    async def _letters(self, shard: Shard) -> tuple[str, str]:
        """What the group buried in the range; from where to where these entries lie."""
        wanted = Wanted(group=self._group.name, first=self._asked.first, last=self._asked.last)
        async for letter in shard.letters(self._group.reads, wanted):
            self._take(_as_it_was(letter), WANTED)
        ends = self._ends.values()
        return str(min((first[0] for first, _ in ends), default=0)), str(max((last[0] for _, last in ends), default=0))

    async def _around(self, shard: Shard, first: str, last: str) -> None:
        """The range, with what was said before it and what was answered."""
        group, asked, ours = self._group, self._asked, self._ends
        # Behind its end: what completes a turn that began in it, and what was answered late.
        tail = str(_bound(last, 0)[0] + patience_ms(group))
        async for logged in shard.read(group.reads, first, tail):
            if logged.key in ours or (not asked.dead and asked.holds(logged.at)):
                self._take(logged)
        if not ours:
            return
        await self._before(shard, first)
        since = min(first for first, _ in ours.values())[0], 0
        if group.order == "key":
            tail = str(max(int(tail), await self._ended(shard, since[0], int(tail))))
        for stream in group.writes:
            async for logged in shard.read(stream, f"{since[0]}-{since[1]}", tail):
                self._answered(logged)
            if self._begins[stream] > since[0]:
                # Of what was cut a copy may be left, put back at any time since.
                async for logged in shard.read(stream, f"({tail}-{1 << 62}", "+"):
                    if logged.put_back and since <= order(logged.put_back) <= (int(tail), 1 << 62):
                        self._answered(logged)

    async def _ended(self, shard: Shard, first_ms: int, last_ms: int) -> int:
        """
        What the journal tells of these, and what else lay in the turns that reach beyond what was read.

        Until `last_ms`, and after an outage until the last of those that are to be replayed has ended.  Returns when.
        """
        found, missing, until_ms = list[Ended](), set[Id](), last_ms
        edges, open = {id for ends in self._ends.values() for id in ends}, set(self._asked_last.values())
        async for ended, of in shard.ended(self._group, str(first_ms), "+"):
            if ended.at_ms > last_ms and not open:
                break
            open.difference_update(of)
            found.append(ended)
            if not edges.isdisjoint(of):
                missing.update(of)
            if len(found) == BATCH:
                self._keep_ended(shard, found)
            until_ms = max(until_ms, ended.at_ms + SAME_MS)
        self._keep_ended(shard, found)
        await self._complete(shard, missing)
        return until_ms

    async def _complete(self, shard: Shard, missing: set[Id]) -> None:
        """Entries of turns that reach beyond what was read, some of which are there."""
        there = dict(self._ends)
        for ms, seq in sorted(missing):
            async for logged in shard.read(self._group.reads, f"{ms}-{seq}", f"{ms}-{seq}"):
                first, last = there.get(logged.key, (logged.at, logged.at))
                if not first <= logged.at <= last:
                    self._take(logged)

    def _keep_ended(self, shard: Shard, found: list[Ended]) -> None:
        with self._run.act():
            self._run.tell("shards", shard.of)
            self._run.add_ended(shard.number, found)
        found.clear()

    async def _before(self, shard: Shard, first: str) -> None:
        """What was said before the range, from its start backwards."""
        bound = first if "-" in first else f"{first}-0"
        silence = self._silence_ms if self._silence_ms is not None else 1 << 62
        newest = order(bound)[0]
        if not newest:
            return  # the range begins with the stream
        async for logged in shard.read(self._group.reads, "-", f"({bound}", backwards=True):
            ms = logged.at[0]
            if newest - ms > silence:
                return
            if logged.key in self._ends and self._ends[logged.key][0][0] - ms <= silence:
                self._take(logged)
                newest = ms

    def from_file(self, file: File) -> None:
        """Raises ConfigurationError: it holds what is no entry."""
        for logged in file.read():
            if logged.stream == self._group.reads and self._asked.of(logged.key):
                self._take(logged)
            elif logged.stream == f"{self._group.reads}.dead" and self._asked.of(logged.key):
                self._buried(logged)
            elif logged.stream in self._group.writes:
                self._answered(logged)
        self._flush()
        self._run.forget_copies()
        self._tell_what_is_cut(file.head.begins_ms)

    def _take(self, logged: Logged, mark: int = 0) -> None:
        if not logged.seen_by(self._group) or not self._asked.of(logged.key):
            return
        entry = logged.input(self._group, mark or (WAITING if self._unsettled.holds(logged.at) else 0))
        first, last = self._ends.get(logged.key, (logged.at, logged.at))
        self._ends[logged.key] = min(first, logged.at), max(last, logged.at)
        if entry.mark != WAITING and (entry.mark == WANTED or (not self._asked.dead and self._asked.holds(logged.at))):
            self._asked_last[logged.key] = max(logged.at, self._asked_last.get(logged.key, logged.at))
        self._inputs.append(entry)
        self._counted()

    def _buried(self, logged: Logged) -> None:
        """A dead letter of a file: the entry that it was."""
        if self._asked.dead and logged.text("group") == self._group.name:
            self._take(logged._replace(stream=self._group.reads, id=logged.text("origin")), WANTED)

    def _answered(self, logged: Logged) -> None:
        if logged.key in self._ends or logged.output().cut is None:
            self._outputs.append(logged.output())
            self._counted()

    def _counted(self) -> None:
        if len(self._inputs) + len(self._outputs) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        with self._run.act():
            self._run.add_inputs(self._inputs)
            self._run.add_outputs(self._outputs)
        self._step(len(self._inputs) + len(self._outputs))
        self._inputs.clear()
        self._outputs.clear()

    def _tell_what_is_cut(self, begins_ms: int) -> None:
        """Whose first words may lie before what is kept."""
        silence = self._silence_ms if self._silence_ms is not None else 1 << 62
        cut = sum(first[0] - begins_ms <= silence for first, _ in self._ends.values()) if begins_ms else 0
        with self._run.act():
            self._run.tell("cut", {"people": cut, "of": len(self._ends), "begins_ms": begins_ms})


def patience_ms(group: Group) -> int:
    """Within which a turn has ended, in all but the worst case: all attempts, and the waits between them."""
    waits = [group.backoff[min(n, len(group.backoff) - 1)] for n in range(group.attempts - 1)] if group.backoff else []
    return int((group.debounce_max + group.deadline + sum(waits)) * 1000)
