"""
The environment and `.env` → Settings: where Cauce runs, and what is secret.

The environment wins over the file.  A secret is a `Secret`, whose repr shows nothing; `reveal()` is said where it is
used and nowhere else.  What the pipeline is stands in topology.py.
"""

from __future__ import annotations

import difflib
import io
import os
import re
from collections.abc import Mapping
from datetime import tzinfo
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from dotenv.main import resolve_variables
from dotenv.parser import Binding, parse_stream

from streams import values
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
    ingress_workers: int = 1
    ingress_timeout: float = 30.0
    ingress_tokens: tuple[Secret, ...] = ()
    operator_tokens: tuple[Secret, ...] = ()
    outbound_url: Secret | None = None
    outbound_secret: tuple[Secret, ...] = ()
    """Several while rotating: the first signs `X-Cauce-Signature-256`, all sign `webhook-signature`."""
    outbound_header: Secret | None = None
    whatsapp_app_secret: Secret | None = None
    whatsapp_verify_token: Secret | None = None
    model: str = "demo"
    model_url: tuple[str, ...] = ()
    """Several servers of one model are asked in turn."""
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
    def zone(self) -> tzinfo | None:
        """Where the people's clock stands; None is this machine's."""
        return ZoneInfo(self.timezone) if self.timezone else None

    @property
    def production(self) -> bool:
        return self.environment == "production"

    @property
    def embedded(self) -> bool:
        return self.redis_url is None or self.redis_url.reveal() == "embedded"


PROBE_SOCKET = "CAUCE_PROBE"
"""No setting: names a unix socket to serve on as well, over which whoever supervises a process asks if it is ready."""

_NAMES = {field.name.upper(): field.name for field in msgspec.structs.fields(Settings)}


def load(
    environ: Mapping[str, str] | None = None, env_file: Path | str = ".env", *, required: bool = False
) -> Settings:
    """
    Read the environment and, under it, the file.

    Args:
        required: somebody named the file, so it must be there.

    Raises:
        ConfigurationError: names the file or the environment, the variable, its value (not of a secret) and what is
            accepted.
    """
    environ = os.environ if environ is None else environ
    path = Path(env_file)
    from_file = _assigned(path, _text(path, required=required))
    found: dict[str, Any] = {}
    for variable, field in _NAMES.items():
        for source, where in ((environ, "environment"), (from_file, str(path))):
            if text := (source.get(variable) or "").strip():
                found[field] = _read(field, variable, text, where)
                break
    return Settings(**found)


def near_misses(environ: Mapping[str, str]) -> dict[str, str]:
    """
    Variables of an environment that are all but one of ours, which is not set: name → the one that may be meant.

    No error there, as it is in a file: any platform has a REDIS_URI or a DATABASE_URI of its own.
    """
    found = {key: near for key in environ if (near := _near(key))}
    return {key: near for key, near in found.items() if near not in environ}


def _near(key: str) -> str:
    """The setting of which this is a misspelling; "" where it is one, or another program's variable."""
    if key in _NAMES:
        return ""
    return next(iter(difflib.get_close_matches(key.upper(), _NAMES, n=1, cutoff=0.85)), "")


def _text(path: Path, *, required: bool) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        if required:
            raise ConfigurationError(f"{path}: no such file; name one that is there with --env-file") from None
        return ""
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(f"{path}: line {line} is no UTF-8; save the file as UTF-8") from None


_FIRST_WORD = re.compile(r"\s*(?:export\s+)?['\"]?(\w+)")


def _assigned(path: Path, text: str) -> Mapping[str, str | None]:
    """
    What a file sets.  Other programs' lines are left alone; one that is meant for us and would set nothing is refused.
    """
    bindings = list(parse_stream(io.StringIO(text)))
    for binding in bindings:
        _refuse_a_slip(path, binding)
    return resolve_variables(((each.key, each.value) for each in bindings if each.key), override=True)


def _refuse_a_slip(path: Path, binding: Binding) -> None:
    written = binding.original.string
    # `DEBOUNCE 5`, `DEBOUNCE: 5` and a quote that is never closed have no key, or one with more in it than a name.
    first = _FIRST_WORD.match(written)
    key = first[1] if binding.value is None and first else binding.key or ""
    line = binding.original.line + written[: len(written) - len(written.lstrip())].count("\n")
    if near := _near(key):
        raise ConfigurationError(f"{path}: line {line}: {key} is no setting; did you mean {near!r}?")
    if binding.value is None and key in _NAMES:
        raise ConfigurationError(f"{path}: line {line} does not set {key}; write {key}=value")


def _fail(where: str, variable: str, text: str, why: str) -> ConfigurationError:
    # What stands behind a `=` may be another line that was glued to this one, and a secret.
    shown = re.sub("=.*", "=…", text, flags=re.DOTALL)
    value = "" if variable.lower() in _SECRETS | _LISTS else f" = {shown!r}"
    return ConfigurationError(f"{where}: {variable}{value} {why}")


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
    "ingress_workers": (1, 64), "worker_port": (0, 65535),
}  # fmt: skip
_NUMBERS = {"debounce", "ingress_timeout", "shutdown_grace"}
_PATHS = {"system_prompt_file", "data_dir"}
_ADDRESSES = {"model_url"}
_GLUED = re.compile(rf"(?<![?&])({'|'.join(sorted(name.upper() for name in _SECRETS | _LISTS))})=")
"""In a value: what is appended to a file without a final newline ends up in its last line."""


def _read(field: str, variable: str, text: str, where: str) -> Any:
    if glued := _GLUED.search(text):
        raise ConfigurationError(f"{where}: {variable} runs on into {glued[1]}=…; give {glued[1]} a line of its own")
    if why := _wrong(field, text):
        raise _fail(where, variable, text, why)
    if field in _SECRETS:
        return Secret(text)
    if field in _LISTS:
        return tuple(Secret(part) for part in values.parts_of(text))
    if field in _ADDRESSES:
        return tuple(values.parts_of(text))
    if field in _PATHS:
        return Path(text).expanduser()
    if field in _CHOICES:
        return text.lower()
    if field in _WHOLE:
        return int(text)
    return float(text) if field in _NUMBERS else text


def _wrong(field: str, text: str) -> str:
    """What is wrong with a value; "" where nothing is."""
    if field in values.CHECKS:
        return values.CHECKS[field](text)
    if field in _CHOICES and text.lower() not in (accepted := _CHOICES[field]):
        return f"is not accepted; write one of {', '.join(accepted)}{suggest(text.lower(), accepted)}"
    if field in _WHOLE:
        low, high = _WHOLE[field]
        if not re.fullmatch(r"\d{1,10}", text) or not low <= int(text) <= high:
            return f"should be a whole number from {low} to {high}"
    if field in _NUMBERS and not re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return "should be a number of seconds, such as 2 or 0.5"
    return ""
