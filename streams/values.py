"""
What is wrong with the text of one setting, in words that show nothing of a secret; "" where nothing is.

Pure.  Where the text came from, and what the settings are, stands in settings.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from streams import addresses, signature
from streams.topology import suggest


def parts_of(text: str) -> list[str]:
    """A list, written with spaces or commas between."""
    return [part for part in re.split(r"[\s,]+", text) if part]


def _timezone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (OSError, ValueError, KeyError):
        return f"is no IANA time zone such as America/La_Paz{suggest(text, available_timezones())}"
    return ""


def _namespace(text: str) -> str:
    return "" if re.fullmatch(r"[\w.-]+:?", text) else "should be letters, digits, - _ ."


def _header(text: str) -> str:
    # A name is a token of RFC 9110, 5.6.2.
    return "" if re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\r\n]+", text) else "should be 'Name: value'"


def _webhook_secrets(text: str) -> str:
    try:
        for secret in parts_of(text):
            signature.key_of(secret)
    except ValueError as error:
        return f"cannot be used: {error}"
    return ""


def _http(text: str) -> str:
    try:
        parts = urlsplit(text)
        # A password is taken with its spaces; an address has none.
        good = re.fullmatch(r"https?://([^/?#@]*@)?\S+", text) and parts.hostname and parts.port != 0
    except ValueError:
        good = None
    return "" if good else "is no http:// or https:// address; write it as https://host/path or http://host:port/path"


def _addresses(text: str) -> str:
    wrong = [part for part in parts_of(text) if _http(part)]
    return "" if parts_of(text) and not wrong else f"holds what {_http(wrong[0] if wrong else '')}"


def _patience(text: str) -> str:
    good = re.fullmatch(r"\d{1,5}(\.\d+)?", text) and float(text) >= 1
    return "" if good else "should be a number of seconds from 1 to 99999"


def _redis(text: str) -> str:
    try:
        if text != "embedded":
            addresses.parse(text)
    except ValueError as error:
        return str(error)
    return ""


CHECKS: dict[str, Callable[[str], str]] = {
    "redis_url": _redis, "outbound_url": _http, "model_url": _addresses, "outbound_secret": _webhook_secrets,
    "outbound_header": _header, "timezone": _timezone, "namespace": _namespace, "ingress_timeout": _patience,
}  # fmt: skip
"""The settings that have a form of their own."""
