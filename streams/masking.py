"""
Takes people and secrets out of text that operators read.

Knows what phone numbers, WhatsApp's message ids (a wamid contains the number), and addresses with passwords look like;
knows nothing of logging.  A masked number is `+591…678`, a masked id `wamid…` and 8 hex digits of a keyed hash, so that
two lines about one message can be matched within one run.  Pure.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

PERSON_FIELDS = frozenset({"user_id", "key", "wa_id", "recipient_id", "from", "phone", "person"})
"""Fields that name a person: any run of digits in them is taken for a number, whatever stands beside it."""

_SPACE = r"(?:[ .()-]|%20|%28|%29)"
_HIDDEN = re.compile(
    rf"""
      (?P<wamid> wamid\.[\w+/=%.-]+ )
    | (?P<segment> (?<=/chat/)(?:history/)?[^/?#\s"']+ )              # a person in a request's path
    | conv_(?P<owner> [^/\n]{{1,160}}? )_(?P<since> \d{{9,11}} )(?!_?\d)      # a conversation's id
    | (?P<entry> (?<!\d)\d{{13}}-\d+ )                                # an entry's id is no number of anybody
    | (?P<number> (?:\+|%2B) (?: \d{{7,15}}(?!\d) | \d{{1,4}}(?:{_SPACE}{{1,2}}\d{{2,9}}){{1,6}} ) )
    | (?P<bare> (?<![0-9A-Za-z.+…-])\d{{7,15}}(?![0-9A-Za-z-]|\.\d) )
    """,
    re.VERBOSE,
)
_BETWEEN = r"(?:[^\w…]|_){1,3}"
_RUN = re.compile(rf"[+(]{{0,2}}(?<!\d)\d{{1,15}}(?!\d)(?:{_BETWEEN}\d{{1,15}}(?!\d))*")
"""A number, with whatever people put between digits.  A business-scoped id has more than 15 in a row."""

_NOBODYS = re.compile(r"reply_\d{13}-\d+(?:\.s\d+)?(?:\.\d+)?|msg_[0-9a-f]{24}|made-[0-9a-f]{24}|wamid\.[\w+/=%.-]+")
"""Ids of messages that we made, and WhatsApp's, which become hashes; in those of others a number may hide."""

_SECRETS_IN_URLS = (
    (re.compile(r"\b((?:redis|rediss|valkey|valkeys)(?:\+\w+)?://)([^\s:@/]*):\S*@"), r"\1\2@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^\s:@/]*):[^\s/]*@"), r"\1\2@"),
    (re.compile(r"([?&](?:[\w.-]*(?:token|password|secret)|(?:api_?)?key)=)[^&\s\"']+", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{6,}"), r"\1 …"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_…"),
)
_PASSWORD = re.compile(r"://[^:@/]*:([^/]*|.*)@", re.DOTALL)
_IN_QUERY = re.compile(r"[?&](?:sentinel_|ssl)?password=([^&#]+)")
_EMPTY_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)@")


_MASKED = re.compile(r"\+\d{2,3}…\d{2,3}|wamid…[0-9a-f]{8}")


def is_masked(text: str) -> bool:
    """Whether a masked number or id stands in it, which nobody can be found by."""
    return _MASKED.search(text) is not None


def number(text: str) -> str:
    """`+59112345678`, `59112345678`, `591 123-45678` → `+591…678`."""
    digits = re.sub(r"\D", "", text.replace("%2B", "").replace("%20", "").replace("%28", "").replace("%29", ""))
    ends = 3 if len(digits) > 9 else 2
    return f"+{digits[:ends]}…{digits[-ends:]}"


def passwords(address: str) -> Iterator[str]:
    """What stands as password in an address, as it is written and as it is meant."""
    for pattern in (_PASSWORD, _IN_QUERY):
        if found := pattern.search(address):
            yield found[1]
            yield unquote(found[1])


def bare(url: str) -> str:
    """A URL without user, password and query, which may be secrets."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class Mask:
    """
    Masks text; one of these serves a process.

    Args:
        digest_key: keys the hash that stands for a wamid; None makes one, so ids cannot be matched across processes.
        secrets: values that must not appear at all, such as tokens.
    """

    def __init__(self, digest_key: bytes | None = None, hidden: Iterable[str] = ()) -> None:
        self._key = (digest_key or secrets.token_bytes(32))[:64]
        longest_first = sorted({value for value in hidden if len(value) >= 8}, key=len, reverse=True)
        self._hidden = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, text: str) -> str:
        """Free text, a path, a URL, an id: whatever hides in it."""
        if self._hidden:
            text = self._hidden.sub("…", text)
        if ":/" in text or "=" in text or " " in text or "_" in text:
            for pattern, instead in _SECRETS_IN_URLS:
                text = pattern.sub(instead, text)
            text = _EMPTY_USER.sub(r"\1", text)
        return _HIDDEN.sub(self._found, text)

    def person(self, text: str) -> str:
        """The value of a field that names a person: a number in any notation, alone or within something else."""
        return _RUN.sub(_masked, self.text(text))

    def message_id(self, text: str) -> str:
        """Senders make ids of what they have, such as the person's number."""
        masked = self.text(text)
        return masked if _NOBODYS.fullmatch(text) else _RUN.sub(_masked, masked)

    def field(self, name: str, value: object) -> object:
        """A field's value; numbers and booleans pass unless the field names a person."""
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if name in PERSON_FIELDS and value is not None:
            return self.person(str(value))
        if name == "message_id" and value is not None:
            return self.message_id(str(value))
        if value is None or isinstance(value, (bool, int, float)):
            return value
        if isinstance(value, dict):
            return {self.text(str(key)): self.field(str(key), item) for key, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.field(name, item) for item in value]
        return self.text(str(value))

    def _found(self, match: re.Match[str]) -> str:
        found = match[0]
        if match["wamid"]:
            return "wamid…" + hashlib.blake2b(found.encode(), key=self._key, digest_size=4).hexdigest()
        if match["segment"]:
            return self._segment(found)
        if match["owner"]:
            return f"conv_{self.person(unquote(match['owner']))}_{match['since']}"
        if match["entry"]:
            return found
        digits = sum(map(str.isdigit, found.replace("%2B", "").replace("%20", "")))
        return number(found) if 7 <= digits <= 15 else found

    def _segment(self, found: str) -> str:
        head, slash, tail = found.rpartition("/")
        named = unquote(tail)
        masked = self.person(named)
        return found if masked == named else head + slash + masked


def _masked(run: re.Match[str]) -> str:
    return number(run[0]) if sum(map(str.isdigit, run[0])) >= 7 else run[0]
