"""
The environment and `.env` → Settings: where Cauce runs, and what is secret.

The environment wins over the file.  A secret is a `Secret`, whose repr shows nothing; `reveal()` is said where it is
used and nowhere else.  What the pipeline is stands in topology.py.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from dotenv import dotenv_values

from streams.errors import ConfigurationError
from streams.topology import suggest


class Secret:
    """A value that must not be printed."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """Field `redis_url` is the variable `REDIS_URL`, and so on."""

    environment: Literal["development", "production"] = "development"
    redis_url: Secret | None = None
    """None, or `embedded`: the server `cauce up` starts itself."""
    namespace: str = ""
    session_expire_time: int = 3600
    rate_limit_per_minute: int = 20
    ingress_host: str = "127.0.0.1"
    ingress_port: int = 8000
    ingress_tokens: tuple[Secret, ...] = ()
    operator_tokens: tuple[Secret, ...] = ()
    outbound_url: Secret | None = None
    outbound_secret: tuple[Secret, ...] = ()
    """Several while rotating: the first signs `X-Cauce-Signature-256`, all sign `webhook-signature`."""
    outbound_header: Secret | None = None
    whatsapp_app_secret: Secret | None = None
    whatsapp_verify_token: Secret | None = None
    model: str = "demo"
    model_url: str | None = None
    model_api_key: Secret | None = None
    hf_token: Secret | None = None
    hf_home: str | None = None
    system_prompt_file: Path | None = None
    timezone: str | None = None
    debounce: float | None = None
    data_dir: Path = Path("data")
    database_url: Secret | None = None
    worker_port: int | None = None
    shutdown_grace: float = 30.0
    log_format: Literal["console", "json"] = "console"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def embedded(self) -> bool:
        return self.redis_url is None or self.redis_url.reveal() == "embedded"


def load(environ: Mapping[str, str] | None = None, env_file: Path | str = ".env") -> Settings:
    """
    Read the environment and, under it, the file.

    Raises:
        ConfigurationError: names the variable, its value (not of a secret) and what is accepted.
    """
    environ = os.environ if environ is None else environ
    path = Path(env_file)
    from_file = {key: value for key, value in dotenv_values(path).items() if value is not None}
    names = {field.name.upper(): field.name for field in msgspec.structs.fields(Settings)}
    for key in from_file:
        # A file may carry other programs' variables; a near miss of one of ours is a typo, and would be silent.
        if key not in names and (near := suggest(key, names)) and _close(key, names):
            raise ConfigurationError(f"{path}: {key} is no setting{near}")
    values: dict[str, Any] = {}
    for variable, field in names.items():
        for source, where in ((environ, "environment"), (from_file, str(path))):
            if text := source.get(variable, "").strip():
                values[field] = _read(field, variable, text, where)
                break
    settings = Settings(**values)
    _check(settings)
    return settings


def _close(key: str, names: Mapping[str, str]) -> bool:
    return bool(difflib.get_close_matches(key, names, n=1, cutoff=0.85))


def _fail(where: str, variable: str, text: str, why: str) -> ConfigurationError:
    return ConfigurationError(f"{where}: {variable} = {text!r} {why}")


_SECRETS = {
    "redis_url", "outbound_url", "outbound_header", "whatsapp_app_secret", "whatsapp_verify_token", "model_api_key",
    "hf_token", "database_url",
}  # fmt: skip
_LISTS = {"ingress_tokens", "operator_tokens", "outbound_secret"}
_CHOICES = {
    "environment": ("development", "production"),
    "log_format": ("console", "json"),
    "log_level": ("debug", "info", "warning", "error"),
}
_WHOLE = {
    "session_expire_time": (1, 10**9), "rate_limit_per_minute": (0, 10**9), "ingress_port": (0, 65535),
    "worker_port": (0, 65535),
}  # fmt: skip
_NUMBERS = {"debounce", "shutdown_grace"}
_PATHS = {"system_prompt_file", "data_dir"}


def _read(field: str, variable: str, text: str, where: str) -> Any:
    if field in _SECRETS:
        return Secret(text)
    if field in _LISTS:
        return tuple(Secret(part) for part in re.split(r"[\s,]+", text) if part)
    if field in _PATHS:
        return Path(text).expanduser()
    if field in _CHOICES:
        if text.lower() not in _CHOICES[field]:
            accepted = _CHOICES[field]
            near = suggest(text.lower(), accepted)
            raise _fail(where, variable, text, f"is not accepted; write one of {', '.join(accepted)}{near}")
        return text.lower()
    if field in _WHOLE:
        low, high = _WHOLE[field]
        if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
            raise _fail(where, variable, text, f"should be a whole number from {low} to {high}")
        return int(text)
    if field in _NUMBERS:
        if not re.fullmatch(r"\d+(\.\d+)?", text):
            raise _fail(where, variable, text, "should be a number of seconds, such as 2 or 0.5")
        return float(text)
    return text


def _check(settings: Settings) -> None:
    if settings.timezone:
        try:
            ZoneInfo(settings.timezone)
        except (OSError, ValueError, KeyError):
            why = "is no IANA time zone such as America/La_Paz"
            raise _fail("environment", "TIMEZONE", settings.timezone, why) from None
    if settings.redis_url and not settings.embedded:
        scheme = settings.redis_url.reveal().partition("://")[0]
        accepted = ("redis", "rediss", "unix")
        if scheme not in accepted:
            raise ConfigurationError(
                f"environment: REDIS_URL starts with {scheme[:20]!r}; write {'://, '.join(accepted)}:// or embedded"
            )
    if settings.outbound_url and not re.match(r"https?://[^/\s]+", settings.outbound_url.reveal()):
        raise ConfigurationError("environment: OUTBOUND_URL is no http:// or https:// address")
    if settings.outbound_header and not re.fullmatch(r"[A-Za-z0-9-]+:[^\r\n]+", settings.outbound_header.reveal()):
        raise ConfigurationError("environment: OUTBOUND_HEADER should be 'Name: value'")
    if settings.namespace and not re.fullmatch(r"[\w.-]+:?", settings.namespace):
        raise _fail("environment", "NAMESPACE", settings.namespace, "should be letters, digits, - _ .")
