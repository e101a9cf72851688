"""
A long text → the parts in which WhatsApp takes it.

Pure.  A part ends at the end of a sentence; where a sentence alone is too long, between two words; where a word is, at
a place that breaks no emoji and no accented letter.  Nothing but the blanks around a cut is lost.
"""

from __future__ import annotations

import re
import unicodedata

_SENTENCE_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'»”’)\]*_~]*+(?=\s)|\n")
"""The lookbehind and the possessive quantifiers keep a row of thousands of dots linear."""
_NO_END = re.compile(
    # "Dr. Rojas", "las 3 p. m.", and the number of a list's item: a dot, but no end of a sentence.
    r"(?:^|[\s(¿¡\"'«“])(?:dra?s?|sra?s?|srta|lic|ing|prof|ud|uds|av|avda|tel|cel|núm|nro|no|pág|aprox|etc|ej|\w)\.$"
    r"|(?:^|\n)\s*\d{1,3}\.$",
    re.IGNORECASE,
)
_GLUE = {"\u200d", "\ufe0e", "\ufe0f", "\u20e3"}
"""Zero-width joiner, variation selectors, the keycap: what comes before them belongs to them."""
_LONGEST_CLUSTER = 32
"""Characters; how far back a forced cut looks for a place between two visible characters."""


def split(text: str, max_chars: int) -> list[str]:
    """
    The parts of a text in their order, none longer than `max_chars` characters; always at least one.

    Raises:
        ValueError: `max_chars` is under 1.
    """
    if max_chars < 1:
        raise ValueError("max_chars should be at least 1")
    parts: list[str] = []
    rest = text
    while len(rest) > max_chars:
        cut = _cut(rest, max_chars)
        if part := rest[:cut].rstrip():
            parts.append(part)
        rest = rest[cut:].lstrip()
    if rest or not parts:
        parts.append(rest)
    return parts


def _cut(text: str, limit: int) -> int:
    """Where to end a part of a text that is longer than `limit`: an index from 1 to `limit`."""
    window = text[: limit + 1]  # one more, to see that a blank follows
    ends = [
        match.end()
        for match in _SENTENCE_END.finditer(window)
        if match.end() <= limit and not _NO_END.search(window, max(0, match.end() - 16), match.end())
    ]
    # The last end may be a line break at the very start of the text, which would make an empty part.
    if ends and window[: ends[-1]].strip():
        return ends[-1]
    blanks = [match.start() for match in re.finditer(r"\s+", window) if 0 < match.start() <= limit]
    if blanks and window[: blanks[-1]].strip():
        return blanks[-1]
    return _between_characters(text, limit)


def _between_characters(text: str, limit: int) -> int:
    for cut in range(limit, max(0, limit - _LONGEST_CLUSTER), -1):
        if not _joined(text, cut):
            return cut
    return limit


def _joined(text: str, cut: int) -> bool:
    """Do the characters on both sides of this place show as one?"""
    before, after = text[cut - 1], text[cut]
    return (
        before == "\u200d"
        or after in _GLUE
        or unicodedata.combining(after) != 0
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or (_is_flag_half(after) and _halves_before(text, cut) % 2 == 1)
    )


def _is_flag_half(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _halves_before(text: str, cut: int) -> int:
    """A flag is two letters of a row of their own: how many of that row stand before this place?"""
    start = cut
    while start > 0 and _is_flag_half(text[start - 1]):
        start -= 1
    return cut - start
