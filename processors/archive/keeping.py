"""
What is done in the archive, in transactions of its own: keep a batch, forget a person, delete what is old, read back.

A batch is all or nothing, and whatever it holds that was kept before changes nothing.  All that is derived (people,
conversations, appointments) comes of rows that were new, and comes out the same whatever the order they arrive in.
Knows no driver.  Whoever erases and whoever keeps wait for each other, so that nobody comes back.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from processors.archive import appointments
from processors.archive.appointments import Appointment, Event
from processors.archive.rows import TABLES, Replied, Row, Said, moment, month
from processors.archive.session import SLICE, Identity, Session
from streams import marks
from streams.appointments import told as told_in
from streams.tables import Archive

FORGET_AHEAD = 10.0
"""Seconds by which our clock may be behind Redis's: what was on its way when somebody was erased is older than that."""

REMEMBER_FORGETTING = 8 * 86400.0
"""Seconds that we know whom we have forgotten; nothing is on its way for so long."""

_SINCE = re.compile(r"_(\d{9,10})$")


def keep(session: Session, rows: Sequence[Row], names: Archive) -> int:
    """
    Rows of one table.

    Returns:
        how many were new.
    """
    oldest = stamp(time.time() - names.keep)
    rows = [row for row in rows if row.user_id and row.at >= oldest]
    if not rows:
        return 0
    table = TABLES[type(rows[0])]
    session.make_room(table, sorted({month(row.at) for row in rows}))
    with session.transaction():
        rows = _not_forgotten(session, rows)
        new = session.insert(table, sorted(rows, key=lambda row: row.identity))
        fresh = _first_of_each(rows, new)
        if said := [row for row in fresh if isinstance(row, Said)]:
            _meet(session, said, [])
            _happened(session, _told(said))
        if replied := [row for row in fresh if isinstance(row, Replied)]:
            _meet(session, [], replied)
            _converse(session, replied)
            _happened(session, _asked(replied, names))
    return len(new)


def _first_of_each(rows: Iterable[Row], identities: set[Identity]) -> list[Row]:
    return list({row.identity: row for row in rows if row.identity in identities}.values())


# People and conversations

_PEOPLE = """
INSERT INTO people (user_id, wa_id, name, named_at, first_seen, last_seen, messages, last_reply, replies, touched_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (user_id) DO UPDATE SET
    wa_id = greatest(people.wa_id, excluded.wa_id),
    name = CASE WHEN excluded.named_at IS NULL OR people.named_at > excluded.named_at THEN people.name
                WHEN people.named_at = excluded.named_at THEN greatest(people.name, excluded.name)
                ELSE excluded.name END,
    named_at = greatest(people.named_at, excluded.named_at),
    first_seen = least(people.first_seen, excluded.first_seen),
    last_seen = greatest(people.last_seen, excluded.last_seen),
    messages = people.messages + excluded.messages,
    last_reply = greatest(people.last_reply, excluded.last_reply),
    replies = people.replies + excluded.replies,
    touched_at = greatest(people.touched_at, excluded.touched_at)
"""


def _meet(session: Session, said: Sequence[Said], replied: Sequence[Replied]) -> None:
    """The people of a batch; which also makes others who keep something of theirs wait until this is committed."""
    people = []
    for person, rows in _by_person([*said, *replied]):
        wrote = [row for row in rows if isinstance(row, Said) and row.role == "user"]
        named = max(((row.at, row.name) for row in wrote if row.name), default=(None, None))
        seen, answered = [row.at for row in wrote], [row.at for row in rows if isinstance(row, Replied)]
        wa_id = max((row.wa_id for row in rows if isinstance(row, (Said, Replied)) and row.wa_id), default=None)
        people.append(
            (person, wa_id, named[1], named[0], min(seen, default=None), max(seen, default=None), len(seen),
             max(answered, default=None), len(answered), max(row.at for row in rows))
        )  # fmt: skip
    session.many(_PEOPLE, people)


def _by_person(rows: Iterable[Row]) -> list[tuple[str, list[Row]]]:
    """In one order for everybody, so that no two wait for each other."""
    found: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row.user_id].append(row)
    return sorted(found.items())


_CONVERSATIONS = """
INSERT INTO conversations (conversation_id, user_id, started_at, last_at, replies) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (conversation_id) DO UPDATE SET
    started_at = least(conversations.started_at, excluded.started_at),
    last_at = greatest(conversations.last_at, excluded.last_at),
    replies = conversations.replies + excluded.replies
"""


