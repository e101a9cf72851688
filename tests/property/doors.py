"""
What the front door has been promised: each message once, and each reply through one door.

As model.py it is told of every executed call, and asserts that its answer was the one due.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from ingress.append import Message
from streams.wire import VERSION
from tests.property.model import Entries, Fields, GroupModel, order
from tests.property.wire import Call


class Mark(msgspec.Struct, frozen=True):
    """What is known of a message that was taken."""

    entry: str
    text: str
    call: str


class Waiter(msgspec.Struct, frozen=True):
    deadline: int
    bell: str
    ticket: str


class Door(msgspec.Struct):
    """Where the reply to an entry goes."""

    into: str = ""
    """The entry whose request may have the reply; empty: this one's."""
    state: str = ""
    deadline: int = 0
    text: str = ""


class Front:
    """append, claim, release and withdraw, on one inbound stream and the group that answers it."""

    def __init__(self, inbound: Entries, answering: GroupModel, egress: GroupModel, now: Callable[[], int]) -> None:
        self.inbound, self.answering, self.egress, self.now = inbound, answering, egress, now
        self.marks: dict[str, Mark] = {}
        self.waiting: dict[str, Waiter] = {}
        self.waiting_until = -1
        self.doors: dict[str, Door] = {}
        self.erased: dict[str, str] = {}
        """Who was erased → the highest id then."""
        self.gone: set[str] = set()
        """Entries that went with them."""

    def expire(self) -> None:
        """The registrations are one key, which Redis forgets when nobody can wait any more."""
        if self.now() > self.waiting_until:
            self.waiting.clear()
        if not self.waiting:
            self.waiting_until = -1

    def append(self, call: Call, reply: list[Any]) -> None:
        if reply[0] == b"digest":
            return
        assert reply[0] == b"ok"
        self.expire()
        for told, verdicts in zip(call.told(9), reply[1:], strict=True):
            news: dict[str, Mark] = {}
            request = [dict(zip(Message.__struct_fields__, each, strict=True)) for each in told]
            # What is known is judged before anything of the request is appended.
            known = [self.marks.get(call.keys[message["mark"] - 1]) for message in request]
            for message, mark, (outcome, entry) in zip(request, known, verdicts, strict=True):
                name, id = call.keys[message["mark"] - 1], entry.decode()
                mark = mark or news.get(name)
                if mark is None:
                    assert outcome == b"new", "a message that nobody has had is taken"
                    news[name] = self.marks[name] = Mark(id, message["text"], message["call"])
                    fields = message["fields"]
                    self.inbound.append(id, dict(zip(fields[::2], fields[1::2], strict=True)))
                    self._register(message, id)
                    continue
                same = "duplicate" if mark.text == message["text"] else "reused"
                expected = "new" if mark.call == message["call"] else same
                assert (outcome.decode(), id) == (expected, mark.entry), "each message is taken once"
                if expected == "duplicate" and name not in news and self._unanswered(id):
                    self._register(message, id)
                    if message["wait"]:
                        self.answering.waiter_joined(message["wait"]["group"]["key"], id)

    def _register(self, message: dict[str, Any], entry: str) -> None:
        if wait := message.get("wait"):
            self.expire()
            self.waiting[entry] = Waiter(self.now() + wait["ms"], wait["bell"], wait["ticket"])
            self.waiting_until = max(self.waiting_until, self.now() + wait["ms"])

    def _unanswered(self, entry: str) -> bool:
        if entry in self.gone:
            return order(entry) > order(self.answering.cursor)
        return entry not in self.doors and entry not in self.answering.settled

    def erase(self, person: str, ids: list[str]) -> None:
        self.erased[person] = self.inbound.last
        self.gone |= set(ids)
        for id in ids:
            self.waiting.pop(id, None)
            self.doors.pop(id, None)

    def withdraw(self, call: Call, reply: int) -> None:
        self.expire()
        entry, ticket = call.args
        ours = str(entry) in self.waiting and self.waiting[str(entry)].ticket == ticket
        assert reply == int(ours), "a registration is withdrawn by its own request alone"
        if ours:
            del self.waiting[str(entry)]

    def waited_for(self, ids: list[str]) -> list[str]:
        """Those of them for which a request waits."""
        self.expire()
        return [id for id in ids if id in self.waiting and self.waiting[id].deadline > self.now()]

    def settle(self, turn: dict[str, Any]) -> str | None:
        """A turn ends: the entry whose door its reply is for, if somebody waits."""
        answer, winner = turn["answer"], None
        if answer:
            alive = self.waited_for(turn["ids"])
            winner = alive[-1] if alive else None
        if winner:
            has_text = any(answers == "1" for _, answers, _ in turn["outputs"])
            for id in turn["ids"]:
                self.doors[id] = Door(into=winner)
            self.doors[winner] = Door(
                state="open" if has_text else "http",
                deadline=self.waiting[winner].deadline,
                text=answer[1],
            )
        for id in turn["ids"]:
            self.waiting.pop(id, None)
        return winner

    def claim(self, call: Call, reply: list[Any]) -> None:
        self.expire()
        entry, ticket, stop, *_, key = (str(arg) if isinstance(arg, str) else arg for arg in call.args)
        waiter = self.waiting.get(entry)
        if order(entry) <= order(self.erased.get(str(key), "0-0")):
            if waiter and waiter.ticket == ticket:
                del self.waiting[entry]
            assert reply == [b"erased"], "of what was erased nobody is told more"
            return
        asked = self.doors.get(entry)
        door = self.doors[asked.into] if asked and asked.into else asked
        if door is None:
            if stop == "1" and waiter and waiter.ticket == ticket:
                del self.waiting[entry]
            gone = entry in self.answering.settled
            assert reply == ([b"webhook"] if gone else [b"pending"])
            return
        self._shut(door)
        if door.state == "webhook":
            assert reply == [b"webhook"], "what the webhook has is nobody else's"
        elif asked and asked.into:
            merged = [b"merged", asked.into.encode()]
            assert reply == (merged if door.state == "http" else [b"pending"]), "merged is said after the claim"
        else:
            assert (reply[0], reply[2].decode()) == (b"claimed", door.text)
            if door.state == "open":
                door.state = "http"
                self.egress.claimed(key)

    def release(self, call: Call, reply: int) -> None:
        entry = call.keys[0].removeprefix("door:")
        door = self.doors.get(entry)
        if entry in self.gone:
            assert reply == 0, "who lost it to an erase may send it no more, and asks in vain"
            return
        assert door, "only a marked reply is asked for"
        self._shut(door)
        expected = {"webhook": 0, "http": -1, "open": door.deadline - self.now()}[door.state]
        assert reply == expected, "a reply goes through one door"

    def _shut(self, door: Door) -> None:
        if door.state == "open" and door.deadline <= self.now():
            door.state = "webhook"


