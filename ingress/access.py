"""
Who may come in, and with how much: tokens, signatures, origins, sizes.

Knows settings and headers.  Every comparison takes the same time whatever differs; no answer repeats what was sent as a
secret.  Which route needs what stands in app.py.
"""

from __future__ import annotations

import functools
import ipaddress
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress.refusal import Refused
from streams import log as logs
from streams import signature
from streams.errors import ConfigurationError
from streams.settings import Secret, Settings

T = TypeVar("T")
Endpoint = Callable[[Request], Awaitable[Response]]
Need = Literal["ingress", "operator", "whatsapp"]

CHAT_BYTES, WHATSAPP_BYTES = 64 * 1024, 3 * 1024 * 1024
LARGE, MOST_LARGE = 64 * 1024, 64
"""From how many bytes on a body is large, and how many such may be on their way at once: of a webhook's, which may have
3 MiB, the signature can only be checked when all of it is here.  What people write is never large."""

DEEPEST = 32
"""Levels of nesting that a body may have: what is deeper could not be read again further down."""

SHORTEST = 24
"""Characters of a token in production."""

PRINTED = frozenset({"an-example-token-of-24-characters-or-more"})
"""Tokens that our docs show; whoever copied one has no secret."""

SIGNATURE = "X-Hub-Signature-256"
_SAFE = ("GET", "HEAD", "OPTIONS")
_log = logs.get("ingress")


def check(settings: Settings) -> None:
    """
    May an ingress start like this?

    Raises:
        ConfigurationError: it would be open to whoever finds it.
    """
    remedy = "make tokens with `cauce secrets >> .env`"
    tokens = [token.reveal() for token in (*settings.ingress_tokens, *settings.operator_tokens)]
    if not tokens:
        if settings.production:
            raise ConfigurationError(f"environment: INGRESS_TOKENS is not set, which production requires; {remedy}")
        if not _loopback(settings.ingress_host):
            raise ConfigurationError(
                f"environment: INGRESS_HOST = {settings.ingress_host} would let anybody in, for INGRESS_TOKENS is not "
                f"set; {remedy}"
            )
    if settings.production:
        if any(len(token) < SHORTEST for token in tokens):
            raise ConfigurationError(f"environment: a token has fewer than {SHORTEST} characters; {remedy}")
        if not PRINTED.isdisjoint(tokens):
            raise ConfigurationError(f"environment: a token is one that our docs print; {remedy}")
        if not settings.operator_tokens:
            _log.warning("tokens.shared", hint="OPERATOR_TOKENS is not set: whoever may post may also read and erase")


class Access:
    """The doorkeeper of one ingress."""

    def __init__(self, settings: Settings) -> None:
        self._operator = _bytes(settings.operator_tokens)
        self._ingress = _bytes(settings.ingress_tokens) + self._operator
        self._all = self._operator or self._ingress
        self._app_secret = settings.whatsapp_app_secret

    def guard(self, need: Need, endpoint: Endpoint) -> Endpoint:
        """The endpoint, for those who may; POST /whatsapp also has to call `signed`."""

        @functools.wraps(endpoint)
        async def guarded(request: Request) -> Response:
            self._same_origin(request)
            if not (need == "whatsapp" and self._will_be_checked(request)):
                self._token(request, need)
            return await endpoint(request)

        return guarded

    def signed(self, request: Request, body: bytes) -> None:
        """
        Where a body came with Meta's signature and we have the secret: is it right?  Wrong is wrong beside any token.

        Raises:
            Refused
        """
        if self._app_secret is None:
            return
        key = self._app_secret.reveal()
        for given in request.headers.getlist(SIGNATURE):
            if not signature.hexadecimal_holds(given, [key], body):
                raise Refused(401, "bad_signature", f"{SIGNATURE} is not that of this body with WHATSAPP_APP_SECRET")

    def knows(self, headers: Mapping[bytes, bytes]) -> bool:
        """May whoever sends these, and no Origin, use the routes for senders?"""
        if not self._ingress:
            return _names_this_machine(headers.get(b"host", b"").decode("latin-1"))
        return any([signature.among(one, self._ingress) for one in _tokens(headers.items())])

    def _will_be_checked(self, request: Request) -> bool:
        if self._app_secret is None:
            return False
        if request.headers.getlist(SIGNATURE):
            return True
        if not self._ingress:
            raise Refused(401, "unauthorized", f"send {SIGNATURE}, for WHATSAPP_APP_SECRET is set, or set a token")
        return False

    def _token(self, request: Request, need: Need) -> None:
        if not self._ingress:
            return _by_a_name_of_ours(request)
        given = _tokens(request.headers.raw)
        if any([signature.among(one, self._all if need == "operator" else self._ingress) for one in given]):
            return None
        if any([signature.among(one, self._ingress) for one in given]):
            raise Refused(403, "operator_only", "this route takes one of OPERATOR_TOKENS")
        which = "OPERATOR_TOKENS" if need == "operator" and self._operator else "INGRESS_TOKENS"
        raise Refused(
            401,
            "unauthorized",
            f"send `Authorization: Bearer <token>` or `X-API-Key: <token>` with one of {which}",
            headers={"WWW-Authenticate": "Bearer"},
        )

    @staticmethod
    def _same_origin(request: Request) -> None:
        """A browser on somebody's page must not be made to write here."""
        if request.method in _SAFE:
            return
        host = request.headers.get("host", "").lower()
        for origin in request.headers.getlist("origin"):
            if origin.lower().partition("://")[2] != host:
                raise Refused(403, "foreign_origin", "a browser may only post here from this very site")


