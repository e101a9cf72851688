"""The archive's tables, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import random
import re

import msgspec
import pytest

from processors.archive import keeping, migrations, opening, rows
from processors.archive.rows import Row
from processors.archive.session import Newer, Session, Unfit
from streams import wire
from streams.settings import Settings
from streams.tables import Archive
from tests.processors.archive.stories import (
    ANA,
    START_MS,
    WAMID,
    asked,
    count,
    entry,
    inbound,
    replied,
    reply,
    said,
    table,
    told,
    turn,
)  # fmt: skip

NAMES = Archive()
BY = "user_id"


def keep(session: Session, *batches: list[Row]) -> int:
    """Each batch by itself; how many rows were new."""
    return sum(keeping.keep(session, batch, NAMES) for batch in batches)


def shuffle(batches: list[list[Row]], seed: int) -> list[list[Row]]:
    return random.Random(seed).sample(batches, len(batches))  # noqa: S311 - no secret


def test_what_a_person_wrote_is_one_row_however_often_it_is_archived(session: Session) -> None:
    first = said("Hola, necesito una cita", name="Ana", sent_at=START_MS / 1000)
    assert keep(session, first, first, [*first, *first]) == 1
    assert table(session, "messages", "user_id", "message_id", "role", "text", "name", "entry") == [
        (ANA, WAMID, "user", "Hola, necesito una cita", "Ana", entry())
    ]
    assert table(session, "people", "user_id", "name", "messages", "replies") == [(ANA, "Ana", 1, 0)]


def test_an_entry_put_back_from_the_dead_letters_is_the_row_it_was(session: Session) -> None:
    again = rows.said(turn(inbound(), entry(9), origin=entry()), "inbound")
    assert keep(session, said(), again) == 1


def test_entries_of_the_same_id_in_two_shards_or_streams_are_two(session: Session) -> None:
    from processors.archive import rows

    shards = [rows.said(turn(inbound(), entry(), shard=shard), "inbound") for shard in (0, 1)]
    assert keep(session, *shards, rows.said(turn(inbound(), entry()), "inbound2")) == 3


def test_a_batch_is_all_or_nothing(session: Session) -> None:
    bad = msgspec.structs.replace(said(minute=1)[0], at="never")
    if session.dialect == "sqlite":
        bad = msgspec.structs.replace(bad, at="2099-10-05T14:01:00.000Z", shard=1 << 70)
    with pytest.raises((Unfit, ValueError)):
        keep(session, [*said(), bad])
    assert count(session, "messages") == count(session, "people") == 0
    assert keep(session, said()) == 1


def test_what_no_database_takes_is_made_fit_and_the_rest_stays(session: Session) -> None:
    odd = "a\0b 😀 \\u0000 'quoted' \t\n\\."
    keep(session, said(odd, metadata={"k\0": ["\0", {"n": 1e300, "big": 10**30}]}, name=""))
    [(text, metadata)] = table(session, "messages", "text", "metadata")
    assert text == "a\ufffdb 😀 \\u0000 'quoted' \t\n\\."
    found = keeping._parsed(metadata)
    assert found["k\ufffd"][0] == "\ufffd"
    assert found["k\ufffd"][1]["big"] == 10**30


@pytest.mark.slow
def test_people_and_conversations_come_out_the_same_whatever_the_order(place: Settings, postgres) -> None:
    batches = [
        said("uno", 0, name="Ana"), said("dos", 1, name="Ana María", wa_id="59112345678"), said("tres", 2),
        said("staff", 3, role="assistant"), replied("r1", 0.5), replied("r2", 2.5), said("otro", 1, 1, person="web-42"),
    ]  # fmt: skip
    seen = set()
    for seed in range(6):
        shuffled = shuffle(batches, seed)
        if place.database_url:
            postgres.empty()
        else:
            opening.path(place).unlink(missing_ok=True)
        session = opening.opened(place)
        keep(session, *shuffled)
        people = table(session, "people", "user_id", "name", "wa_id", "messages", "replies", "first_seen", "last_seen")
        seen.add(str((people, table(session, "conversations"))))
        session.close()
    [only] = seen
    assert "'Ana María', '59112345678', 3, 2" in only


LIFE = [
    ("book", asked("book", 1, "m1")),
    ("book, with the rest", asked("book", 2, "m2", speciality="cardiología", date="2099-10-07", time="15:00")),
    ("confirmed", told(3, "n1", status="confirmed", id="cal-17", date="2099-10-07", time="15:30")),
    ("move", asked("move", 60, "m3", date="2099-10-15", time="10:00")),
    ("moved", told(61, "n2", status="moved", id="cal-17", date="2099-10-15", time="10:00")),
    ("cancel", asked("cancel", 120, "m4")),
    ("cancelled", told(121, "n3", status="cancelled", id="cal-17")),
]
AFTER = [
    ("requested", "book", None, None), ("requested", "book", "2099-10-07", "15:00"),
    ("confirmed", None, "2099-10-07", "15:30"), ("confirmed", "move", "2099-10-07", "15:30"),
    ("moved", None, "2099-10-15", "10:00"), ("moved", "cancel", "2099-10-15", "10:00"),
    ("cancelled", None, "2099-10-15", "10:00"),
]  # fmt: skip


def appointments(session: Session) -> list[tuple[object, ...]]:
    rows = table(session, "appointments", "status", "asked", "day", "hour", order="requested_at")
    return [(status, asked, day and str(day), hour and str(hour)[:5]) for status, asked, day, hour in rows]


def test_an_appointment_from_its_request_to_its_end(session: Session) -> None:
    for (what, batch), after in zip(LIFE, AFTER, strict=True):
        keep(session, batch)
        assert appointments(session) == [after], what
    columns = ("speciality", "requested_by", "confirmed_by", "moved_by", "cancelled_by", "ref")
    assert table(session, "appointments", *columns) == [("cardiología", "m1", "n1", "n2", "n3", "cal-17")]
    assert len(set(table(session, "appointment_events", "appointment"))) == 1


@pytest.mark.parametrize("seed", range(4))
def test_an_appointment_comes_out_the_same_whatever_the_order_its_events_arrive_in(session: Session, seed: int) -> None:
    keep(session, *shuffle([batch for _, batch in LIFE], seed))
    assert appointments(session) == AFTER[-1:]
    assert table(session, "appointments", "requested_by", "moved_by") == [("m1", "n2")]


def test_of_two_events_of_one_millisecond_the_later_one_counts(session: Session) -> None:
    at = {"kind": "text", "role": "assistant"}
    cancelled = said("…", 1, 10, message_id="n2", metadata={"appointment": {"status": "cancelled"}}, **at)
    confirmed = said("…", 1, 9, message_id="n1", metadata={"appointment": {"status": "confirmed"}}, **at)
    keep(session, cancelled, confirmed)
    assert table(session, "appointments", "status", "confirmed_by", "cancelled_by") == [("cancelled", "n1", "n2")]


def test_whoever_is_erased_leaves_no_row_and_what_was_on_its_way_does_not_come_back(session: Session, place) -> None:
    other = said("Hola", 0, 1, person="+59199999999", message_id="wamid.b3RybyBudW1lcm8=")
    before = keeping.stamp(0)
    keep(session, said(), replied(), asked("book", 1, WAMID), other)
    late = [msgspec.structs.replace(row, at=keeping.stamp(keeping.time.time())) for row in said("tarde", 5)]

    receipt = keeping.forget(session, ANA)
    assert receipt == {
        "messages": 1, "replies": 2, "appointments": 1, "appointment_events": 1, "conversations": 1, "people": 1,
    }  # fmt: skip
    assert keep(session, late) == 0
    assert table(session, "people", "user_id") == [("+59199999999",)]
    assert keeping.forget(session, ANA) == {}
    assert before < keeping.stamp(1)

    # And what they write later is theirs again
    assert keep(session, said("de nuevo", 9)) == 1


def test_with_another_number_at_whatsapp_what_is_kept_under_that_one_goes_too(session: Session) -> None:
    mexican, known, other = "+5215512345678", "+525512345678", "+525599999999"
    keep(session, said(person=mexican, wa_id="525512345678"), reported(person=known), reported(person=other, number=1))
    assert keeping.forget(session, mexican) == {"messages": 1, "statuses": 1, "people": 1}
    assert table(session, "statuses", "user_id") == [(other,)]
    # And what is on its way under that one does not come back
    late = [msgspec.structs.replace(row, at=keeping.stamp(keeping.time.time())) for row in reported(known, number=2)]
    assert keep(session, late) == 0


def reported(person: str, number: int = 0) -> list[Row]:
    status = wire.Status(message_id=f"wamid.{number}", status="delivered", recipient_id=person)
    return rows.reported(turn(status, entry(1, number)), "statuses")


def test_what_is_too_old_goes_and_is_not_taken_again(session: Session) -> None:
    young = Archive(keep=keeping.time.time())  # since 1970
    old = [
        msgspec.structs.replace(row, at="2002-02-03T00:00:00.000Z", entry="1012694400000-0")
        for batch in (said(), replied(), asked("book", 0, "m"))
        for row in batch
    ]
    for row in old:
        keeping.keep(session, [row], young)
    keep(session, said("hoy", 1), asked("book", 2, "m2"))
    many = [
        msgspec.structs.replace(old[0], entry=f"1012694400001-{number}", user_id=f"p{number}") for number in range(1200)
    ]
    keeping.keep(session, many, young)
    while keeping.expire(session, NAMES):
        pass
    assert (count(session, "messages"), count(session, "replies")) == (1, 1)
    assert (count(session, "appointments"), count(session, "people")) == (1, 1)
    assert keep(session, old[:1]) == 0


def test_both_sides_are_read_back_in_their_order(session: Session) -> None:
    keep(session, said("uno", 0), replied("r1", 0.5), said("dos", 1), replied("r2", 1.5), said("ahora", 2))
    keep(session, said("de otro", 1, 1, person="web-42"), replied("(staff)", 1.2, source="staff"))
    found = keeping.before(session, ANA, said("", 2)[0].at, 3)
    assert [(one["role"], one["text"]) for one in found] == [("assistant", "r1"), ("user", "dos"), ("assistant", "r2")]


def test_the_schema_of_a_newer_release_is_refused(session: Session, place: Settings) -> None:
    session.run("INSERT INTO archive_versions VALUES (?, ?)", (999, "2099"))
    with pytest.raises(Newer, match="version 999, and this release knows"):
        opening.opened(place)


def test_the_schema_is_made_once(session: Session, place: Settings) -> None:
    assert migrations.found(session) == migrations.newest(session.dialect)
    opening.opened(place).close()
    assert count(session, "archive_versions") == len(migrations.steps(session.dialect))


def columns_of(dialect: str) -> dict[str, list[str]]:
    sql, a_column = "\n".join(migrations.steps(dialect).values()), r"(?:^|, )\s*(\w+) (?:\w+)(?=[ ,]|$)"
    tables = re.findall(r"CREATE TABLE (\w+) \((.*?)\n\)", sql, re.DOTALL)
    return {name: [each for each in re.findall(a_column, body, re.M) if each != "PRIMARY"] for name, body in tables}


def test_both_databases_have_the_same_columns() -> None:
    assert columns_of("postgres") == columns_of("sqlite")
    assert {len(columns) > 4 for columns in columns_of("postgres").values()} == {True}


def test_reply_without_type_reply_is_not_said(session: Session) -> None:
    from processors.archive import rows

    assert rows.replied(turn(reply(type="handover", source="person")), "outbound") == []
