"""
What a server's refusal means, by the word with which it begins.

Pure.  Whether a call is repeated is decided in connection.py, where the next one goes in routes.py.
"""

from __future__ import annotations

import re

FULL = "OOM"
"""There is no room for a write."""

AWAY = frozenset({"BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "MOVED", "ASK"})
"""Answers of a server that can do nothing now, not even read; the same call will be taken soon, there or elsewhere."""

DEMOTED = "READONLY"
"""It is a replica by now."""

READ_ONLY = frozenset({DEMOTED, "NOREPLICAS", "MISCONF", "UNBLOCKED"})
"""
Answers of one that takes no writes now: it is failing over (also while we waited), has lost its replicas, or cannot
write to its disk.
"""

_CODE = re.compile(rf"\b({'|'.join([FULL, *sorted(AWAY), *sorted(READ_ONLY)])})\b")


def code_of(error: Exception) -> str:
    """
    The word that tells what the server's trouble is (`READONLY`, `OOM`, …), or none.

    Before Redis 7 what a command answers within a script stands somewhere in the script's own error.
    """
    told = getattr(error, "status_code", None)
    if told and told != "ERR":
        return str(told)
    found = _CODE.search(str(error)[:300])
    return found[1] if found else ""
