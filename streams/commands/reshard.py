"""
`cauce reshard` at a terminal: says what will be moved where, asks, and shows how far it is.

How it is moved stands in mover.py.
"""

from __future__ import annotations

import sys

from streams import embedded, layout
from streams.commands import entry
from streams.commands.steps import Steps
from streams.errors import ConfigurationError
from streams.mover import Mover
from streams.stores import Stores


async def run(place: entry.Place, *, yes: bool) -> None:
    """
    Move to the number of shards that streams.toml says.

    Raises:
        ConfigurationError: something is under way, or nobody has said yes.
        Unavailable: Redis cannot be reached; run it again to go on.
    """
    settings = place.settings
    if not settings.embedded:
        await _moved(place, entry.redis_url(settings), yes=yes)
        return
    entry.refuse_silent_embedding(settings)
    # Every process being stopped, so is the Redis that `cauce up` starts.
    with embedded.served(settings.data_dir) as url:
        await _moved(place, url, yes=yes)


async def _moved(place: entry.Place, url: str, *, yes: bool) -> None:
    topology, settings = place.topology, place.settings
    new = Stores.open(url, namespace=settings.namespace, shards=topology.shards)
    try:
        stored = await layout.stored(new)
        if stored is None or stored == layout.of(new):
            sys.stdout.write(f"nothing to do: shards = {topology.shards}\n")
            return
        if stored.moving_to not in (None, topology.shards):
            raise ConfigurationError(
                f"a move to {stored.moving_to} shards was cut off: write shards = {stored.moving_to}, and finish it"
            )
        question = f"From {stored.shards} to {topology.shards} shards: is every process of this bot stopped?"
        if not (yes or stored.moving_to is not None or await entry.agreed(question)):
            raise ConfigurationError("nothing was moved: stop the ingress, let the workers finish, and stop them")
        old = Stores.open(url, namespace=settings.namespace, shards=stored.shards)
        try:
            with Steps().each() as look:
                await Mover(old, new, topology, look).run()
        finally:
            await old.close()
    finally:
        await new.close()
    sys.stdout.write(f"moved to {topology.shards} shards; start everything again\n")
