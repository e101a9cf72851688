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


def _bare_hosts(text: str) -> str:
    """Without the colons of IPv6."""
    return re.sub(r"\[[0-9A-Fa-f:.]+\]", "ipv6", text)


def _database(text: str) -> str:
    # Of several hosts each may have a port of its own; what stands before the last @ is the user's and a password.
    port = r"(:[1-9]\d{0,4})?"
    if not re.fullmatch(
        rf"postgres(ql)?://([^/?#]*@)?[^@/?#:,]*{port}(,[^@/?#:,]*{port})*([/?].*)?", _bare_hosts(text)
    ):
        return (
            "is no postgresql:// address; write postgresql://user:password@host:5432/database, or unset it for SQLite "
            "in DATA_DIR"
        )
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        return "has a % that begins no code such as %40; write a % in a password as %25"
    return ""


CHECKS: dict[str, Callable[[str], str]] = {
    "redis_url": _redis, "outbound_url": _http, "model_url": _addresses, "outbound_secret": _webhook_secrets,
    "outbound_header": _header, "timezone": _timezone, "namespace": _namespace, "ingress_timeout": _patience,
    "database_url": _database,
}  # fmt: skip
"""The settings that have a form of their own."""
