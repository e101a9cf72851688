"""
streams.toml → Topology: what the pipeline is.

Reads one file and says what is wrong with it: where, with which value, and the nearest accepted spelling.  Where the
pipeline runs and what is secret is not here but in settings.py.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import functools
import math
import operator
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo

from streams import moments
from streams.errors import ConfigurationError
from streams.tables import File, Group, Seconds, Stream, Table

NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""Of a stream or a group."""
WORD = re.compile(r"[A-Za-z][A-Za-z_]+")
"""Of the vocabulary: no digits, so that {2,5} is none."""
_TOOL = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""A name that every model server takes."""
INBOUND = "inbound"
"""The stream that people's messages come in on."""

_ID = re.compile(r"\d+-\d+")
_DEVICES = ("cpu", "cuda", "mps", "xpu")
_BOUNDS = {
    "ge": (operator.ge, "at least"), "gt": (operator.gt, "more than"), "le": (operator.le, "at most"),
}  # fmt: skip


class Topology(File, kw_only=True):
    """A valid streams.toml."""

    path: Path = Path("streams.toml")
    """Handlers are imported from the folder of this file."""

    def group(self, name: str) -> Group:
        """
        The group of this name.

        Raises:
            ConfigurationError: there is none; says which there are.
        """
        if name not in self.groups:
            raise ConfigurationError(
                f"{self.path.name}: there is no group {name!r}{suggest(name, self.groups)}; there are: "
                f"{', '.join(self.groups)}"
            )
        return self.groups[name]

    def answering(self, stream: str) -> Group | None:
        """
        The group whose replies a request that waits on this stream is waiting for: the first that writes any.

        On another stream nobody waits, whatever its readers write: egress, say, what became of each reply.
        """
        return next((group for group in self.readers(stream) if group.writes), None) if stream == INBOUND else None

    def debounced(self, seconds: float | None) -> Topology:
        """With DEBOUNCE of the environment in every group that answers or has one; None leaves the file's."""
        if seconds is None:
            return self
        groups = {}
        for name, group in self.groups.items():
            if group.debounce or (group.writes and group.reads == INBOUND):
                most = Seconds(max(group.debounce_max, seconds))
                group = msgspec.structs.replace(group, debounce=Seconds(seconds), debounce_max=most)
            groups[name] = group
        return msgspec.structs.replace(self, groups=groups)

    def dated(self, now: float, zone: datetime.tzinfo | None) -> Topology:
        """
        With the ids that dates of `from` stand for.

        Args:
            now: Unix seconds.
            zone: of dates that name none; None: this machine's.

        Raises:
            ConfigurationError: one is still to come.
        """
        groups = {}
        for name, group in self.groups.items():
            with contextlib.suppress(ValueError):
                at = moments.date(group.from_, zone)
                if at > now:
                    _fail(self.path.name, f"groups.{name}.from", group.from_, 'is still to come; write "now"')
                group = msgspec.structs.replace(group, from_=just_before(at))
            groups[name] = group
        return msgspec.structs.replace(self, groups=groups)

    def downstream(self, stream: str) -> list[str]:
        """This stream and all that its groups, and theirs, write to."""
        found = [stream]
        for name in found:
            more = [each for group in self.readers(name) for each in group.writes]
            found += [each for each in dict.fromkeys(more) if each not in found]
        return found

    def readers(self, stream: str) -> list[Group]:
        """The groups that read this stream."""
        return [group for group in self.groups.values() if group.reads == stream]


def just_before(at: float) -> str:
    """An id behind which a stream has all that came at this Unix time or later."""
    return f"{int(at * 1000) - 1}-{(1 << 63) - 1}"


def suggest(wrong: str, accepted: typing.Iterable[str]) -> str:
    """`; did you mean 'inbound'?`, or nothing where nothing is near."""
    near = difflib.get_close_matches(wrong, list(accepted), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def load(path: Path | str = "streams.toml", *, content: Path | str | None = None) -> Topology:
    """
    Read and check a file.

    Args:
        content: a copy, whose content stands for the file's.

    Raises:
        ConfigurationError: it is missing, no TOML, or wrong somewhere.
    """
    path = Path(path)
    return parse(read(path, content=content), path)


def read(path: Path, *, content: Path | str | None = None) -> dict[str, Any]:
    """What `load` reads, unchecked.  Raises ConfigurationError: it is missing, or no TOML."""
    try:
        return tomllib.loads(Path(content or path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path}: no such file; run this in the folder of your streams.toml or pass --config"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is no UTF-8 (byte {error.start + 1}); save it as UTF-8") from error
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror or error})") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def parse(plain: dict[str, Any], path: Path = Path("streams.toml")) -> Topology:
    """A file's content → Topology.  Raises ConfigurationError."""
    file: File = _convert(plain, File, "", path.name)
    for name, group in file.groups.items():
        group.name = name
    _check(file, path.name)
    return Topology(**{field: getattr(file, field) for field in file.__struct_fields__}, path=path)


