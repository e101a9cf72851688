"""
Proofs of origin: secrets, and the signatures made and checked with them.

Pure: bytes and text in, bytes and text out; the caller brings the clock.  Knows the formats, not the headers' names:
the hexadecimal one (Meta's `X-Hub-Signature-256`, our `X-Cauce-Signature-256`) and Standard Webhooks
(https://github.com/standard-webhooks/standard-webhooks).  Every comparison takes the same time whatever differs.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import secrets
from collections.abc import Iterable, Sequence

PREFIX = "whsec_"
TOLERANCE_SECONDS = 300
"""How far a webhook's timestamp may be from the receiver's clock, either way."""


def new_secret() -> str:
    """
    A secret for webhooks: `whsec_` and the base64 of 36 printable characters (216 random bits).

    Printable, because n8n's Crypto node takes a key as text: whoever decodes the secret can type what came out.
    """
    return PREFIX + base64.b64encode(secrets.token_urlsafe(27).encode()).decode()


def key_of(secret: str) -> bytes:
    """
    The bytes that Standard Webhooks signs with: what stands behind `whsec_`, decoded.

    Raises:
        ValueError: no `whsec_`, no base64, or nothing there; the text shows no part of it and how to get a good one.
    """
    remedy = "write `whsec_` and base64, as `cauce secrets` makes them"
    if not secret.startswith(PREFIX):
        raise ValueError(f"a webhook secret starts with whsec_; {remedy}")
    encoded = secret.removeprefix(PREFIX).rstrip("=")
    try:
        key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"what follows whsec_ is no base64; {remedy}") from None
    if not key:
        raise ValueError(f"nothing follows whsec_; {remedy}")
    return key


def equal(left: str | bytes, right: str | bytes) -> bool:
    """Are these the same?  In constant time for equal lengths; text of any alphabet is compared as UTF-8."""
    return hmac.compare_digest(_bytes(left), _bytes(right))


def among(given: str | bytes, accepted: Iterable[str | bytes]) -> bool:
    """Is this one of several (tokens while rotating)?  Looks at all of them, so the time tells not which one."""
    return any([equal(given, one) for one in accepted])


@functools.lru_cache(maxsize=64)
def _keyed(key: bytes) -> hmac.HMAC:
    return hmac.new(key, digestmod="sha256")


def _hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-SHA-256 by one of a few keys, each set up once: OpenSSL takes longer for that than for a message."""
    of_this = _keyed(key).copy()
    of_this.update(message)
    return of_this.digest()


def hexadecimal(key: str | bytes, body: bytes) -> str:
    """`sha256=<hex>` over the body, keyed with the whole text of a secret."""
    return "sha256=" + _hmac(_bytes(key), body).hex()


def hexadecimal_holds(header: str, keys: Iterable[str | bytes], body: bytes) -> bool:
    """Was `sha256=<hex>` made with one of these keys over exactly these bytes?"""
    return among(header.strip().lower(), [hexadecimal(key, body) for key in keys])


def standard(keys: Sequence[bytes], webhook_id: str, timestamp: int, body: bytes) -> str:
    """
    The `webhook-signature` of one attempt: a `v1,` signature for each key, separated by spaces.

    Args:
        keys: of `key_of`; several while a secret is being rotated.
        timestamp: Unix seconds of this attempt.
    """
    signed = f"{webhook_id}.{timestamp}.".encode() + body
    return " ".join("v1," + base64.b64encode(_hmac(key, signed)).decode() for key in keys)


def standard_holds(
    header: str,
    keys: Sequence[bytes],
    webhook_id: str,
    timestamp: str,
    body: bytes,
    *,
    now: float,
    tolerance_seconds: float = TOLERANCE_SECONDS,
) -> bool:
    """
    Was any signature in this `webhook-signature` made with one of these keys, not too long ago?

    Args:
        timestamp: the `webhook-timestamp` header as it came.
        now: the receiver's clock, Unix seconds.
    """
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= 12):
        return False
    if abs(now - int(timestamp)) > tolerance_seconds:
        return False
    accepted = standard(keys, webhook_id, int(timestamp), body).split()
    return any([among(given, accepted) for given in header.split()])


def _bytes(value: str | bytes) -> bytes:
    return value.encode("utf-8", "surrogateescape") if isinstance(value, str) else value
