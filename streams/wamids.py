"""
What a WhatsApp message id says: whose number it was made for.

Pure.  A wamid is Base64 of a small record in which the number stands as text behind its length.  Nobody has promised
that form, so it is only ever taken for a hint: where it holds no number, the message is looked for in another way.
"""

from __future__ import annotations

import base64
import binascii
import re

PREFIX = "wamid."
_EARLY = 8
"""The number stands within the first bytes; further on there may be digits that are none."""


def number(wamid: str) -> str | None:
    """The digits of the number, without a `+`: the sender's of an inbound message, the receiver's of one of ours."""
    if not wamid.startswith(PREFIX):
        return None
    encoded = wamid.removeprefix(PREFIX).rstrip("=")
    try:
        raw = base64.b64decode(
            encoded + "=" * (-len(encoded) % 4), altchars=b"-_" if set(encoded) & set("-_") else None
        )
    except (binascii.Error, ValueError):
        return None
    for at in range(min(_EARLY, len(raw))):
        text = raw[at + 1 : at + 1 + raw[at]]
        if 7 <= raw[at] <= 15 and len(text) == raw[at] and re.fullmatch(rb"[0-9]+", text):
            return text.decode()
    return None
