"""
`cauce export`, `cauce import` and `cauce replay --into`, from their options to what they say at the end.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from streams.commands import entry
from streams.commands.entry import Place
from streams.commands.lab import Asked, Lab
from streams.commands.report import NOTHING
from streams.commands.steps import Steps
from streams.errors import ConfigurationError
from streams.groups import counted
from streams.lab import carry, logbook, planning, runs
from streams.lab.carry import Carried, Carrier
from streams.lab.logbook import File, Head, Logged
from streams.lab.pseudonyms import Pseudonyms
from streams.lab.replayed import WAITING, WANTED, Input
from streams.lab.runs import Run
from streams.topology import Topology, suggest


async def export(place: Place, asked: Asked, path: Path, *, pseudonyms: bool) -> int:
    """
    Write what a replay of this range needs.

    Returns:
        the exit status: 3 where there is nothing; then no file is written.

    Raises:
        ConfigurationError, Unavailable.
    """
    lab, steps = Lab(place, asked), Steps()
    runs.forget_old(lab.folder)
    run = Run(lab.folder, f"export-{secrets.token_hex(5)}")
    try:
        await lab.gather(run, steps)
        planning.label(run, lab.group)
        told, cut = lab.range_of(run), run.told("cut")
        head = Head(
            name=secrets.token_hex(8),
            group=lab.group.name,
            streams=[lab.group.reads, *lab.group.writes],
            first=told.first,
            last=told.last,
            begins_ms=cut["begins_ms"],
            pseudonyms=pseudonyms,
        )
        if next(_all(run, lab), None) is None:
            sys.stderr.write(f"nothing of {lab.group.reads} is in this range; {path} was not written\n")
            return NOTHING
        invented = Pseudonyms() if pseudonyms else None
        if invented is not None:
            with steps.counting("learning the names") as step:
                for logged in _all(run, lab):
                    invented.learn(logged.fields)
                    step(1)
        with steps.counting("writing") as step:
            count = carry.write(path, head, _all(run, lab), invented, step)
    finally:
        run.remove()
    sys.stdout.write(f"{counted(count)} of {counted(cut['of'], 'person', 'people')} in {path}\n")
    return 0


def _all(run: Run, lab: Lab) -> Iterator[Logged]:
    for each in run.everything():
        if isinstance(each, Input) and each.mark == WAITING:
            continue  # nobody has answered it yet: there would be nothing to compare
        logged = logbook.logged_from(each, lab.group.reads)
        if isinstance(each, Input) and each.mark == WANTED:
            fields = {"origin": logged.id.encode(), "group": lab.group.name.encode(), **logged.fields}
            logged = Logged(f"{lab.group.reads}.dead", logged.id, fields)
        yield logged


async def bring(place: Place, path: Path, *, name: str | None = None, yes: bool) -> int:
    """
    Append what a file holds, once; what of it was appended before is passed over.

    Args:
        name: another than the file's, so that what was appended under that is appended again.

    Returns:
        the exit status: 1 where somebody says no.

    Raises:
        ConfigurationError: also where a line is no entry; then nothing was appended.
        Unavailable, carry.Full.
    """
    file, topology, steps = File(path), place.topology, Steps()
    for stream in file.head.streams:
        _known(stream, topology, str(path))
    with steps.counting("looking over the file") as step:
        _look_over(file, step)
    async with entry.opened(place, topology) as stores:
        if not yes and not await entry.agreed(f"{path}: to be appended to {', '.join(file.head.streams)}?"):
            sys.stderr.write("nothing was done\n")
            return 1
        most = {name: topology.streams[name].max_len for name in file.head.streams}
        carrier = Carrier(stores, name or file.head.name, most, keep_ids=True)
        with steps.counting("appending") as step:
            became = await carrier.append(map(_alive, file.read()), step)
    sys.stdout.writelines(_told(became, name or file.head.name))
    return 0


def _look_over(file: File, step: carry.Step) -> None:
    """Raises ConfigurationError: a line is no entry; says which, and why."""
    for _ in file.read(lambda logged: carry.fault(_alive(logged), file.head.streams)):
        step(1)


def _alive(logged: Logged) -> Logged:
    """A dead letter as the entry that it was."""
    if not logged.stream.endswith(".dead"):
        return logged
    fields = {name: value for name, value in logged.fields.items() if name != "origin"}
    return Logged(logged.stream.removesuffix(".dead"), logged.text("origin"), fields)


def _told(became: Carried, name: str) -> Iterator[str]:
    yield f"{counted(became.appended)} appended, marked as replayed\n"
    if became.anew:
        yield (
            f"{counted(became.anew)} could not keep id and time, for the streams hold newer ones: they come last, with "
            "what they had as `origin`\n"
        )
    if became.before:
        yield (
            f"{counted(became.before)} passed over, appended before under the name {name}; to append all of it again: "
            "--as NAME, another one\n"
        )


async def into(place: Place, asked: Asked, stream: str, *, yes: bool, anew: bool = False) -> int:
    """
    Append a range of the group's stream to another, for a new group to read: once, where its two ends are fixed.

    Args:
        anew: once more, though all of it was appended before.

    Returns:
        the exit status: 1 where somebody says no.

    Raises:
        ConfigurationError, Unavailable, carry.Full.
    """
    lab, steps = Lab(place, asked, into=stream), Steps()
    _known(stream, lab.topology, "--into")
    if stream == lab.group.reads:
        raise ConfigurationError(f"--into {stream!r} is the stream that it comes from; name another")
    for group in (each for each in lab.topology.readers(stream) if not each.replay):
        steps.say(f"group {group.name} reads {stream} and has no `replay = true`: it settles all this unseen")
    run = Run(lab.folder, lab.name)
    try:
        if not anew and run.told("ended") and lab.same_always(run):
            sys.stdout.write(_appended_before(run, stream))
            return 0
        if anew or run.told("planned") is None or run.told("ended"):
            run.begin_anew()
            run.tell("token", secrets.token_hex(8))
            await lab.gather(run, steps)
        if not (total := run.length()):
            raise ConfigurationError(f"there is nothing of {lab.group.reads} in this range; try another --from")
        question = f"{counted(total)} of {lab.group.reads}: to be appended to {stream}, marked as replayed?"
        if not yes and not await entry.agreed(question):
            run.begin_anew()
            sys.stderr.write("nothing was done\n")
            return 1
        async with entry.opened(place, lab.topology) as stores:
            most = {stream: lab.topology.streams[stream].max_len}
            carrier = Carrier(stores, run.told("token"), most, keep_ids=False)
            with steps.measured("appending", total=total) as step:
                became = await carrier.append(_renamed(run, stream), step)
        run.tell("ended", True)
    finally:
        run.close()
    sys.stdout.write(f"{counted(became.appended)} appended to {stream}\n")
    return 0


def _appended_before(run: Run, stream: str) -> str:
    since = datetime.fromtimestamp(run.told("planned")).strftime("%d.%m. %H:%M")
    told = f"all {run.length():,} of this range were appended on {since}; --anew appends them once more"
    return f"{counted(0)} appended to {stream}: {told}\n"


def _renamed(run: Run, stream: str) -> Iterator[Logged]:
    for each in run.everything():
        if isinstance(each, Input):
            yield logbook.logged_from(each, stream)


def _known(stream: str, topology: Topology, where: str) -> None:
    if stream not in topology.streams:
        raise ConfigurationError(
            f"{where}: {topology.path.name} has no stream {stream!r}{suggest(stream, topology.streams)}; there are: "
            f"{', '.join(topology.streams)}"
        )
