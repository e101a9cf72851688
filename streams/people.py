"""
Who a request is about: one spelling for each person, on every route.

Pure.  Meta sends bare digits, people type spaces and brackets, the original's keys carry a `+`; all three are one
person.  Whatever does not look like a telephone number is kept as it came.
"""

from __future__ import annotations

import re
import unicodedata

from streams.errors import CauceError

LONGEST = 160
LONGEST_ID = 256
"""Characters of a message's id; WhatsApp's have about 60."""

_NUMBER = re.compile(r"\+?[0-9 ().-]+")
_SPELT = re.compile(r"\+[0-9]{7,15}")
"""As we spell them."""


class Unusable(CauceError):
    """An id that cannot be one; the text says what is accepted."""


def person(user_id: str, *, phone_numbers: bool = True) -> str:
    """
    The one spelling of a person's id: `591 123-45678` → `+59112345678`, `web-42` → `web-42`.

    Raises:
        Unusable: empty, too long, or with characters that an id must not have.
    """
    if _SPELT.fullmatch(user_id):
        return user_id
    _check(user_id, LONGEST)
    if user_id != user_id.strip():
        raise Unusable("must not begin or end with a space")
    if "/" in user_id:
        raise Unusable("must not contain '/'")
    if phone_numbers and _NUMBER.fullmatch(user_id):
        digits = re.sub(r"[^0-9]", "", user_id)
        if 7 <= len(digits) <= 15:
            return f"+{digits}"
    return user_id


def message_id(given: str) -> str:
    """
    A message's id as its sender gave it, byte for byte.

    Raises:
        Unusable: empty, too long, or with control characters.
    """
    _check(given, LONGEST_ID)
    return given


def _check(text: str, longest: int) -> None:
    if not 1 <= len(text) <= longest:
        raise Unusable(f"must have 1 to {longest} characters")
    if text.isprintable():
        return
    if any(unicodedata.category(character) in ("Cc", "Cs") for character in text):
        raise Unusable("must not contain control characters")
