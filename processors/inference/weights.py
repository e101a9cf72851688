"""
Where the weights lie that MODEL names, and what to say when they do not.

Knows names and folders, and whether the hub answers at all; imports neither torch nor transformers.
"""

from __future__ import annotations

import difflib
import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import msgspec

from streams.errors import ConfigurationError
from streams.settings import Settings

DEMO = Path(__file__).parent / "demo" / "model"

HUB = "https://huggingface.co"
EXPORTED = "openvino_model.xml"
CHOOSE = "choose a decoder with plain attention, such as Qwen, Llama or GPT-2"
"""The remedy where an engine cannot run an architecture."""

_NO_SAFETENSORS = "it has no safetensors weights, and Cauce reads no others; choose a model that has them"

_CONNECT_SECONDS = 5.0

_HUB_NAME = re.compile(r"[\w.-]{1,96}(?:/[\w.-]{1,96})?")


class HubUnreachable(OSError):
    """Nothing answers at the hub's address."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Something to load from."""

    name: str
    """A folder's path or a name on the Hugging Face hub."""
    local_only: bool
    """A folder, or the hub is not to be asked."""
    cache: str | None = None
    token: str | None = msgspec.field(default=None)

    def __repr__(self) -> str:
        return f"Place({self.name!r})"  # the token is nobody's business


def find(settings: Settings) -> Place:
    """
    MODEL as a place.

    Raises:
        ConfigurationError: it is a path to nothing, a folder that is no model's, or no name that a model can have.
    """
    name = settings.model
    if name == "demo":
        if not (DEMO / "config.json").is_file():
            raise ConfigurationError(
                f"environment: MODEL = 'demo', but {DEMO} is missing from this installation; "
                "reinstall Cauce, name another model in MODEL, or write MODEL=echo"
            )
        return Place(name=str(DEMO), local_only=True)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigurationError(f"environment: MODEL = {name!r} is a folder without a config.json, so no model")
        if not is_exported(name) and not any(folder.glob("*.safetensors")):
            raise ConfigurationError(f"environment: MODEL = {name!r}: {_NO_SAFETENSORS}")
        return Place(name=str(folder), local_only=True)
    if near := difflib.get_close_matches(name, ("demo", "echo"), cutoff=0.7):
        raise ConfigurationError(f"environment: MODEL = {name!r} is no model and no folder; did you mean {near[0]!r}?")
    if name.startswith((".", "/", "~")) or not _HUB_NAME.fullmatch(name):
        raise ConfigurationError(
            f"environment: MODEL = {name!r}: there is no such folder; write demo, echo, the path of a model's folder, "
            "or its name on the Hugging Face hub, such as Qwen/Qwen2.5-0.5B-Instruct"
        )
    return Place(
        name=name,
        local_only=_offline(),
        cache=str(Path(settings.hf_home).expanduser() / "hub") if settings.hf_home else None,
        token=settings.hf_token.reveal() if settings.hf_token else None,
    )


def is_exported(name: str) -> bool:
    """A folder that `cauce model export` made, or another with OpenVINO's files."""
    return name != "demo" and (Path(name).expanduser() / EXPORTED).is_file()


def ask_hub() -> None:
    """
    Raise HubUnreachable where the hub does not answer.

    Its client would find that out too, after most of a minute of retries.
    """
    address = urlsplit(os.environ.get("HF_ENDPOINT") or HUB)
    if "https" in getproxies():
        return  # then only the proxy knows
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise HubUnreachable(address.netloc) from error


def unusable(settings: Settings, place: Place, error: Exception) -> ConfigurationError:
    """What to tell a person whose model could not be loaded: one line, with the remedy."""
    if isinstance(error, ConfigurationError):
        return error
    why, kind = first_line(error), type(error).__name__
    if isinstance(error, HubUnreachable):
        remedy = f"it is not in the cache, and the hub ({error}) cannot be reached from here; write MODEL=demo"
    elif "safetensors" in str(error) and isinstance(error, OSError):
        remedy = _NO_SAFETENSORS
    elif "trust_remote_code" in str(error):
        remedy = "it needs code of its own to be run, which Cauce never does; choose another model"
    elif isinstance(error, OSError) and not Path(place.name).is_dir():
        looked = (
            "in the cache (the hub is switched off)" if place.local_only else "on the Hugging Face hub or in the cache"
        )
        remedy = f"it was not found {looked}; check the name, set HF_TOKEN if it is private, or write MODEL=demo"
    else:
        remedy = f"it cannot be loaded ({kind}: {why})"
    return ConfigurationError(f"environment: MODEL = {settings.model!r}: {remedy}")


def first_line(error: BaseException) -> str:
    """An error's text as far as one line of the terminal goes."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _offline() -> bool:
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in
               ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))  # fmt: skip
