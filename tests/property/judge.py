"""
Does Redis hold what was promised: after each step the protocol's state, at the end what came of it all.
"""

from __future__ import annotations

import json
from typing import Any

from streams.connection import entries
from tests.property.actors import Delivery
from tests.property.model import GroupModel, order
from tests.property.stage import Stage

PEOPLE = ["+1", "+2", "+3"]


async def compare(stage: Stage) -> None:
    """
    Redis's state against the models.

    Every unsettled entry is after the cursor or in exactly one box; every key with a box has a lease or a due time.
    """
    groups = list(stage.promises.groups.values())
    asked = [_questions(group) for group in groups]
    found = await stage.store.pipeline(
        [stage.news(), ("HGETALL", "waiting:inbound"), *(question for each in asked for question in each)]
    )
    stage.learn(found[0])
    told = [_plain(row) for row in stage.streams["outbound"].rows.values()]
    assert told == [_plain(row) for row in stage.promises.outputs], "each turn's output, once"
    stage.front.expire()
    waiting = {entry: f"{each.deadline}|{each.bell}|{each.ticket}" for entry, each in stage.front.waiting.items()}
    assert _pairs(found[1]) == waiting, "who waits"
    answers = iter(found[2:])
    for group, each in zip(groups, asked, strict=True):
        _invariant(group)
        _compare_group(group, [next(answers) for _ in each])


def _invariant(group: GroupModel) -> None:
    boxed = [id for ids in group.boxes.values() for id in ids]
    open_ = set(group.entries.rows) - set(group.settled)
    assert open_ == {*boxed, *group.entries.after(group.cursor)}, "unsettled: after the cursor or in a box"
    assert len(boxed) == len(set(boxed)), "in one box"
    assert len(group.settled) == len(set(group.settled)), "settled once"
    assert set(group.boxes) == {*group.leases, *group.due}, "a lease or a due time"
    assert not set(group.leases) & set(group.due)
    for lease in group.leases.values():
        assert lease.owner in group.calls, "whoever holds a lease is known, so that somebody misses it"


def _questions(group: GroupModel) -> list[tuple[str | int, ...]]:
    name = f"group:{group.group.name}"
    return [
        ("HGETALL", f"{name}:leases"),
        ("ZRANGE", f"{name}:due", 0, -1, "WITHSCORES"),
        ("HGETALL", f"{name}:attempts"),
        ("GET", f"{name}:cursor"),
        ("HKEYS", f"{name}:consumers"),
        ("XPENDING", group.group.reads, group.group.name),
        *(("ZRANGE", f"{name}:box:{person}", 0, -1) for person in PEOPLE),
        *(("XRANGE", f"bell:{each}", "-", "+") for each in group.bells),
        # Asked for, what is over is gone for good, also where the clock is set back afterwards.
        *(("EXISTS", f"{name}:heartbeat:{each}") for each in group.heartbeats),
    ]


def _compare_group(group: GroupModel, answers: list[Any]) -> None:
    leases, due, notes, cursor, known, pending = answers[:6]
    boxes, answers = answers[6 : 6 + len(PEOPLE)], answers[6 + len(PEOPLE) :]
    bells, beating = answers[: len(group.bells)], answers[len(group.bells) :]
    group.bells = {each: bell for each, bell in group.bells.items() if group.now() <= bell[0]}
    found = [[fields["newer"].decode() for _, fields in entries(bell)] for bell in bells if bell]
    assert found == [tokens for _, tokens in group.bells.values()], "whose turn is superseded is told, each time"
    assert [bool(each) for each in beating] == [group.alive(each) for each in group.heartbeats], "heartbeats"
    group.heartbeats = {each: at for each, at in group.heartbeats.items() if group.alive(each)}
    assert _pairs(leases) == {key: lease.token for key, lease in group.leases.items()}, "leases"
    assert {key: int(at) for key, at in _pairs(due).items()} == group.due, "due times"
    found = {person: [_id(member) for member in box] for person, box in zip(PEOPLE, boxes, strict=True) if box}
    assert found == group.boxes, "boxes"
    assert {id: _note(text) for id, text in _pairs(notes).items()} == {
        id: (note.starts, note.crashes, note.progress) for id, note in group.notes.items()
    }, "attempts"
    assert cursor.decode() == group.cursor
    assert {each.decode() for each in known} == set(group.calls), "consumers that somebody will miss"
    assert pending[0] == sum(map(len, boxes)), "what is boxed is pending"


