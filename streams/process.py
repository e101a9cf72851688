"""
One process of workers, as `cauce work` runs it: handlers found, resources opened, signals heard.

Knows what a process has once however many groups it serves: the connection, the health pages, the trimming.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Sequence

from streams import anew, batches, garbage, layout, log, memory, metrics, probe, retention, watchdog
from streams.effects import Handler
from streams.groups import refuse_moved
from streams.handlers import find
from streams.room import Room, Suspects, places
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology
from streams.worker import Worker


def would_start(names: Sequence[str], topology: Topology, settings: Settings) -> dict[str, Handler]:
    """
    The handlers of these groups.

    Raises:
        ConfigurationError: a group or its handler is not there, or its `from` is still to come.
    """
    topology.dated(time.time(), settings.zone)
    return {name: find(topology.group(name), topology) for name in names}


async def run(
    names: Sequence[str], topology: Topology, settings: Settings, url: str, arguments: Sequence[str] = ()
) -> bool:
    """
    Serve these groups in this process until the first SIGTERM or SIGINT; then drain.  A second signal stops at once.

    Args:
        arguments: options of the command line that come before the command.

    Returns:
        whether it is to begin anew: SIGHUP had it drain, and it would start with its configuration as it is now.

    Raises:
        ConfigurationError: a group or its handler is not there or has changed streams, or Redis throws messages away.
        Unavailable: Redis cannot be reached at the start.
    """
    topology = topology.debounced(settings.debounce).dated(time.time(), settings.zone)
    handlers = would_start(names, topology, settings)
    stores = Stores.open(url, namespace=settings.namespace, shards=topology.shards)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(stores.close)
        await layout.agree(stores)
        await refuse_moved(stores, topology, names)
        log.get("worker").info("redis.connected", url=url)
        await memory.refuse_eviction(stores, production=settings.production)
        metrics.expect(topology.groups)
        workers: list[Worker] = []
        suspects = Suspects()
        hangup = _stop_on_signals(workers, len(handlers) * len(stores), [*arguments, "work", *names])
        for name, handler in handlers.items():
            group = topology.group(name)
            resources = None
            if handler.lifespan is not None:
                resources = await stack.enter_async_context(handler.lifespan(group, topology, settings, stores))
            handler, group = batches.served(handler, group)
            room = Room(places(group, resources), len(stores), suspects)
            workers += [Worker(store, topology, group, handler, resources, room, settings.zone) for store in stores]
        if settings.worker_port is not None:
            await stack.enter_async_context(
                probe.serve(settings.worker_port, ready=lambda: all(worker.ready for worker in workers))
            )
        garbage.keep_what_is_loaded()
        await _serve(workers, stores, topology, settings.shutdown_grace)
    log.get("worker").info("redis.disconnected")
    return hangup.heard


async def _serve(workers: Sequence[Worker], stores: Stores, topology: Topology, grace: float) -> None:
    async with asyncio.TaskGroup() as whole:
        beside = [
            whole.create_task(retention.run(stores, topology)),
            whole.create_task(layout.watch(stores)),
            whole.create_task(watchdog.run()),
        ]
        async with asyncio.TaskGroup() as serving:
            for worker in workers:
                serving.create_task(worker.run(grace))
        for task in beside:
            task.cancel()


def _stop_on_signals(workers: Sequence[Worker], count: int, command: Sequence[str]) -> anew.Hangup:
    """`workers` may still be growing; `count` is how many there will be."""
    loop = asyncio.get_running_loop()
    signals = 0

    def stop() -> None:
        if len(workers) < count:
            anew.begin()
        for worker in workers:
            worker.stop()

    def on_signal() -> None:
        nonlocal signals
        signals += 1
        hangup.forget()
        if signals > 1:
            log.get("worker").warning("worker.stopped_at_once")
            os._exit(1)
        if len(workers) < count:
            # A model is being loaded, in a thread that nothing can stop; nothing has been taken yet.
            os._exit(0)
        for worker in workers:
            worker.stop()

    hangup = anew.Hangup(command, stop)
    hangup.listen()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return hangup
