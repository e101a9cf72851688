"""
What a message is known by again: its id, and its mark `seen:<digest>`, written and read by append.lua.

Pure, but for chance.  The digest is keyed, so that Redis tells nobody who wrote; whoever has the key (`digest`) finds a
message by its id and its person without looking for it.
"""

from __future__ import annotations

import hashlib
import re
import secrets

import msgspec

from streams.keys import Keys


def digest(key: bytes, *parts: str) -> str:
    """Redis is not to tell who wrote, nor what; lengths keep ("a", "bc") and ("ab", "c") apart."""
    whole = "".join([f"{len(part)}:{part}" for part in parts])
    return hashlib.blake2b(whole.encode(errors="replace"), key=key[:64], digest_size=16).hexdigest()


def name(keys: Keys, key: bytes, person: str, message_id: str) -> str:
    """The mark of a person's message."""
    return keys.of("seen", digest(key, person, message_id))


_MADE = re.compile(r"msg_([0-9a-f]{12})[0-9a-f]{12}")


def made(now_ms: int) -> str:
    """An id for a message that came without one.  No mark remembers it, so it says itself when that was."""
    return f"msg_{now_ms:012x}{secrets.token_hex(6)}"


def made_ms(message_id: str) -> int | None:
    """When it was made, by the clock of an ingress; None where it is none of `made`."""
    found = _MADE.fullmatch(message_id)
    return int(found[1], 16) if found else None


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