def _fail(file: str, where: str, value: object, why: str) -> typing.NoReturn:
    raise ConfigurationError(f"{file}: {where} = {value!r} {why}")


def _convert(value: Any, shape: Any, where: str, file: str) -> Any:
    """One value into the shape its field has, with the way to it for the error."""
    if shape is Seconds:
        try:
            return moments.seconds(value)
        except ValueError as error:
            _fail(file, where, value, str(error))
    origin = get_origin(shape)
    if origin is Annotated:
        found = _convert(value, get_args(shape)[0], where, file)
        if why := _out_of_bounds(found, get_args(shape)[1]):
            _fail(file, where, value, why)
        return found
    if origin in (Union, types.UnionType):  # something or None, and TOML has no None
        return _convert(value, get_args(shape)[0], where, file)
    if isinstance(shape, type) and issubclass(shape, Table):
        return _table(value, shape, where, file)
    if origin is dict and isinstance(value, dict):
        inner = get_args(shape)[1]
        return {key: _convert(item, inner, f"{where}.{key}", file) for key, item in value.items()}
    if origin in (list, tuple) and isinstance(value, list):
        inner = get_args(shape)[0]
        return origin(_convert(item, inner, f"{where}[{index}]", file) for index, item in enumerate(value))
    try:
        return msgspec.convert(msgspec.to_builtins(value), shape)  # TOML has dates of its own, without quotes
    except msgspec.ValidationError as error:
        _fail(file, where, value, _why(value, shape, error))


def _why(value: object, shape: Any, error: Exception) -> str:
    if get_origin(shape) is Literal:
        accepted = [str(choice) for choice in get_args(shape)]
        return f"is not accepted; write one of {', '.join(map(repr, accepted))}{suggest(str(value), accepted)}"
    wanted = {int: "a whole number", str: "text", bool: "true or false", float: "a number"}.get(shape)
    return f"should be {wanted}" if wanted else f"is not accepted: {error}"


def _out_of_bounds(value: Any, rule: msgspec.Meta) -> str:
    """`should be at least 1`, or nothing where the rule holds."""
    if rule.min_length and len(value) < rule.min_length:
        return "should not be empty"
    if isinstance(value, float) and not math.isfinite(value):
        return "should be a finite number"
    for name, (holds, words) in _BOUNDS.items():
        bound = getattr(rule, name)
        if bound is not None and not holds(value, bound):
            return f"should be {words} {bound}"
    return ""


@functools.cache
def _fields(shape: type[Table]) -> tuple[dict[str, FieldInfo], dict[str, Any]]:
    """What a table may hold, by its key, and the shape of each by its field: both are read from annotations, slowly."""
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    if shape is Group:
        del fields["name"]  # it is the table's own
    return fields, typing.get_type_hints(shape, include_extras=True)


def _table(value: Any, shape: type[Table], where: str, file: str) -> Table:
    dotted = f"{where}." if where else ""
    fields, hints = _fields(shape)
    if isinstance(value, str) and shape.__name__ == "Slot":
        value = {"kind": value}
    if not isinstance(value, dict):
        _fail(file, where, value, "should be a table")
    for key in value:
        if key not in fields:
            what = f"[{where}] has no key {key!r}" if where else f"there is no table {key!r}"
            raise ConfigurationError(f"{file}: {what}{suggest(key, fields)}; accepted: {', '.join(fields)}")
    for key, field in fields.items():
        if key not in value and field.required:
            raise ConfigurationError(f"{file}: {dotted}{key} is missing")
    return shape(
        **{fields[key].name: _convert(item, hints[fields[key].name], dotted + key, file) for key, item in value.items()}
    )