async def judge(stage: Stage) -> None:
    """All has been answered."""
    inbound = entries(await stage.store.command("XRANGE", "inbound", "-", "+"))
    assert [id for id, _ in inbound] == list(stage.streams["inbound"].rows)
    for post in stage.posts:
        found = [id for id, fields in inbound if fields["body"] == b'"%s"' % post.text.encode()]
        assert len(found) <= 1, "a message is taken once"
        kept = [] if post.entry in stage.gone else [post.entry]
        assert not post.entry or found == kept, "what was accepted is kept, until its person is erased"
    replies = [(id, row, json.loads(row["body"])) for id, row in stage.streams["outbound"].rows.items()]
    for person in PEOPLE:
        await _judge_person(stage, person, [body for _, row, body in replies if row["key"] == person])
    await _judge_burials(stage)
    for person in PEOPLE:
        _judge_deliveries(stage, person)
    for entry, text in stage.texts.items():
        [body] = [body for _, row, body in replies if row.get("door") == entry] or [None]
        assert body is None or json.loads(text).items() <= body.items(), "who waits is told the reply"


async def _judge_person(stage: Stage, person: str, replies: list[dict[str, Any]]) -> None:
    """Each message answered once, in order, and the history tells the same."""
    everything = stage.streams["inbound"].of(person)
    for name, group in stage.promises.groups.items():
        if group.group.reads != "inbound":
            continue
        told = json.loads(await stage.store.command("GET", f"own:{name}:{person}") or b"[]")
        kept = [id for id in everything if id not in group.buried]
        if len(everything) - len(kept):
            told.sort(key=lambda each: order(each[0]))  # what is buried alone may have been older than what went on
        assert [id for id, _ in told] == kept, f"the history of {name}"
        if name == "answers":
            said = [id for body in replies for id in body.get("said", [])]
            assert sorted(said, key=order) == [id for id, aloud in told if aloud], "one reply to each message"
            sorry = [id for body in replies for id in body.get("sorry", [])]
            assert sorted(sorry, key=order) == [id for id in everything if id in group.buried], "or one apology"


async def _judge_burials(stage: Stage) -> None:
    for stream, rows in stage.streams.items():
        found = entries(await stage.store.command("XRANGE", f"{stream}.dead", "-", "+"))
        dead = [(fields["group"].decode(), fields["origin"].decode()) for _, fields in found]
        buried = [(name, id) for name, group in stage.promises.groups.items() for id in group.buried
                  if group.group.reads == stream]  # fmt: skip
        assert sorted(dead) == sorted(buried), "dead letters, each once"
        for _, fields in found:
            assert fields["body"].decode() == rows.rows[fields["origin"].decode()]["body"], "untouched"


def _judge_deliveries(stage: Stage, person: str) -> None:
    """Through one door; by the webhook in order, every part."""
    outbound, egress, firsts = stage.streams["outbound"], stage.promises.groups["egress"], list[Delivery]()
    for each in stage.sink:
        if each.rightful and all((each.reply, each.part) != (other.reply, other.part) for other in firsts):
            firsts.append(each)
    for id in outbound.of(person):
        row = outbound.rows[id]
        sent = [each.part for each in firsts if each.reply == id]
        door = stage.front.doors[row["door"]] if "door" in row else None
        if door and door.state == "http":
            assert not any(each.reply == id for each in stage.sink), "claimed, so the webhook is silent"
        elif id not in egress.buried:
            assert sent == list(range(1, json.loads(row["body"])["parts"] + 1)), "every part, in order"
            assert row.get("door") not in stage.texts, "by the webhook, so nobody has claimed it"
    mine = [each.reply for each in firsts if each.reply in outbound.of(person)]
    assert mine == sorted(mine, key=order), "in order for each person"


def _pairs(flat: list[bytes]) -> dict[str, str]:
    return {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}


def _id(member: bytes) -> str:
    milliseconds, _, sequence = member.decode().partition("-")
    return f"{int(milliseconds)}-{int(sequence)}"


def _note(text: str) -> tuple[int, int, str]:
    starts, crashes, _, _, progress = text.split(":", 4)
    return int(starts), int(crashes), progress


def _plain(row: dict[str, str]) -> dict[str, str]:
    return {name: row[name] for name in ("key", "body", "door") if name in row}
