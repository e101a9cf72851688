"""
People taken out of the log, and others put in their place: the same person is the same invented one everywhere.

Keyed by a secret that nobody keeps, so nothing leads back.  Knows where Meta's and our own JSON name people, and what
numbers, ids and addresses look like in a text.  A full name is found in everybody's texts, a single one in those of
whose it is: Rosa is also a colour.  What somebody says of themselves in other words stays: a text is a text.  Pure.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
import unicodedata
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from streams.masking import PERSON_FIELDS

_TEXT = re.compile(
    r"""
      (?P<trace> \b00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\b )               # made of nothing of anybody's
    | (?P<wamid> wamid\.[\w+/=%.-]+ )
    | conv_(?P<owner> [^/\n]{1,160}? )_(?P<since> \d{9,11} )(?!_?\d)         # a conversation's id
    | (?P<entry> (?<!\d)1\d{12}-\d{1,6}(?![\d-]) )                            # an entry's; longer, it may be a number
    | (?P<email> [\w.+-]+@[\w-]+(?:\.[\w-]+)+ )
    | (?P<scoped> (?<![A-Za-z0-9])[A-Z]{2}\.(?:ENT\.)?(?=[A-Za-z]*\d)[A-Za-z0-9]{8,} )
    | (?P<date> (?<![\d-])(?:(?:19|20)\d\d-(?:0\d|1[0-2])-[0-3]\d
        | (?:0?[1-9]|[12]\d|3[01])[./-](?:0?[1-9]|1[0-2])[./-](?:19|20)\d\d )
        (?:[T ]\d\d:\d\d(?::\d\d)?)?(?![\d-]) )
    | (?P<number> \+?\(?\d(?:[ .()/-]{0,3}\d){6,} )
    """,
    re.VERBOSE,
)
_OURS = re.compile(r"(?:reply|typing)_\d+-\d+(?:\.s\d+)?(?:\.\d+)?|msg_[0-9a-f]{24}|made-[0-9a-f]{24}")
"""Ids that we made of nothing of anybody's."""
_PHONE = re.compile(r"[+(]{0,2}\d(?:[ .()-]{0,3}\d){6,14}")
_LETTER = r"(?:[^\W\d_][\u0300-\u036f]*)"  # an accent may be a character of its own
_WORD = re.compile(_LETTER + "{2,}")
_SAID = re.compile(_LETTER + "+")
_BETWEEN = re.compile(r"[\s.,'’*~_-]{1,3}")
"""What may stand between two words of one name; WhatsApp's bold and italics are such marks."""
_MOST_WORDS = 8
"""Of a name; what is longer is found by its first."""

_NAMES = frozenset(
    {"name", "formatted_name", "first_name", "last_name", "middle_name", "username", "address", "street", "filename"}
)
_IDS = frozenset({"message_id", "in_reply_to", "id"})
_PLACES = frozenset({"latitude", "longitude"})
_TIMES = frozenset({"timestamp", "sent_at", "first_ms", "last_ms"})
_STRUCTURE = frozenset(
    {"type", "kind", "role", "source", "status", "action", "v", "trace", "origin", "for", "group", "id"}
)
"""Fields in which nobody is named, whatever somebody is called."""

_INVENTED = (
    "Abril Adán Alba Alma Amaro Aura Bruna Bruno Celia Ciro Clara Cora Dalia Darío Delia Edda Elio Elisa Elmo Enzo Eva "
    "Fabio Fara Flor Gala Galo Gema Hilda Hugo Ilda Iris Isolda Iván Jana Julia Kira Lara Lena Leo Lía Lino Luna Maia "
    "Mara Milo Mina Nadia Nilo Nora Noa Olga Omar Otto Paz Petra Quim Rita Roque Sara Silas Tania Teo Ugo Vera"
).split()
_COMMON = frozenset(
    "con del las los por para que una uno mis sus the and como pero todo toda todos nada hola gracias bien muy mal mas "
    "hoy ayer soy son este esta eso esa dia dos tres".split()
)
"""Words that are part of some people's names on WhatsApp, and of what everybody says; folded."""


class Pseudonyms:
    """
    Of one file.

    Args:
        secret: decides who becomes whom; None makes one.
    """

    def __init__(self, secret: bytes | None = None) -> None:
        self._secret = secret or secrets.token_bytes(32)
        self._numbers: dict[str, str] = {}
        self._taken: set[str] = set()
        self._called: dict[str, str] = {}
        """Key → what that person is called, so that their name is found in what is said as well."""
        self._full: set[int] = set()
        """Of each full name a hash: so many bytes a name, however long it is."""
        self._longest: dict[str, int] = {}
        """First word of a full name → how many words the longest has that begins so."""

    def learn(self, fields: Mapping[str, bytes]) -> None:
        """The full names in an entry's fields; given all entries first, they are found in what was said before them."""
        self._learn(_decoded(fields.get("body", b"")))

    def _learn(self, plain: Any) -> None:
        for name in _full_names(plain):
            words = tuple(map(_folded, _SAID.findall(name)))[:_MOST_WORDS]
            if len(words) > 1 and not all(len(word) < 3 or word in _COMMON for word in words):
                self._full.add(hash(words))
                self._longest[words[0]] = max(len(words), self._longest.get(words[0], 0))

    def fields(self, fields: Mapping[str, bytes]) -> dict[str, bytes]:
        """An entry's fields."""
        key = fields.get("key", b"").decode(errors="replace")
        body = fields.get("body", b"")
        plain = _decoded(body)
        self._learn(plain)
        if isinstance(plain, dict) and isinstance(plain.get("name"), str):
            self._called[key] = plain["name"]
        named = self._called.get(key, "")
        done = {
            name: value if name == "turn" else self._plain(name, value, named)  # a group, an entry's id and a time
            for name, value in fields.items()
            if name != "body"
        }
        if "body" in fields:
            done["body"] = (
                self._plain("", body, named) if plain is None else msgspec.json.encode(self._value("", plain, named))
            )
        return {name: done[name] for name in fields}

    def _plain(self, name: str, value: bytes, named: str) -> bytes:
        return str(self._value(name, value.decode(errors="replace"), named)).encode()

    def _value(self, name: str, value: Any, named: str) -> Any:
        if isinstance(value, dict):
            return {each: self._value(each, inner, named) for each, inner in value.items()}
        if isinstance(value, list):
            return [self._value(name, inner, named) for inner in value]
        if isinstance(value, str):
            return self._string(name, value, named)
        if name in _PLACES and isinstance(value, (int, float)):
            return round(float(value), 1)
        if isinstance(value, int) and not isinstance(value, bool) and name not in _TIMES and abs(value) >= 10**6:
            return int(self.number(str(abs(value))))
        return value

    def _string(self, name: str, value: str, named: str) -> str:
        if name in PERSON_FIELDS:
            return self.person(value)
        if name in _NAMES:
            return _TEXT.sub(self._found, self.name(value))
        if name in _IDS:
            return self.message_id(value)
        if name == "timestamp" and re.fullmatch(r"\d{10}", value):
            return value
        return _TEXT.sub(self._found, value) if name in _STRUCTURE else self.text(value, named)

    def person(self, key: str) -> str:
        """A person's id: a number, one of Meta's, or whatever a sender calls them."""
        if not key:
            return key
        if _PHONE.fullmatch(key):
            return ("+" if key.startswith("+") else "") + self.number(re.sub(r"\D", "", key))
        if match := re.fullmatch(r"([A-Z]{2}\.(?:ENT\.)?)[A-Za-z0-9]{8,}", key):
            return match[1] + self._digits(match[0], 20)
        return f"id-{self._digest(key)[:10]}"

    def number(self, digits: str) -> str:
        """
        Of 7 digits and more: 15 others that no country gives out, for none has the code 999; of more than 15, as many.
        """
        if (known := self._numbers.get(digits)) is not None:
            return known
        if len(digits) > 15:
            return self._digits(digits, len(digits))
        tried = 0
        while (made := "999" + self._digits(f"{digits}:{tried}", 12)) in self._taken:
            tried += 1
        self._taken.add(made)
        self._numbers[digits] = made
        return made

    def message_id(self, id: str) -> str:
        """WhatsApp's contain the number in base64, and so may others'."""
        if _OURS.fullmatch(id):
            return id
        if id.startswith("wamid."):
            return self._wamid(id)
        return f"m-{self._digest(id)[:24]}" if len(id) >= 16 else self.text(id, "")

    def name(self, name: str) -> str:
        """Each of its words another, the same for the same word."""
        return _WORD.sub(lambda word: self._called_instead(word[0]), name)

    def text(self, text: str, named: str) -> str:
        """
        What somebody wrote, or an id of whatever kind.

        Args:
            named: what the person is called of whom it is.
        """
        text = _TEXT.sub(self._found, text)
        own = _names_in(named)
        if not own and not self._full:
            return text
        done, at = [], 0
        for start, end in self._named(text, own):
            done += [text[at:start], self.name(text[start:end])]
            at = end
        return "".join([*done, text[at:]])

    def _named(self, text: str, own: frozenset[str]) -> Iterator[tuple[int, int]]:
        """Where a text names somebody: a full name that the file knows, or a word of one's own."""
        said = [(_folded(word[0]), *word.span()) for word in _SAID.finditer(text)]
        past = 0
        for number, (word, start, end) in enumerate(said):
            if number < past:
                continue
            if count := self._full_name(text, said[number : number + self._longest.get(word, 0)]):
                past = number + count
                yield start, said[past - 1][2]
            elif word in own and not re.search(r"\w", text[max(start - 1, 0) : start] + text[end : end + 1]):
                yield start, end

    def _full_name(self, text: str, said: list[tuple[str, int, int]]) -> int:
        """Of how many of these words the longest full name is with which they begin; 0 where they begin with none."""
        for count in range(len(said), 1, -1):
            words, starts, ends = zip(*said[:count], strict=True)
            gaps = zip(ends, starts[1:], strict=False)
            if hash(words) in self._full and all(_BETWEEN.fullmatch(text[end:start]) for end, start in gaps):
                return count
        return 0

    def _found(self, match: re.Match[str]) -> str:
        found = match[0]
        if match["wamid"]:
            return self._wamid(found)
        if match["owner"]:
            return f"conv_{self.person(match['owner'])}_{match['since']}"
        if match["email"]:
            return f"{self._digest(found.lower())[:10]}@example.org"
        if match["scoped"]:
            return self.person(found)
        if match["number"]:
            return ("+" if "+" in found else "") + self.number(re.sub(r"\D", "", found))
        return found  # a trace, an entry's id, a date

    def _wamid(self, id: str) -> str:
        return "wamid." + base64.b64encode(bytes.fromhex(self._digest(id))[:27]).decode()

    def _called_instead(self, word: str) -> str:
        made = _INVENTED[int(self._digest(_folded(word))[:8], 16) % len(_INVENTED)]
        return made if word[0].isupper() else made.lower()

    def _digits(self, of: str, count: int) -> str:
        return f"{int(self._digest(of), 16) % 10**count:0{count}d}"

    def _digest(self, of: str) -> str:
        return hashlib.blake2b(of.encode(errors="surrogateescape"), key=self._secret, digest_size=32).hexdigest()


@lru_cache(maxsize=4096)
def _names_in(named: str) -> frozenset[str]:
    """The words of a name that would tell whose it is, wherever they stand."""
    words = frozenset(map(_folded, _WORD.findall(named)))
    return frozenset(word for word in words if len(word) > 2 and word not in _COMMON)


@lru_cache(maxsize=16384)
def _folded(word: str) -> str:
    """Without regard to case and accents."""
    if word.isascii():
        return word.lower()
    return "".join(each for each in unicodedata.normalize("NFKD", word.casefold()) if not unicodedata.combining(each))


def _decoded(body: bytes) -> Any:
    """None where it is no JSON."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _full_names(body: Any) -> Iterator[str]:
    """What senders are called, and whom the cards that they send name."""
    if not isinstance(body, dict):
        return
    if isinstance(body.get("name"), str):
        yield body["name"]
    yield from _on_cards(body.get("content"))


def _on_cards(content: Any) -> Iterator[str]:
    if isinstance(content, list):
        for each in content:
            yield from _on_cards(each)
    elif isinstance(content, dict):
        parts = [each for part in ("first_name", "last_name") if isinstance(each := content.get(part), str)]
        yield " ".join(parts)
        if isinstance(content.get("formatted_name"), str):
            yield content["formatted_name"]
        for each in content.values():
            yield from _on_cards(each)
