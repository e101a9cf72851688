"""
Every key that Cauce keeps in Redis: one look answers "what is in my Redis?".

A key is `<namespace><head>[:{<tag>}][:<rest>]`.  The tag, present with several shards or on a Cluster, is what puts
all of a shard's keys into one slot.  No key without a lifetime or a bound.
"""

from __future__ import annotations

import binascii
from functools import cache

import msgspec


class Kind(msgspec.Struct, frozen=True):
    """One row of the table."""

    pattern: str
    type: str
    writer: str
    lifetime: str
    personal: bool = False
    """The key or its value can tell who somebody is."""


TABLE: dict[str, Kind] = {
    "stream": Kind("<stream>", "stream", "append, settle", "`keep` after the last group settled; `max_len`", True),
    "dead": Kind("<stream>.dead", "stream", "settle", "30 days; 100,000 entries", True),
    "carried": Kind("carried:<run>:<stream>", "string, counter", "import, replay --into", "7 days", False),
    "redrive": Kind("redrive:<call>", "string", "redrive", "1 h", False),
    "redriven": Kind("redriven:<stream>:<entry>", "list", "redrive", "`journal.keep`", False),
    "conversation": Kind("conversation:<user>", "string, JSON", "settle", "SESSION_EXPIRE_TIME, sliding", True),
    "conversation_meta": Kind("conversation_meta:<user>", "string, JSON", "settle", "as its conversation", True),
    "rate_limit": Kind("rate_limit:<user>", "string, counter", "take", "60 s from the first message", True),
    "paused": Kind("paused:<user>", "string", "ingress, settle", "`handoff.pause`, renewed by each message", True),
    "own": Kind("own:<group>:<key>", "string", "settle", "as the group's handler says", True),
    "seen": Kind("seen:<digest>", "string", "append", "8 days; 1 h where Redis is nearly full", False),
    "index": Kind("index:<span>", "string", "append, redrive, import", "8 days; as long as its stream", False),
    "digest": Kind("digest", "string", "ingress", "for good; one key", False),
    "waiting": Kind("waiting:<stream>", "hash", "append", "until settled; while a request may wait", False),
    "door": Kind("door:<entry>", "hash", "settle, claim", "`wait.keep`", True),
    "bell": Kind("bell:<name>", "stream", "scripts, worker", "1 h; about 1,000 entries", False),
    "groups": Kind("groups", "hash", "worker", "until `cauce group drop`", False),
    "erased": Kind("erased", "hash", "erase", "8 days after the last erase", False),
    "anew": Kind("anew:<random>", "stream", "erase", "10 min, until it has taken its stream's place", True),
    "group.cursor": Kind("group:<group>:cursor", "string", "take", "as the group", False),
    "group.box": Kind("group:<group>:box:<key>", "sorted set", "take, settle", "until its entries are settled", True),
    "group.leases": Kind("group:<group>:leases", "hash", "take, settle", "until settled", True),
    "group.due": Kind("group:<group>:due", "sorted set", "take, settle, append", "until settled", True),
    "group.attempts": Kind("group:<group>:attempts", "hash", "take, settle", "until settled", False),
    "group.hints": Kind("group:<group>:hints", "hash", "take, settle, append", "until the key's next turn", True),
    "group.consumers": Kind("group:<group>:consumers", "hash", "take, sweep", "until its consumer is swept", True),
    "group.heartbeat": Kind("group:<group>:heartbeat:<consumer>", "string", "take, beat", "8 s", False),
    "group.journal": Kind("group:<group>:journal", "stream", "settle", "`journal.keep`; `journal.max_mb`", False),
    "group.skipped": Kind("group:<group>:skipped", "string, counter", "skip", "as the group", False),
    "tally": Kind("tally:<name>:<bucket>", "hash", "settle", "`[tallies]`, from its time on; 1,000 fields", False),
    "distinct": Kind("distinct:<name>:<bucket>:<what>", "string, HyperLogLog", "settle", "as its tally", True),
    "answer": Kind("answer:<digest>", "string", "worker", "`inference.answers`", True),
    "model": Kind("model:<consumer>", "string, JSON", "worker", "8 s, renewed with the heartbeat", False),
    "breaker": Kind("breaker:<digest>", "hash", "egress", "1 day after the last failure", False),
    "test": Kind("test:<random>", "string", "ingress", "10 s", False),
    "layout": Kind("layout", "string, JSON", "every process", "for good; one key, never tagged", False),
    "moving": Kind("moving:<key>", "as its key", "`cauce reshard`", "until that has ended", True),
    "void": Kind("void", "none: it is never there", "nobody", "named in calls on a Cluster", False),
}


def crc16(text: str) -> int:
    """As Redis Cluster has it, CRC-16/XMODEM (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""
    return binascii.crc_hqx(text.encode(errors="surrogateescape"), 0)


def shard_of(person: str, shards: int) -> int:
    """Where everything of a person lies."""
    return crc16(person) % shards if shards > 1 else 0


class Keys(msgspec.Struct, frozen=True):
    """Names keys of one shard."""

    namespace: str = ""
    """Prefix with its separator, such as `bot2:`; empty for none."""
    tag: str = ""
    """Cluster hash tag without braces; empty for none."""
    shard: int = 0
    shards: int = 1

    def _name(self, head: str, rest: str = "") -> str:
        tag = f":{{{self.tag}}}" if self.tag else ""
        return f"{self.namespace}{head}{tag}{':' + rest if rest else ''}"

    def stream(self, name: str) -> str:
        return self._name(name)

    def dead(self, name: str) -> str:
        return self._name(f"{name}.dead")

    def of(self, kind: str, key: str = "") -> str:
        """
        The key of a kind that belongs to a person or thing: `of("conversation", "+591…")`.

        Raises:
            KeyError: no such kind in TABLE; a typo must not make a key that nobody lists.
        """
        return self._name(TABLE[kind].pattern.partition(":")[0], key)

    def group(self, kind: str, group: str, rest: str = "") -> str:
        """A key of a group's own state: `group("due", "inference")`, `group("box", "inference", "+591…")`."""
        assert f"group.{kind}" in TABLE, kind  # noqa: S101 - a typo must not make a key that nobody lists
        return self._name("group", f"{group}:{kind}{':' + rest if rest else ''}")

    def state(self, kind: str, group: str, key: str) -> str:
        """The key a handler means by `Write(kind=…)` or `recall`: a kind of a person, or the group's `own`."""
        return _before_a_person(self, kind, group) + key


@cache
def _before_a_person(keys: Keys, kind: str, group: str) -> str:
    """What the names of such keys begin with, up to the person."""
    name = keys.of("own", group) if kind == "own" else keys.of(kind)
    return name + ":"