def _converse(session: Session, replied: Sequence[Replied]) -> None:
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in replied:
        if row.conversation_id:
            found[row.user_id, row.conversation_id].append(row.at)
    rows = [
        (name, person, min(_since(name) or at[0], *at), max(at), len(at))
        for (person, name), at in sorted(found.items())
    ]
    session.many(_CONVERSATIONS, rows)


def _since(conversation: str) -> str | None:
    """When it began, which its name says: `conv_+591…_1728123456`."""
    named = _SINCE.search(conversation)
    return moment(float(named[1])) if named else None


# Appointments


def _told(said: Iterable[Said]) -> list[Event]:
    """What n8n and staff say of appointments."""
    found = []
    for row in said:
        told = told_in(_parsed(row.metadata)) if row.role != "user" else None
        if told is not None:
            event, ref, slots = told
            found.append(_event(row, event=event, ref=ref, slots=slots, message_id=row.message_id))
    return found


def _asked(replied: Iterable[Replied], names: Archive) -> list[Event]:
    """What people ask for: the action that goes out with the reply to their message."""
    found = []
    for row in replied:
        asked = appointments.asked(row.action, names) if row.action else None
        if asked is not None:
            to = json.loads(row.in_reply_to)
            about = {"slots": _parsed(row.slots), "conversation_id": row.conversation_id}
            found.append(_event(row, event=asked, message_id=to[-1] if to else None, **about))
    return found


def _event(row: Row, **more: Any) -> Event:
    return Event(stream=row.stream, shard=row.shard, entry=row.entry, at=row.at, user_id=row.user_id, **more)


_EVENTS = ("entry", "stream", "shard", "at", "user_id", "event", "ref", "slots", "conversation_id", "message_id",
           "appointment")  # fmt: skip
_APPOINTMENTS = (
    "id", "user_id", "ref", "status", "day", "hour", "speciality", "slots", "asked", "asked_at", "asked_by",
    "asked_slots", "conversation_id", "requested_at", "requested_by", "confirmed_at", "confirmed_by", "moved_at",
    "moved_by", "cancelled_at", "cancelled_by", "ended_at", "ended_by", "updated_at",
)  # fmt: skip


