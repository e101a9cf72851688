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
from collections.abc import Iterable
from urllib.parse import unquote

PERSON_FIELDS = frozenset({"user_id", "key", "wa_id", "recipient_id", "from", "phone", "person"})
"""Fields that name a person: any run of digits in them is taken for a number."""

_SPACE = r"(?:[ .()-]|%20|%28|%29)"
_HIDDEN = re.compile(
    rf"""
      (?P<wamid> wamid\.[\w+/=%.-]+ )
    | (?P<segment> (?<=/chat/)(?:history/)?[^/?#\s"']+ )              # a person in a request's path
    | conv_(?P<owner> [^\s"'/]+? )_(?P<since> \d{{9,11}} )(?!\d)          # a conversation's id
    | (?P<entry> (?<!\d)\d{{13}}-\d+ )                                # an entry's id is no number of anybody
    | (?P<number> (?:\+|%2B) (?: \d{{7,15}}(?!\d) | \d{{1,4}}(?:{_SPACE}{{1,2}}\d{{2,9}}){{1,6}} ) )
    | (?P<bare> (?<![0-9A-Za-z.+…-])\d{{7,15}}(?![0-9A-Za-z-]|\.\d) )
    """,
    re.VERBOSE,
)
_PHONE = re.compile(r"\+?[\d ().-]+")
_SECRETS_IN_URLS = (
    (re.compile(r"\b((?:redis|rediss|valkey|valkeys)(?:\+\w+)?://)([^\s:@/'\"]*):[^\s'\"]*@"), r"\1\2@"),
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)([^\s:@/'\"]*):[^\s/'\"]*@"), r"\1\2@"),
    (re.compile(r"([?&](?:[\w.-]*(?:token|password|secret)|(?:api_?)?key)=)[^&\s\"']+", re.IGNORECASE), r"\1…"),
    (re.compile(r"\b(Bearer|Basic) [\w.~+/=-]{6,}"), r"\1 …"),
    (re.compile(r"\bwhsec_[\w+/=-]+"), "whsec_…"),
)
_EMPTY_USER = re.compile(r"(\b[a-z][a-z0-9+.-]*://)@")


def number(text: str) -> str:
    """`+59112345678`, `59112345678`, `591 123-45678` → `+591…678`."""
    digits = re.sub(r"\D", "", text.replace("%2B", "").replace("%20", "").replace("%28", "").replace("%29", ""))
    ends = 3 if len(digits) > 9 else 2
    return f"+{digits[:ends]}…{digits[-ends:]}"


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
        """The value of a field that names a person: a number in any notation."""
        if _PHONE.fullmatch(text) and 7 <= sum(map(str.isdigit, text)) <= 15:
            return number(text)
        return self.text(text)

    def field(self, name: str, value: object) -> object:
        """A field's value; numbers and booleans pass unless the field names a person."""
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if name in PERSON_FIELDS and value is not None:
            return self.person(str(value))
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
        person = unquote(tail)
        return head + slash + self.person(person) if person != tail or _PHONE.fullmatch(person) else found
