"""
`cauce check`: would this run?

Looks, and changes nothing but one key of ten seconds in Redis.  Each finding says what was looked at and, where it is
wrong, what to do.  No weights are loaded: whether a model can be loaded at all is seen when its worker starts.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Literal

import msgspec

from processors.archive.look import look
from processors.egress.handler import refuse_what_breaks_order
from processors.egress.webhook import Webhook
from processors.inference import echo, examples, prompt, remote, weights
from processors.inference.actions import Detector
from streams import embedded, groups, layout, memory, settings
from streams.commands import contradictions, entry
from streams.connection import info
from streams.errors import CauceError, ConfigurationError
from streams.handlers import find
from streams.masking import Mask, bare
from streams.pulse import release
from streams.settings import Settings
from streams.stores import Stores
from streams.tables import Egress
from streams.topology import Topology, suggest

OLDEST_REDIS = (6, 2)

FEW_EXAMPLES = 20


TESTED = {"Redis": ("6.2", "7.0", "7.2", "7.4", "8.0", "8.6"), "Valkey": ("7.2", "8.0", "8.1", "9.1")}
"""What the conformance tests have been run on (docs/servers.md)."""

_WRITES = """redis.call('TIME'); redis.call('SET', KEYS[1], '1', 'PX', 10000); return redis.call('DEL', KEYS[1])"""
"""A write after TIME: what every script of ours does, and what a Redis without effect replication refuses."""


class Finding(msgspec.Struct):
    """One thing that was looked at."""

    subject: str
    verdict: Literal["good", "warning", "wrong"]
    text: str


def good(subject: str, text: str) -> Finding:
    return Finding(subject, "good", text)


def warning(subject: str, text: str) -> Finding:
    return Finding(subject, "warning", text)


def wrong(subject: str, text: str) -> Finding:
    return Finding(subject, "wrong", text)


async def run(place: entry.Place, *, as_json: bool) -> int:
    """Print the findings; returns the exit status: 2 where one is wrong."""
    findings: list[Finding] = []
    try:
        pipeline = place.topology
        findings.append(good("streams.toml", f"{len(pipeline.streams)} streams, {len(pipeline.groups)} groups"))
        where = place.settings
        findings.append(good("settings", where.environment))
    except ConfigurationError as error:
        findings.append(wrong("configuration", str(error)))
    else:
        findings += misspelt()
        findings += access(where)
        findings += delivery(where)
        findings += shape(where, pipeline)
        findings += handlers(pipeline)
        findings += model(where)
        findings += [finding async for finding in remote_models(where)]
        findings += archive(where, pipeline)
        findings += [warning(*each) for each in contradictions.found(where, pipeline)]
        findings += await _redis(where, pipeline)
    _show(findings, as_json=as_json)
    return 2 if any(finding.verdict == "wrong" for finding in findings) else 0


def refuse_what_cannot_run(where: Settings, pipeline: Topology) -> None:
    """
    The quick half of it, for `cauce up`, before anything has been started.

    Raises:
        ConfigurationError: the first finding that is wrong.
    """
    ours = any(group.handler.startswith("processors.inference.") for group in pipeline.groups.values())
    for finding in [*access(where), *delivery(where), *shape(where, pipeline), *(model(where) if ours else ())]:
        if finding.verdict == "wrong":
            raise ConfigurationError(finding.text)


def misspelt() -> Iterator[Finding]:
    """Variables that look like settings of ours and are none."""
    for variable, near in settings.near_misses(os.environ).items():
        yield warning(variable, f"is no setting, and does nothing; did you mean {near!r}?")


def access(where: Settings) -> Iterator[Finding]:
    """Who may post."""
    tokens = [token.reveal() for token in (*where.ingress_tokens, *where.operator_tokens)]
    remedy = "make some with `cauce secrets >> .env`"
    if not tokens:
        if where.production:
            yield wrong("tokens", f"INGRESS_TOKENS is not set, and production refuses to start without; {remedy}")
        elif where.ingress_host not in ("127.0.0.1", "::1", "localhost"):
            yield wrong("tokens", f"INGRESS_HOST = {where.ingress_host} opens the ingress to others; {remedy}")
        else:
            yield good("tokens", "none: this machine only")
    elif where.production and any(len(token) < 24 for token in tokens):
        yield wrong("tokens", f"a token of fewer than 24 characters; {remedy}")
    elif where.production and not where.operator_tokens:
        yield warning("tokens", "OPERATOR_TOKENS is not set: whoever may post may also read and erase")
    else:
        yield good("tokens", f"{len(tokens)}")
    if where.timezone is None and time.tzname[0] == "UTC":
        yield warning("TIMEZONE", "not set, and this machine's is UTC: «tomorrow» may be another day for your people")


def delivery(where: Settings) -> Iterator[Finding]:
    """Where replies go."""
    if where.outbound_url is None:
        yield warning("OUTBOUND_URL", "not set: replies are kept on `outbound` and sent to nobody")
        return
    try:
        Webhook(where, Egress())  # refuses what a worker's would
    except ConfigurationError as error:
        yield wrong("webhook", str(error))
    if "/webhook-test/" in where.outbound_url.reveal():
        yield warning("OUTBOUND_URL", "is n8n's test address: it answers once after each click; use /webhook/")
    else:
        yield good("OUTBOUND_URL", Mask().text(where.outbound_url.reveal()))


def learnt(pipeline: Topology) -> Iterator[Finding]:
    """The sentences by which actions are found."""
    try:
        counts = {name: len(sentences) for name, sentences in examples.told(pipeline).items()}
    except ConfigurationError as error:
        yield wrong("examples", str(error))
        return
    if not counts:
        return
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    if few := [name for name, count in counts.items() if count < FEW_EXAMPLES]:
        why = f"of {' and '.join(few)} there are fewer than {FEW_EXAMPLES}, and little teaches wrong things: {told}"
        yield warning("examples", why)
    else:
        yield good("examples", f"sentences: {told}")


def shape(where: Settings, pipeline: Topology) -> Iterator[Finding]:
    """What the ingress and the handlers that ship want of streams.toml, beyond what makes it a valid one."""
    if "inbound" not in pipeline.streams:
        near = suggest("inbound", pipeline.streams)
        why = f"[streams.inbound] is missing, and the ingress writes to it{near}"
        yield wrong("streams.toml", f"{pipeline.path.name}: {why}")
    try:
        Detector.of(pipeline.actions, pipeline.vocabulary)
    except ConfigurationError as error:
        yield wrong("actions", str(error))
    yield from learnt(pipeline)
    try:
        pipeline.dated(time.time(), where.zone)
    except ConfigurationError as error:
        yield wrong("from", str(error))
    for group in pipeline.groups.values():
        if group.handler.startswith(contradictions.DELIVERS):
            try:
                refuse_what_breaks_order(group, pipeline)
            except ConfigurationError as error:
                yield wrong(f"groups.{group.name}", str(error))


def handlers(pipeline: Topology) -> Iterator[Finding]:
    """Can they be imported?"""
    for group in pipeline.groups.values():
        try:
            find(group, pipeline)
        except ConfigurationError as error:
            yield wrong(f"groups.{group.name}", str(error))
        else:
            yield good(f"groups.{group.name}", group.handler)


def model(where: Settings) -> Iterator[Finding]:
    """Is there what MODEL names, what its library needs, and the system prompt?"""
    try:
        if where.model_url:
            remote.name_of(where)
            yield good("MODEL", f"{where.model}, on another server")
        elif echo.is_echo(where.model):
            echo.Echo.named(where.model)
            yield good("MODEL", "echo: repeats what was said")
        else:
            yield _weights(where)
    except ConfigurationError as error:
        yield wrong("MODEL", str(error))
    try:
        prompt.system_prompt(where.system_prompt_file)
    except CauceError as error:
        yield wrong("SYSTEM_PROMPT_FILE", str(error))


async def remote_models(where: Settings) -> AsyncIterator[Finding]:
    """Does each server of MODEL_URL answer, and know the model?"""
    for url in where.model_url:
        name = bare(url)
        try:
            served = await remote.served(url, where.model_api_key)
        except ConfigurationError as error:
            yield wrong("MODEL_URL", str(error))
        except OSError as error:
            yield warning("MODEL_URL", f"{name} does not answer ({error}); messages wait until it does")
        else:
            if served and where.model not in served:
                yield warning("MODEL_URL", f"{name} serves {', '.join(served[:5])}{suggest(where.model, served)}")
            else:
                yield good("MODEL_URL", f"{name} answers")


def archive(where: Settings, pipeline: Topology) -> Iterator[Finding]:
    """The database, where anybody uses it."""
    if pipeline.history.from_archive or any(
        group.handler.startswith("processors.archive.") for group in pipeline.groups.values()
    ):
        yield Finding("archive", *look(where))


_NEEDS = {
    "inference": ("torch", "transformers", "safetensors"),
    "openvino": ("openvino", "openvino_genai", "tokenizers", "jinja2"),
}
"""Extras of the distribution, and what an engine imports of each."""


def _weights(where: Settings) -> Finding:
    place = weights.find(where)
    extra = "openvino" if weights.is_exported(where.model) else "inference"
    missing = [name for name in _NEEDS[extra] if importlib.util.find_spec(name) is None]
    if missing:
        return wrong("MODEL", f"needs {', '.join(missing)}: pip install 'cauce[{extra}]', or write MODEL=echo")
    if Path(place.name).is_dir():
        return good("MODEL", f"{where.model} in {place.name}")
    hub = Path(place.cache or os.environ.get("HF_HUB_CACHE") or Path.home() / ".cache" / "huggingface" / "hub")
    snapshots = hub / f"models--{place.name.replace('/', '--')}" / "snapshots"
    if any(snapshots.glob("*/config.json")):
        return good("MODEL", f"{place.name}, in {hub}")
    if place.local_only:
        return wrong("MODEL", f"{place.name} is not in {hub}, and the hub is switched off by HF_HUB_OFFLINE")
    text = f"{place.name} is not in {hub} yet: the worker will look for it on the Hugging Face hub"
    return warning("MODEL", text)


async def _redis(where: Settings, pipeline: Topology) -> list[Finding]:
    """The server that would be used, or that is in use."""
    if where.embedded:
        running = embedded.running(where.data_dir)
        if running is None:
            return [_would_embed(where)]
        url = running
    else:
        url = entry.redis_url(where)
    stores = Stores.open(url, namespace=where.namespace, shards=pipeline.shards, patience=1)
    store = stores.first
    try:
        await layout.compare(stores)
        known = await groups.roll(stores, pipeline)
        test = store.keys.of("test", secrets.token_hex(8))
        told, written = await store.pipeline([("INFO",), ("EVAL", _WRITES, 1, test)])
        room = memory.worst([await memory.look(each) for each in stores])
    except CauceError as error:
        return [wrong("Redis", str(error))]
    finally:
        await stores.close()
    return [*_told(where, told), *eviction(where, room), *_writable(written), *_registered(pipeline, known)]


def _would_embed(where: Settings) -> Finding:
    if where.production and where.redis_url is None:
        return wrong("Redis", "REDIS_URL is not set; production takes the embedded one only where it says embedded")
    try:
        binary = embedded.find()
    except ConfigurationError as error:
        return wrong("Redis", str(error))
    version = ".".join(map(str, binary.version))
    return good("Redis", f"`cauce up` will start {binary.path} ({version}) in {where.data_dir}")


def _told(where: Settings, reply: object) -> Iterator[Finding]:
    if isinstance(reply, bytes):
        yield from server(where, info(reply))
    else:
        remedy = "give it the right (`ACL SETUSER … +info`)"
        why = "a failover goes unnoticed, and nobody can tell its version"
        yield warning("INFO", f"is refused ({reply}): {why}; {remedy}")


def server(where: Settings, fields: dict[str, str]) -> Iterator[Finding]:
    """Version and persistence, from INFO: hosted servers often refuse CONFIG."""
    name, told = release(fields)
    version = tuple(int(part) for part in fields.get("redis_version", "").split(".")[:2] if part.isdigit())
    if version < OLDEST_REDIS:
        yield wrong("Redis", f"version {told or 'unknown'} is too old; Cauce needs 6.2 or newer")
    elif ".".join(told.split(".")[:2]) in TESTED.get(name, ()):
        yield good("Redis", f"{name} {told}")
    else:
        tested = ", ".join(f"{name} {version}" for name, versions in TESTED.items() for version in versions)
        yield warning("Redis", f"{name} {told} has not been tested; these have: {tested}")
    if fields.get("aof_enabled") == "0":
        yield warning("appendonly", "is off: what came since the last snapshot is lost when Redis restarts")


def eviction(where: Settings, room: memory.Memory) -> Iterator[Finding]:
    """May Redis throw away what it holds, and does anything stop it before the machine's memory is full?"""
    if room.fault:
        serious = wrong if where.production else warning
        yield serious("maxmemory-policy", room.fault)
    elif room.policy is None:
        yield warning("maxmemory-policy", memory.UNKNOWN)
    else:
        yield good("maxmemory-policy", room.policy)
    if room.limit == 0:
        why = "is not set: nothing is refused before the machine itself is full"
        yield warning("maxmemory", f"{why}; give Redis some three quarters of its memory")


def _writable(written: object) -> Iterator[Finding]:
    if isinstance(written, Exception):
        yield wrong("scripts", f"Redis refuses to run ours: {written}")


def _registered(pipeline: Topology, known: Iterable[groups.Listed]) -> Iterator[Finding]:
    """Groups that read another stream, and those that nobody consumes: what they have not settled is not trimmed."""
    for each in known:
        if why := groups.moved(pipeline, each.name, each.stream):
            yield wrong(f"groups.{each.name}", why)
        elif each.deserted:
            yield warning(f"groups.{each.name}", each.deserted)


_MARKS = {"good": "\033[32m✓\033[0m", "warning": "\033[33m!\033[0m", "wrong": "\033[31m✗\033[0m"}
_PLAIN = {"good": "ok", "warning": "warning", "wrong": "WRONG"}


def _show(findings: list[Finding], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(msgspec.json.encode(findings).decode() + "\n")
        return
    marks = _MARKS if sys.stdout.isatty() and "NO_COLOR" not in os.environ else _PLAIN
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        out = sys.stderr if finding.verdict == "wrong" else sys.stdout
        out.write(f"{marks[finding.verdict]:7} {finding.subject:{width}}  {finding.text}\n")