class Promises:
    """The whole pipeline: which call is whose."""

    def __init__(self, groups: dict[str, GroupModel], front: Front) -> None:
        self.groups, self.front = groups, front
        self.outputs: list[Fields] = []
        """Of all turns, in the order of their commits."""

    def observe(self, call: Call, reply: Any) -> None:
        match call.name:
            case "take":
                asked = dict(zip(("consumer", "call", "room", "count", "suspects", "group"), call.args, strict=False))
                self.groups[asked["group"]].took(asked, reply)
            case "settle":
                group = self.groups[str(call.args[0])]
                for turn, *each in zip(call.ended(), reply[::2], reply[1::2], strict=True):
                    self._settled(group, turn, each)
            case "beat":
                self._of(call).beat(call.told(), reply)
            case "sweep":
                self.groups[call.told()["group"]].swept(call.told(), reply)
            case "append" | "withdraw" | "claim" | "release":
                getattr(self.front, call.name)(call, reply)

    def erase(self, person: str, streams: dict[str, Entries]) -> set[str]:
        """Somebody is erased: the entries that go."""
        ids = {name: entries.of(person) for name, entries in streams.items()}
        for group in self.groups.values():
            group.erase(person, ids[group.group.reads])
        self.front.erase(person, ids["inbound"])
        self.outputs = [fields for fields in self.outputs if fields["key"] != person]
        for name, entries in streams.items():
            entries.rows = {id: fields for id, fields in entries.rows.items() if id not in ids[name]}
        return set(ids["inbound"])

    def _of(self, call: Call) -> GroupModel:
        return self.groups[call.keys[0].split(":")[1]]

    def _settled(self, group: GroupModel, turn: dict[str, Any], reply: list[int]) -> None:
        answering = group is self.front.answering
        waited_for = answering and self.front.waited_for(turn.get("uncount", []))
        if not group.settle(turn, reply, bool(waited_for)):
            return
        door = self.front.settle(turn) if answering else None
        for _, _, value in turn["writes"]:
            group.state[turn["key"]] = value.encode()
        for _, answers, entry in turn["outputs"]:
            fields = dict(zip(("key", "type", "body", "trace"), entry, strict=True)) | {"v": VERSION}
            self.outputs.append(fields | ({"door": door} if answers == "1" and door else {}))
