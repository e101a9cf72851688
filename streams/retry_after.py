"""How long another server asks us to wait, as HTTP says it (RFC 9110, 10.2.3).  Pure."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime


def seconds(header: str | None, now: float) -> float | None:
    """
    The field `Retry-After`, seconds or an HTTP date → seconds from 1 to a day; None for neither.

    Args:
        now: Unix seconds, for a date.
    """
    text = (header or "").strip()
    if re.fullmatch(r"[0-9]{1,9}", text):
        after = float(text)
    else:
        try:
            after = parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError, TypeError):
            return None
    return min(max(after, 1.0), 86400.0)