def _check(file: File, name: str) -> None:
    """What types cannot say."""
    if not file.streams:
        file.streams = {"inbound": Stream(), "outbound": Stream(), "statuses": Stream()}
    names = [(f"{kind}.{key}", key) for kind in ("streams", "groups") for key in getattr(file, kind)]
    names += [
        (f"groups.{each.name}.tallies", each.tallies) for each in file.groups.values() if each.tallies is not None
    ]
    for where, key in names:
        if not NAME.fullmatch(key):
            _fail(name, where, key, "is no name; use lower-case letters, digits, - and _, a letter first")
    for group in file.groups.values():
        _check_group(group, file, name)
    for word in file.vocabulary:
        if not WORD.fullmatch(word):
            _fail(name, f"vocabulary.{word}", file.vocabulary[word], "has no name; use two letters or more, and _")
    _check_actions(file, name)
    device = file.inference.device
    if not re.fullmatch(rf"auto|({'|'.join(_DEVICES)})(:\d+)?", device):
        near = suggest(device.partition(":")[0], ("auto", *_DEVICES))
        _fail(name, "inference.device", device, f"is no device; write auto, cpu, cuda or cuda:0{near}")
    kept, least = float(file.wait.keep), file.egress.expire + file.wait.max_seconds
    if kept < least:
        # Forgotten too early, a reply that a waiting request has taken would be delivered by the webhook as well.
        _fail(name, "wait.keep", kept, f"should be at least egress.expire + wait.max_seconds ({least:.0f} seconds)")


def _check_actions(file: File, name: str) -> None:
    """Of those that the model may call: its names are the server's business too."""
    called = set[str]()
    for action in file.actions:
        if not (action.patterns or action.description or file.inference.examples):
            why = "has neither `patterns` nor a `description`, so nothing would ever name it"
            raise ConfigurationError(f"{name}: actions.{action.name} {why}")
        if not action.description:
            continue
        if not _TOOL.fullmatch(action.name):
            why = "is no name that a model can call; use letters, digits, - and _, at most 64, or no `description`"
            _fail(name, "actions.name", action.name, why)
        if action.name in called:
            why = "has a `description` twice, and a model could not tell one from the other"
            _fail(name, "actions.name", action.name, why)
        called.add(action.name)


def _check_group(group: Group, file: File, name: str) -> None:
    where = f"groups.{group.name}"
    for key, streams in (("reads", [group.reads]), ("writes", group.writes)):
        for stream in streams:
            if stream not in file.streams:
                _fail(name, f"{where}.{key}", stream, f"is not a stream{suggest(stream, file.streams)}")
    if not re.fullmatch(r"[\w.]+:\w+", group.handler):
        _fail(name, f"{where}.handler", group.handler, "is not of the form 'module:function'")
    if group.writes:
        _check_writes(group, where, name)
    if group.debounce > group.debounce_max:
        _fail(name, f"{where}.debounce", group.debounce, f"is longer than debounce_max ({group.debounce_max:g})")
    if group.on_new_message == "supersede":
        _check_supersede(group, f"{where}.on_new_message", name)
    if group.batch:
        _check_batch(group, where, name)
    if group.from_ not in ("start", "now") and not _ID.fullmatch(group.from_):
        _check_moment(group.from_, f"{where}.from", name)


def _check_writes(group: Group, where: str, name: str) -> None:
    if group.reads in group.writes:
        _fail(name, f"{where}.writes", group.reads, "is what the group reads: all it writes would come back to it")
    if group.when_full == "skip":
        # What it left out would be missing further on, where nobody counts it: a reply, for one.
        _fail(name, f"{where}.when_full", "skip", "is only for a group that writes nothing; this one has `writes`")


def _check_moment(text: str, where: str, name: str) -> None:
    try:
        moments.moment(text, 0)
    except ValueError:
        dates = '"2025-10-05", "2025-10-05T14:00"'
        _fail(name, where, text, f'is not "start", "now", a time ago ("2h"), a date ({dates}) or an entry\'s id')


MOST_IN_WORK = 10_000
"""Turns that a worker may have in memory."""


def _check_batch(group: Group, where: str, name: str) -> None:
    if group.on_new_message == "supersede":
        _fail(name, f"{where}.on_new_message", "supersede", "is not for a group with `batch`: a batch is not given up")
    if (most := (group.batch or 1) * group.concurrency) > MOST_IN_WORK:
        why = f"times `concurrency` ({group.concurrency}) is {most:,} turns at once; no more than {MOST_IN_WORK:,}"
        _fail(name, f"{where}.batch", group.batch, why)


def _check_supersede(group: Group, where: str, name: str) -> None:
    if group.order == "none":
        _fail(name, where, "supersede", 'needs order = "key"; without order each message is a turn of its own')
    if group.turn_max == 1:
        _fail(name, where, "supersede", "needs turn_max of 2 at least; a turn of one message can hold no other")
