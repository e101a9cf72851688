"""
Settings of which each is right and which together do nothing, or not what they say: for `cauce check`.

Knows what the groups that ship need of each other.  None of this keeps anything from starting; what does is refused
where it is read.
"""

from __future__ import annotations

from collections.abc import Iterator

from streams.settings import Settings
from streams.sieve import STATUSES
from streams.tables import Group
from streams.topology import INBOUND, Topology

DELIVERS, ANSWERS = "processors.egress.", "processors.inference."
KEEPS = {
    "what people write": "processors.archive.handler:messages",
    "what it says": "processors.archive.handler:replies",
}
FROM_OUTSIDE = (INBOUND, STATUSES)
"""The ingress writes these."""


def found(where: Settings, pipeline: Topology) -> Iterator[tuple[str, str]]:
    """Of each what it is about, and a sentence."""
    yield from _unwritten(pipeline)
    yield from _undelivered(where, pipeline)
    yield from _unremembered(pipeline)
    yield from _never_so_far(pipeline)
    yield from _cut_short(where, pipeline)


def _of(pipeline: Topology, handlers: str) -> list[Group]:
    """The groups whose handler is one of these."""
    return [group for group in pipeline.groups.values() if group.handler.startswith(handlers)]


def _unwritten(pipeline: Topology) -> Iterator[tuple[str, str]]:
    written = {*FROM_OUTSIDE, *(stream for group in pipeline.groups.values() for stream in group.writes)}
    for group in pipeline.groups.values():
        if group.reads not in written:
            writers = _of(pipeline, DELIVERS) if group.handler.startswith("processors.archive.") else []
            whose = f"[groups.{writers[0].name}]" if writers else "the group that is to"
            why = f"reads {group.reads!r}, to which no group writes, so it gets nothing"
            yield f"groups.{group.name}", f'{why}; give {whose} writes = ["{group.reads}"]'


def _undelivered(where: Settings, pipeline: Topology) -> Iterator[tuple[str, str]]:
    if where.outbound_url is not None and not _of(pipeline, DELIVERS):
        why = "is set, and no group delivers there: replies are kept, and sent to nobody"
        yield "OUTBOUND_URL", f"{why}; see [groups.egress] in the streams.toml that ships"


def _unremembered(pipeline: Topology) -> Iterator[tuple[str, str]]:
    missing = [what for what, handler in KEEPS.items() if not _of(pipeline, handler)]
    if pipeline.history.from_archive and missing:
        why = f"is on, and no group here archives {' or '.join(missing)}: conversations begin without it"
        yield "history.from_archive", f"{why}; take the # from the archive's tables in streams.toml"


def _never_so_far(pipeline: Topology) -> Iterator[tuple[str, str]]:
    for group in pipeline.groups.values():
        most = pipeline.streams[group.reads].max_len
        if group.max_backlog is not None and group.max_backlog >= most:
            why = f"max_backlog = {group.max_backlog:,} is never reached: streams.{group.reads}.max_len is {most:,}"
            yield f"groups.{group.name}", f"{why}; make it smaller, or leave it out"


def _cut_short(where: Settings, pipeline: Topology) -> Iterator[tuple[str, str]]:
    patience = [("egress.timeout", float(pipeline.egress.timeout), DELIVERS)]
    if where.model_url:
        patience.append(("inference.timeout", float(pipeline.inference.timeout), ANSWERS))
    for setting, seconds, handlers in patience:
        for group in _of(pipeline, handlers):
            if group.deadline <= seconds:
                why = f"deadline = {group.deadline:g} s ends a turn before {setting} = {seconds:g} s does, as failed"
                yield f"groups.{group.name}", f"{why}; make the deadline longer"
