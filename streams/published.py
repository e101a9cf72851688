"""
What inference workers publish of their model with each heartbeat (`model:<consumer>`), read and put together.

Knows the fields that change from moment to moment; what the others mean is the engine's to say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

LOAD = ("running", "waiting")
"""What of it is of the moment: requests in work and before it.  Of several workers they add up."""


def models(replies: Iterable[Any]) -> list[dict[str, Any]]:
    """
    Each model that is served, the one with the most `workers` first.

    Args:
        replies: of GET; what no worker wrote is passed over.
    """
    found: dict[bytes, dict[str, Any]] = {}
    for reply in replies:
        told = _read(reply)
        if told is None:
            continue
        load = {name: told.pop(name) for name in LOAD if isinstance(told.get(name), int)}
        model = found.setdefault(msgspec.json.encode(told, order="sorted"), told | {"workers": 0})
        model["workers"] += 1
        for name, count in load.items():
            model[name] = model.get(name, 0) + count
    return sorted(found.values(), key=lambda model: -int(model["workers"]))


def _read(reply: Any) -> dict[str, Any] | None:
    if not isinstance(reply, bytes):
        return None
    try:
        return msgspec.json.decode(reply, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
