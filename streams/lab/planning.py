"""
Which turns a run replays: all that was gathered, put together as it was handled then, and of these what was asked for.

What lay together is told by what was answered (pastturns.py), by the group's journal, and by what was carried along.
Knows no Redis.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from streams.keys import shard_of
from streams.lab.gathering import Range
from streams.lab.pastturns import Came, Id, Past, Went, Window, message_id_of, names_of, turns
from streams.lab.replayed import WAITING, WANTED, Label, Planned
from streams.lab.runs import Run
from streams.tables import Group


def plan(run: Run, group: Group, asked: Range, *, told: bool) -> None:
    """
    Find the turns of all that was gathered, and choose those of the range.

    Args:
        group: as it was then: its windows decide where nothing else does.
        told: those before the range matter too, for the state that they left.
    """
    run.index()
    back = {(person, origin) for at, person, origin in run.put_back() if asked.holds(at)}
    choice = _Choice(asked, back, Counter())
    with run.act():
        for key in run.keys():
            run.plan(_planned(run, key, group, choice, told=told))
        for why in ("limited", "redriven"):
            run.tell(why, choice.left_out[why])


class _Choice(NamedTuple):
    """Which turns are replayed."""

    asked: Range
    back: set[tuple[str, str]]
    """Whose entries came back from the dead letters in the range, and the ids that these had at first."""
    left_out: Counter[str]
    """Why so many that were asked for are not."""

    def takes(self, past: Past, marks: set[int], *, back: bool) -> bool:
        if self.asked.dead:
            return WANTED in marks
        if not self.asked.holds(past.entries[-1].id):
            return False
        why = "limited" if past.limited else "redriven" if back else ""
        self.left_out[why] += 1
        return not why


def label(run: Run, group: Group) -> None:
    """Have all that was gathered say of which turn it is, as far as the journal tells: to be carried elsewhere."""
    with run.act():
        for key in run.keys():
            for turn in list(run.ended(key, _shard(run, key))):
                run.label(key, turn, str(Label.of(group.name, turn)))


def _shard(run: Run, key: str) -> int:
    return shard_of(key, run.told("shards") or 1)


def _elsewhere(labels: Iterable[tuple[Id, str]], group: str, ended: list[Went]) -> Iterator[Went]:
    """
    The turns of a key in which its entries were where they come from.

    Args:
        labels: of its entries, with their ids.
        ended: those that the group's own journal tells of; what it has handled here as well was in these.
    """
    cuts = [each.cut for each in ended]
    for text, some in groupby(labels, key=itemgetter(1)):
        told, ids = Label.read(text), [id for id, _ in some]
        at = bisect_left(cuts, ids[0])
        here = at < len(ended) and (ended[at].first or ended[at].cut) <= ids[-1]
        if told and told.group == group and not here:
            yield Went(
                ids[-1], told.ended_ms, first=ids[0], appended=False, limited=told.limited, buried=told.buried
            )  # fmt: skip


def _planned(run: Run, key: str, group: Group, choice: _Choice, *, told: bool) -> Iterator[Planned]:
    """Those of a key."""
    marks: dict[Id, int] = {}
    back: set[Id] = set()

    def came() -> Iterator[Came]:
        for entry in run.inputs(key):
            at = entry.ms, entry.seq
            if entry.mark:
                marks[at] = entry.mark
            if choice.back and (entry.person, entry.id) in choice.back:
                back.add(at)
            yield Came(at, len(entry.body), message_id_of(entry.body), entry.hurried)

    def appended() -> Iterator[Went]:
        for each in run.outputs(key):
            assert each.cut is not None  # noqa: S101 - `index` has found it
            yield Went(each.cut, each.ms, names_of(each.body))

    ended = [
        Went(turn.last, turn.at_ms, first=turn.first, appended=False, limited=turn.limited, buried=turn.buried)
        for turn in run.ended(key, _shard(run, key))
    ]
    labelled = _elsewhere(run.labels(key), group.name, ended)
    went = merge(appended(), ended, labelled, key=attrgetter("cut"))
    waiting: list[Planned] = []
    for past in turns(came(), went, Window.of(group)):
        found = {marks.get(entry.id, 0) for entry in past.entries}
        chosen = choice.takes(past, found, back=any(entry.id in back for entry in past.entries))
        if WAITING in found or not (chosen or told):
            continue
        first, last = past.entries[0].id, past.entries[-1].id
        buried = past.buried or WANTED in found
        waiting.append(Planned(0, past.began_ms, key, first, last, past.ended_ms, chosen, buried))
        if chosen:
            yield from waiting  # what comes behind the last chosen one is not needed
            waiting = []
