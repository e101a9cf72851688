"""
What one group has been promised: boxes, leases, due times and attempts, as guarantees.md words them.

Told of every call that Redis has executed, it says what the answer had to be and asserts that it was.  Knows no Redis:
time comes from `now`, and what the entries hold from `entries`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from streams.tables import Group
from streams.turns import HEARTBEAT_MS

Fields = dict[str, str]

BELL_MS = 3_600_000
"""How long a bell is kept after it last rang."""


class Note(msgspec.Struct):
    """What is remembered of an entry that has been started."""

    starts: int = 0
    crashes: int = 0
    count: str = ""
    progress: str = ""


class Lease(msgspec.Struct, frozen=True):
    """Whose turn it is, and with which entries."""

    token: str
    owner: str
    call: int
    ids: list[str]


class Entries(msgspec.Struct):
    """One stream, oldest first."""

    rows: dict[str, Fields] = {}
    last: str = "0-0"
    """The highest id there was."""

    def append(self, id: str, fields: Fields) -> None:
        assert order(id) > order(self.last), "ids rise"
        self.rows[id], self.last = fields, id

    def after(self, cursor: str) -> list[str]:
        return [id for id in self.rows if order(id) > order(cursor)]

    def of(self, key: str) -> list[str]:
        return [id for id, fields in self.rows.items() if fields["key"] == key]


def order(id: str) -> tuple[int, int]:
    milliseconds, _, sequence = id.partition("-")
    return int(milliseconds), int(sequence)


class GroupModel:
    """One group of one stream."""

    def __init__(self, group: Group, entries: Entries, now: Callable[[], int], suspect_after: int) -> None:
        self.group, self.entries, self.now, self.suspect_after = group, entries, now, suspect_after
        self.cursor = "0-0"
        self.boxes: dict[str, list[str]] = {}
        self.leases: dict[str, Lease] = {}
        self.due: dict[str, int] = {}
        self.notes: dict[str, Note] = {}
        self.heartbeats: dict[str, int] = {}
        self._alive: dict[str, int] = {}
        """When a take of a consumer's last renewed its heartbeat."""
        self.calls: dict[str, tuple[int, list[tuple[str, str]]]] = {}
        """Of each consumer that somebody will miss: its highest call, and what that granted."""
        self.settled: list[str] = []
        self.buried: list[str] = []
        self.state: dict[str, bytes] = {}
        self.counted: dict[str, int] = {}
        self.tokens: set[str] = set()
        self._parked: dict[str, bool] = {}
        """Keys that wait for a retry; True: or for the request at the door."""
        self._hurried: set[str] = set()
        self._woken: set[str] = set()
        self._next: dict[str, tuple[int, int]] = {}
        """Keys in work: when the next turn may start (0: at once), and when the first of its messages came."""
        self._newer: set[str] = set()
        """Keys in work whose turn is superseded by what has come."""
        self._burst: dict[str, int] = {}
        """Keys whose turn was superseded: when the first of the messages came for which it was."""
        self.bells: dict[str, tuple[int, list[str]]] = {}
        """Of each consumer: when its bell is forgotten, and the tokens that it has named."""

    # take

    def took(self, told: dict[str, Any], reply: list[Any]) -> None:
        if reply[0] == b"nogroup":
            return
        _, now_ms, read, _, turns, cursor, _, _ = reply
        assert now_ms == self.now()
        consumer, call = told["consumer"], told["call"]
        last, grants = self.calls.get(consumer, (-1, []))
        if call < last:
            assert (read, turns) == (0, []), "a call that came after a later one brings nothing"
            return
        if call == last:
            again = [(key, token) for key, token in grants if key in self.leases and self.leases[key].token == token]
            assert read == 0, "a repeat reads nothing"
            assert [(turn[0].decode(), turn[1].decode()) for turn in turns] == again, "a repeat brings the same grants"
            self._told(turns)
            return
        fresh = self._read(read, self._count(told["count"], told["room"]))
        assert cursor.decode() == self.cursor
        granted = self._grant(fresh, told["room"], told["suspects"])
        assert [(turn[0].decode(), [row[0].decode() for row in _entries(turn)[1]]) for turn in turns] == granted
        for turn, (key, ids) in zip(turns, granted, strict=True):
            self._lease(key, turn[1].decode(), consumer, call, ids)
        self._told(turns)
        if abs(now_ms - self._alive.get(consumer, 0)) > HEARTBEAT_MS / 4:
            self._alive[consumer] = now_ms
            self.heartbeats[consumer] = now_ms + HEARTBEAT_MS
        self.calls[consumer] = call, [(turn[0].decode(), turn[1].decode()) for turn in turns]

    def _count(self, count: int, room: int) -> int:
        """Of a group whose turns are one entry each, no more is read than can start, but always a few."""
        ready = sum(at <= self.now() for at in self.due.values())
        return count if self.group.turn_max > 1 else min(count, max(10, room - ready))

    def _read(self, read: int, count: int) -> list[str]:
        """What is new; the keys of which nothing was known, where nobody was due: they go first, as they came."""
        new = self.entries.after(self.cursor)[:count]
        assert read == len(new), "it reads what is there, up to its count"
        known, brought = {*self.leases, *self.due}, dict[str, None]()
        somebody_due = any(at <= self.now() for at in self.due.values())
        fresh = []
        for id in new:
            fields = self.entries.rows[id]
            fresh += [fields["key"]] if fields["key"] not in known else []
            known.add(fields["key"])
            self.boxes.setdefault(fields["key"], []).append(id)
            self._schedule(fields["key"], order(id)[0], "now" in fields)
            self.cursor = id
            brought[fields["key"]] = None
        for key in brought:
            self._supersede(key)
        return [key for key in fresh if not somebody_due and (not self.group.debounce or key in self._hurried)]

    def _supersede(self, key: str) -> None:
        """Its holder is told, unless one turn could not hold all."""
        if self.group.on_new_message != "supersede" or key not in self.leases:
            return
        bodies = [self.entries.rows[id]["body"] for id in self.boxes[key]]
        if len(bodies) > self.group.turn_max or sum(map(len, bodies)) > self.group.turn_max_chars:
            return
        self._newer.add(key)
        lease = self.leases[key]
        _, rung = self.bells.get(lease.owner, (0, []))
        self.bells[lease.owner] = self.now() + BELL_MS, [*rung, lease.token]

    def window(self, first_ms: int, last_ms: int, at: int | None) -> int:
        debounce, most = int(self.group.debounce * 1000), int(self.group.debounce_max * 1000)
        ends = min(first_ms + most, last_ms + debounce, self.now() + most)
        return ends if at is None or first_ms <= self.now() else min(ends, at)

    def _schedule(self, key: str, ms: int, hurry: bool) -> None:
        if key in self.leases:
            at, first = self._next.get(key, (None, ms))
            self._next[key] = 0 if hurry or at == 0 else self.window(first, ms, at), first
        elif key in self._parked:
            pass  # an earlier start would overtake what failed
        elif hurry:
            self._hurried.add(key)
            self.due[key] = min(self.now(), self.due.get(key, self.now()))
        elif not self.group.debounce:
            self.due.setdefault(key, min(ms, self.now()))
        elif key not in self._hurried:
            first = self._burst.get(key, order(self.boxes[key][0])[0])
            self.due[key] = self.window(first, ms, self.due.get(key))

    def _grant(self, fresh: list[str], room: int, suspects: int) -> list[tuple[str, list[str]]]:
        """Oldest due first; all that waits of a key is one turn; a suspect is alone."""
        granted: list[tuple[str, list[str]]] = []
        due = [key for _, key in sorted((at, key) for key, at in self.due.items() if at <= self.now())]
        for key in dict.fromkeys([*fresh, *due]):
            ids = self.boxes[key][: self.group.turn_max]
            if self.suspect(ids[0]):
                if suspects == 0:
                    continue
                ids, suspects = ids[:1], suspects - 1
            if len(granted) == room:
                break
            granted.append((key, ids))
        return granted

    def suspect(self, id: str) -> bool:
        return id in self.notes and self.notes[id].crashes >= self.suspect_after

    def _lease(self, key: str, token: str, consumer: str, call: int, ids: list[str]) -> None:
        assert key not in self.leases, "one turn at a time for a person"
        assert token not in self.tokens, "a token is new at every grant"
        self.tokens.add(token)
        self.leases[key] = Lease(token, consumer, call, ids)
        del self.due[key]
        self._forget(key)
        for id in ids:
            if id not in self.notes:
                self.counted[key] = self.counted.get(key, 0) + 1
                self.notes[id] = Note(count=str(self.counted[key]))
            self.notes[id].starts += 1

    def _forget(self, key: str) -> None:
        self._next.pop(key, None)
        self._parked.pop(key, None)
        self._woken.discard(key)
        self._hurried.discard(key)
        self._burst.pop(key, None)
        self._newer.discard(key)

    def _told(self, turns: list[Any]) -> None:
        """What a worker learns of its turns."""
        for turn in turns:
            key, _, progress, _ = turn[:4]
            state, rows = _entries(turn)
            notes = [self.notes[row[0].decode()] for row in rows]
            assert [(row[1], row[2]) for row in rows] == [(note.starts, note.crashes) for note in notes]
            assert progress.decode() == notes[0].progress, "what was kept, and how often it was superseded"
            if told := [row[3].decode() for row in rows if row[3]]:
                assert told == [note.count for note in notes], "each message is counted once"
            assert state in ([self.state.get(key.decode())], []), "it recalls what the last turn wrote"

    # settle, park

    def settle(self, turn: dict[str, Any], reply: list[int], waited_for: bool) -> bool:
        """
        Whether it was carried out; `ended` says the rest.

        Args:
            waited_for: a request waits for one of its messages.
        """
        key, ids = turn["key"], turn["ids"]
        lease = self.leases.get(key)
        ours = lease is not None and lease.token == turn["token"] and set(ids) <= set(self.boxes.get(key, []))
        assert reply[0] == int(ours), "only the holder of the lease ends a turn, and once"
        if not ours:
            return False
        del self.leases[key]
        for id in turn.get("uncount", []):
            if id in self.notes:
                self.notes[id].starts = max(0, self.notes[id].starts - 1)
        if "progress" in turn and self.boxes[key][0] in self.notes:
            self.notes[self.boxes[key][0]].progress = turn["progress"]
        if "bury" in turn:
            self.buried += ids
        self.settled += ids
        for id in ids:
            self.boxes[key].remove(id)
            self.notes.pop(id, None)
        assert reply[1] == self._reschedule(turn, waited_for)
        return True

    def _reschedule(self, turn: dict[str, Any], waited_for: bool) -> int:
        key = turn["key"]
        at, first = self._next.pop(key, (-1, 0))
        self._newer.discard(key)
        woken = key in self._woken
        self._woken.discard(key)
        if not self.boxes[key]:
            del self.boxes[key]
            return -1
        due = self.now()
        if "delay_ms" in turn:
            if not (woken and turn["at_door"]):
                due += turn["delay_ms"]
                self._parked[key] = turn["at_door"]
        elif at >= 0:
            at = 0 if "superseded" in turn and waited_for else at
            due = max(due, at)
            if at == 0:
                self._hurried.add(key)
            elif "superseded" in turn:
                self._burst[key] = first
        self.due[key] = due
        return due - self.now()

    # beat, sweep

    def beat(self, told: dict[str, Any], reply: list[Any]) -> None:
        consumer, held = told["consumer"], set(told["held"])
        lost = held - {lease.token for lease in self.leases.values() if lease.owner == consumer}
        assert {token.decode() for token in reply[0]} == lost, "a worker learns which leases it has lost"
        newer = {lease.token for key, lease in self.leases.items() if key in self._newer} & held
        assert {token.decode() for token in reply[2]} == newer - lost, "and which turns are superseded"
        for key, lease in list(self.leases.items()):
            if lease.owner == consumer and lease.token not in held and lease.call <= told["seen"]:
                del self.leases[key]
                self._return(key, lease, starts=-1)
        self.heartbeats[consumer] = self.now() + HEARTBEAT_MS
        self.calls.setdefault(consumer, (-1, []))

    def alive(self, consumer: str) -> bool:
        return self.now() <= self.heartbeats.get(consumer, -1)

    def swept(self, told: dict[str, Any], reply: list[Any]) -> None:
        dead = told["dead"]
        if self.alive(dead) and not told["leaving"]:
            assert reply == [b"alive"], "who lives is not swept"
            return
        freed = {key: lease for key, lease in self.leases.items() if lease.owner == dead}
        assert reply == [b"swept", len(freed)]
        for key, lease in freed.items():
            del self.leases[key]
            self._return(key, lease, **({"starts": -1} if told["leaving"] else {"crashes": 1}))
            self._next.pop(key, None)
            self._newer.discard(key)
            self._woken.discard(key)
        self.calls.pop(dead, None)
        self._alive.pop(dead, None)
        self.heartbeats.pop(dead, None)

    def _return(self, key: str, lease: Lease, starts: int = 0, crashes: int = 0) -> None:
        """A turn that nobody ended is due now."""
        self.due[key] = self.now()
        for id in lease.ids:
            note = self.notes[id]
            note.starts, note.crashes = max(0, note.starts + starts), note.crashes + crashes

    def erase(self, key: str, ids: list[str]) -> None:
        """A person goes, with all these entries of theirs: nothing is in work, nothing waits, nothing is known."""
        self.boxes.pop(key, None)
        self.leases.pop(key, None)
        self.due.pop(key, None)
        self.state.pop(key, None)
        self.counted.pop(key, None)
        self._forget(key)
        for id in ids:
            self.notes.pop(id, None)
        self.settled = [id for id in self.settled if id not in ids]
        self.buried = [id for id in self.buried if id not in ids]
        for consumer, (call, grants) in self.calls.items():
            self.calls[consumer] = call, [grant for grant in grants if grant[0] != key]

    # requests that wait

    def waiter_joined(self, key: str, id: str) -> None:
        """A request waits for an entry that came without one: its window ends now."""
        if id in self.boxes.get(key, []) and key not in self._parked and self.due.get(key, -1) > self.now():
            self.due[key] = self.now()
            self._hurried.add(key)

    def claimed(self, key: str) -> None:
        """The reply that may be held back for the request at the door need not be any more."""
        if key in self.leases:
            self._woken.add(key)
        elif self._parked.get(key):
            del self._parked[key]
            self.due[key] = self.now()


def _entries(turn: list[Any]) -> tuple[list[Any], list[list[Any]]]:
    """The state that a turn of take.lua brings, of one kind or none, and its entries, five values each."""
    first = 4 + (len(turn) - 4) % 5
    return turn[4:first], [turn[at : at + 5] for at in range(first, len(turn), 5)]
