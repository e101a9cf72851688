"""
The mark by which a message is known again: `seen:<digest>`, written and read by append.lua.

Pure.  The digest is keyed, so that Redis tells nobody who wrote; whoever has the key (`digest`) finds a message by its
id and its person without looking for it.
"""

from __future__ import annotations

import hashlib

import msgspec

from streams.keys import Keys


def digest(key: bytes, *parts: str) -> str:
    """Redis is not to tell who wrote, nor what; lengths keep ("a", "bc") and ("ab", "c") apart."""
    whole = "".join(f"{len(part)}:{part}" for part in parts)
    return hashlib.blake2b(whole.encode(errors="replace"), key=key[:64], digest_size=16).hexdigest()


def name(keys: Keys, key: bytes, person: str, message_id: str) -> str:
    """The mark of a person's message."""
    return keys.of("seen", digest(key, person, message_id))


class Mark(msgspec.Struct, frozen=True):
    """What a mark says: `entry|text|call`, and once it was repeated `|times:when` behind."""

    entry: str
    repeats: int = 0
    repeated_ms: int = 0
    """The last time, by Redis's clock."""

    @classmethod
    def read(cls, value: bytes) -> Mark | None:
        """None where it is none of ours."""
        entry, _, rest = value.decode(errors="replace").partition("|")
        repeats, _, at = rest.rpartition("|")[2].partition(":") if rest.count("|") > 1 else ("", "", "")
        if not entry:
            return None
        return cls(entry, int(repeats) if repeats.isdigit() else 0, int(at) if at.isdigit() else 0)
