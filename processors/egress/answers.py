"""
Which answers mean delivered, later, never, or stop; and the words for it.

Pure: no connection, no clock.  n8n's peculiarities are here.  The words go into logs and journals, so they hold nothing
that may be secret, no address, and nothing of an answer; how that begins is for the dead letter, without what we sent.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Literal

import msgspec

from streams import retry_after

_SHOWN_CHARACTERS = 200
_LATER = {404, 408, 425, 429}
"""404: what n8n says for seconds after its start, and of a workflow that is not published."""
_STARTING_UP = b"n8n is starting up"


class Outcome(msgspec.Struct, frozen=True):
    """What became of a POST."""

    kind: Literal["delivered", "retry", "bury", "gone"]
    why: str = ""
    """In our own words."""
    quoted: str = ""
    """bury: how the answer begins, which may be anybody's words."""
    status: int | None = None
    """None: no answer came."""
    after: float | None = None
    """Seconds the receiver asks us to wait (`Retry-After`)."""
    unreached: bool = False
    """There was not even a connection to send it over, so no reply can be to blame."""


class Answer(msgspec.Struct, frozen=True):
    """As much of an HTTP answer as matters here."""

    status: int
    retry_after: str | None = None
    body: bytes = b""


def judge(answer: Answer, *, url: str, now: float, hidden: Sequence[str] = ()) -> Outcome:
    """
    What an answer means.

    Args:
        now: Unix seconds, for a `Retry-After` that is a date.
        hidden: texts that must not show in `quoted`: secrets, and what we sent.
    """
    status = answer.status
    if status == 200 and _is_starting_up(answer.body):
        return Outcome("retry", "200, but only the page n8n shows while it starts", status=status)
    if 200 <= status < 300:
        return Outcome("delivered", status=status)
    why = f"{status}{_hint(status, url)}"
    if status == 410:
        return Outcome("gone", why, status=status)
    if status in _LATER or status >= 500:
        return Outcome("retry", why, status=status, after=retry_after.seconds(answer.retry_after, now))
    return Outcome("bury", why, _first_words(answer.body, hidden), status)


def _hint(status: int, url: str) -> str:
    if status == 404 and "/webhook-test/" in url:
        return (
            " from a test address: n8n listens at /webhook-test/ only while its editor waits for one event;"
            " publish the workflow and use /webhook/"
        )
    if status == 404:
        return " (in n8n: the workflow is not published, the path is wrong, or n8n has only just started)"
    if 300 <= status < 400:
        return " (redirects are not followed: write the final address into OUTBOUND_URL)"
    return ""


def _is_starting_up(body: bytes) -> bool:
    """The page, as text or HTML; not JSON in which a workflow repeats what somebody wrote."""
    head = body.lstrip()[:1]
    return head not in (b"{", b"[", b'"') and _STARTING_UP in body.lower()


def _first_words(body: bytes, hidden: Sequence[str]) -> str:
    text = body[: 8 * _SHOWN_CHARACTERS].decode(errors="replace")
    for secret in sorted(filter(None, hidden), key=len, reverse=True):
        text = text.replace(secret, "…")
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_SHOWN_CHARACTERS]


class Unreached(Exception):
    """There was no connection to send it over; the cause says why."""


class Closed(Exception):
    """The connection was closed before an answer."""


class Unintelligible(Exception):
    """What came is no HTTP."""


def unanswered(error: Exception) -> Outcome:
    """No answer.  Of an error's own text nothing is repeated that may hold an address."""
    if isinstance(error, Unreached):
        return Outcome("retry", _unreached(error.__cause__), unreached=True)
    if isinstance(error, TimeoutError):
        return Outcome("retry", "no answer in time")
    if isinstance(error, Closed):
        return Outcome("retry", "the connection was closed before an answer")
    return Outcome("retry", f"no HTTP answer ({type(error).__name__})")


def _unreached(cause: BaseException | None) -> str:
    if isinstance(cause, TimeoutError):
        return "no connection in time"
    if isinstance(cause, (socket.gaierror, UnicodeError)):
        return "the host's name is not found"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"TLS: the certificate does not hold: {cause.verify_message}"
    kind = "TLS" if isinstance(cause, (ssl.SSLError, ssl.CertificateError)) else "cannot connect"
    return f"{kind}: {getattr(cause, 'strerror', None) or type(cause).__name__}"
