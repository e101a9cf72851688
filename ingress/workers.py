"""
Several processes of the ingress on one address: `cauce ingress --workers N`.

Knows how they are started and who holds their sockets.  What each does is `python -m ingress`'s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ingress import access, listening
from ingress.listening import Listeners
from streams import anew, log
from streams.commands import welcome
from streams.commands.crew import Crew, agree, named
from streams.commands.entry import Place
from streams.commands.program import Program
from streams.commands.screen import Screen
from streams.settings import Settings
from streams.topology import Topology

_log, _reload_log = log.get("ingress"), log.get("reload")


async def run(topology: Topology, settings: Settings, place: Place, screen: Screen, url: str, count: int) -> None:
    """
    Serve with so many processes until a signal; one that dies is started again.

    Raises:
        ConfigurationError: as for one; all processes have been stopped then.
        Unavailable: Redis cannot be reached at the start.
    """
    access.check(settings)
    listeners = listening.bind(settings, count)
    await agree(topology, settings, url)
    _log.info("redis.connected", url=url)
    with Crew.gathered(settings, place, screen) as crew:
        address = welcome.address(settings, listeners[0].port)
        all_of_them = programs(crew, listeners, url)

        async def reload() -> None:
            if why := await anew.refusal([*place.arguments, "ingress"]):
                _reload_log.error("reload.refused", why=why)
                return
            crew.accept()
            names = [program.name for program in all_of_them]
            _reload_log.info("reload.begun", restarting=names)
            failed = await crew.change([all_of_them], all_of_them)
            _reload_log.info("reload.done", restarted=names, failed=failed)

        await crew.run(
            [all_of_them],
            reload=reload,
            ready=lambda: _log.info("ingress.listening", url=address, workers=count),
            closing=lambda: close(listeners),
        )


def programs(crew: Crew, listeners: Sequence[Listeners], url: str) -> list[Program]:
    """A process for each of the listeners."""
    alone = {"INGRESS_PORT": str(listeners[0].port), "INGRESS_WORKERS": "1"}
    return [
        crew.program(
            name, "ingress", url=url, pass_fds=each.descriptors,
            environ={listening.VARIABLE: replace(each, held=True).told(), **alone},
        )
        for name, each in zip(named("ingress", len(listeners)), listeners, strict=True)
    ]  # fmt: skip


def close(listeners: Sequence[Listeners]) -> None:
    """Ours of them: what a process that stops has not accepted would else wait there for nobody."""
    for each in listeners:
        listening.shut(each.own)
        listening.close(each.own)