def _insertion(table: str, columns: Sequence[str]) -> str:
    places = ", ".join("?" for _ in columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours


def _happened(session: Session, events: Sequence[Event]) -> None:
    """New events, and their people's appointments made anew."""
    if not events:
        return
    session.many(_insertion("appointment_events", _EVENTS), [_values(event, _EVENTS) for event in events])
    for person in sorted({event.user_id for event in events}):
        _make_anew(session, person)


def _make_anew(session: Session, person: str) -> None:
    rows = session.run(f"SELECT {', '.join(_EVENTS)} FROM appointment_events WHERE user_id = ?", (person,))  # noqa: S608 - as above
    all_of_them = [Event(**dict(zip(_EVENTS, row, strict=True)) | {"slots": _parsed(row[7])}) for row in rows]
    before = {id(event): event.appointment for event in all_of_them}
    all_of_them.sort(key=lambda event: (_numbers(event.entry), event.stream, event.shard))
    made = appointments.fold(all_of_them)
    session.run("DELETE FROM appointments WHERE user_id = ?", (person,))
    session.many(_insertion("appointments", _APPOINTMENTS), [_values(each, _APPOINTMENTS) for each in made])
    session.many(
        "UPDATE appointment_events SET appointment = ? WHERE entry = ? AND stream = ? AND shard = ?",
        [(event.appointment, event.entry, event.stream, event.shard)
         for event in all_of_them if event.appointment != before[id(event)]],
    )  # fmt: skip


def _values(of: Event | Appointment, columns: Iterable[str]) -> tuple[Any, ...]:
    values = (getattr(of, column) for column in columns)
    return tuple(json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else value for value in values)


def _numbers(entry: str) -> tuple[int, int]:
    at, _, number = entry.partition("-")
    return int(at), int(number or 0)


def _parsed(value: Any) -> dict[str, Any]:
    """What a column of JSON holds, as one database returns it or the other."""
    found = json.loads(value) if isinstance(value, (str, bytes)) else value
    return found if isinstance(found, dict) else {}


# Forgetting

_OF_PEOPLE = (*TABLES.values(), "appointments", "appointment_events", "conversations", "people")


def forget(session: Session, person: str) -> dict[str, int]:
    """
    Everything of a person, and whatever of theirs is still on its way here; `scrub` is to follow.

    Returns:
        rows by table, where there were any.
    """
    now = time.time()
    gone: Counter[str] = Counter()
    with session.transaction(alone=True):
        session.run("DELETE FROM forgotten WHERE at < ?", (stamp(now - REMEMBER_FORGETTING),))
        for each in [person, *_elsewhere(session, person)]:
            digest, until = _digests(session)(each), stamp(now + FORGET_AHEAD)
            session.run("DELETE FROM forgotten WHERE digest = ?", (digest,))
            session.run("INSERT INTO forgotten VALUES (?, ?, ?)", (digest, until, stamp(now)))
            for table in _OF_PEOPLE:
                gone[table] += len(session.run(f"DELETE FROM {table} WHERE user_id = ? RETURNING 1", (each,)))  # noqa: S608 - as above
    return dict(+gone)


def kept(session: Session, person: str) -> dict[str, int]:
    """Rows that `forget` would delete, by table, where there are any."""
    there: Counter[str] = Counter()
    for each in [person, *_elsewhere(session, person)]:
        for table in _OF_PEOPLE:
            [(count,)] = session.run(f"SELECT count(*) FROM {table} WHERE user_id = ?", (each,))  # noqa: S608 - as above
            there[table] += count
    return dict(+there)


def _elsewhere(session: Session, person: str) -> list[str]:
    """Under which other number WhatsApp knows them (Mexico, Argentina); its statuses are about that one."""
    told = session.run("SELECT wa_id FROM people WHERE user_id = ? AND wa_id IS NOT NULL", (person,))
    return [spelt for (number,) in told for spelt in (number, f"+{number}") if spelt != person]


def _not_forgotten(session: Session, rows: Sequence[Row]) -> list[Row]:
    """Without what was on its way when its person was erased."""
    until = dict(session.run("SELECT digest, until FROM forgotten"))
    if not until:
        return list(rows)
    of = _digests(session)
    return [row for row in rows if (digest := of(row.user_id)) not in until or row.at > as_stamp(until[digest])]


def _digests(session: Session) -> Callable[[str], str]:
    [(salt,)] = session.run("SELECT value FROM archive_settings WHERE name = 'salt'")
    return lambda person: marks.digest(str(salt).encode(), person)


# Retention


def expire(session: Session, names: Archive) -> bool:
    """
    A slice of what is older than `archive.keep`: whoever archives waits for no more than that.

    Returns:
        whether there may be more.
    """
    before = stamp(time.time() - names.keep)
    more = [session.expire(table, before) for table in TABLES.values()]
    # An event goes with the last that happened to its appointment.
    more.append(_delete(session, "appointments", "user_id, id", "updated_at < ?", before))
    lonely = "at < ? AND NOT EXISTS (SELECT 1 FROM appointments a WHERE a.id = appointment AND a.user_id = e.user_id)"
    more.append(_delete(session, "appointment_events", "entry, stream, shard", lonely, before))
    more.append(_delete(session, "conversations", "conversation_id", "last_at < ?", before))
    more.append(_delete(session, "people", "user_id", "touched_at < ?", before))
    return any(more)


def _delete(session: Session, table: str, key: str, old: str, before: str) -> bool:
    sql = f"DELETE FROM {table} WHERE ({key}) IN (SELECT {key} FROM {table} e WHERE {old} LIMIT {SLICE}) RETURNING 1"  # noqa: S608 - as above
    with session.transaction():
        return len(session.run(sql, (before,))) == SLICE


# Reading back

_BEFORE = """
SELECT at, role, kind, text, message_id, source, metadata, content FROM dialogue
WHERE user_id = ? AND at < ? ORDER BY at DESC, entry DESC LIMIT ?
"""


def before(session: Session, person: str, at: str, most: int) -> list[dict[str, Any]]:
    """What was last said with a person before that moment, oldest first."""
    names = ("at", "role", "kind", "text", "message_id", "source", "metadata", "content")
    rows = [dict(zip(names, row, strict=True)) for row in session.run(_BEFORE, (person, at, most))]
    plain = {"at": as_stamp, "metadata": _parsed, "content": _parsed}
    return [row | {name: read(row[name]) for name, read in plain.items()} for row in reversed(rows)]


def stamp(seconds: float) -> str:
    """Unix seconds as the archive writes times."""
    return moment(max(0.0, seconds)) or ""


def as_stamp(at: Any) -> str:
    """A time as one database returns it or the other."""
    return at if isinstance(at, str) else stamp(at.timestamp())