def _by_a_name_of_ours(request: Request) -> None:
    """
    Without tokens only this machine may ask, and a public name in `Host` is somebody else's page whose name was made to
    point here (DNS rebinding), or a tunnel, which wants tokens.
    """
    if not _names_this_machine(request.headers.get("host", "")):
        raise Refused(403, "foreign_host", "without INGRESS_TOKENS this answers to names of this machine only")


@functools.lru_cache(maxsize=64)
def _names_this_machine(given: str) -> bool:
    try:
        host = urlsplit("//" + given).hostname or ""
        if "." in host.rstrip(".") and not host.endswith((".localhost", ".internal")):
            ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _tokens(headers: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    """What is offered as a token, in either header."""
    given = []
    for name, value in headers:
        if name == b"x-api-key":
            given.append(value)
        elif name == b"authorization":
            scheme, _, token = value.partition(b" ")
            if scheme.lower() == b"bearer":
                given.append(token.strip())
    return given


def _bytes(tokens: tuple[Secret, ...]) -> tuple[bytes, ...]:
    return tuple(token.reveal().encode() for token in tokens)


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


_large: set[Request] = set()


async def body_of(request: Request, most: int) -> bytes:
    """
    The body, of which no more than `most` bytes are ever held.

    Raises:
        Refused: too large, one large one too many, or not said to be JSON.
    """
    too_large = Refused(413, "too_large", f"the body has more than {most} bytes", most=most)
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared[:20]) > most:
        raise too_large
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > most:
                raise too_large
            if len(body) > LARGE:
                _large.add(request)
                if len(_large) > MOST_LARGE:
                    raise Refused(503, "busy", "too many large bodies are on their way", headers={"Retry-After": "5"})
    finally:
        _large.discard(request)
    if body:
        _check_type(request)
    return bytes(body)


def _check_type(request: Request) -> None:
    given = request.headers.get("content-type", "")
    name, _, parameters = given.lower().partition(";")
    name, charset = name.strip(), parameters.partition("charset=")[2].strip(' "')
    if name and name != "application/json" and not name.endswith("+json"):
        raise Refused(415, "not_json", "send `Content-Type: application/json`, with a body of JSON")
    if charset and charset not in ("utf-8", "utf8", "us-ascii"):
        raise Refused(415, "not_json", "JSON is UTF-8; send it so")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "not_json", "send the body without Content-Encoding")


def decode(body: bytes, shape: type[T]) -> T:
    """
    A body as `shape`.

    Raises:
        Refused: no JSON, nested too deeply, or a field that is not what it should be.
    """
    try:
        return _decoded(body, shape)
    except msgspec.ValidationError as error:
        raise Refused(400, "invalid_field", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        what = "there is no body" if not body.strip() else f"the body is no JSON: {error}"
        _malformed(what)
    except RecursionError:
        _malformed(f"the body is nested more than {DEEPEST} levels deep")


def _malformed(what: str) -> NoReturn:
    raise Refused(400, "malformed_json", f"{what}; send one JSON value in UTF-8") from None


def _decoded(body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # A cut-off emoji (`"\\ud83d"`) is valid JSON, and n8n sends it, but no text: its half becomes `?`.
        if b"\\ud" not in body.lower():
            raise
        try:
            plain = json.loads(body, parse_constant=_malformed)
        except ValueError:
            plain = None
        if plain is None:
            raise
        return msgspec.json.decode(json.dumps(plain, ensure_ascii=False).encode(errors="replace"), type=shape)


def too_deep(value: Any) -> bool:
    """Is it nested beyond DEEPEST?"""
    level = [value]
    for _ in range(DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return False
    return True
