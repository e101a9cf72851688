"""
What every command of `cauce` begins and ends with: which files are meant, where Redis is, and what an error looks like.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from streams import embedded, people, topology
from streams import settings as environment
from streams.commands import welcome
from streams.errors import CauceError, ConfigurationError
from streams.settings import Settings
from streams.topology import Topology

if TYPE_CHECKING:
    from streams.stores import Stores

ACCEPTED = "CAUCE_STREAMS"
"""
Names a copy of streams.toml as whoever supervises us has accepted it: one of us that dies is started again with that,
whatever somebody is writing there now.
"""

_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)

_YES = ("y", "yes", "s", "si", "sí")


def examples(*lines: str) -> str:
    """An epilog of a command's help that keeps its lines."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])


class Place:
    """
    Which files this command line means; they are read when first needed.

    Args:
        env_file: one that must be there; None is `.env`, if there is one.
    """

    def __init__(self, config: Path, env_file: Path | None) -> None:
        self.config = config
        self.env_file = env_file

    @property
    def topology(self) -> Topology:
        return topology.load(self.config, content=os.environ.get(ACCEPTED))

    @property
    def settings(self) -> Settings:
        return environment.load(env_file=self.env_file or ".env", required=self.env_file is not None)

    @property
    def arguments(self) -> list[str]:
        """The options that lead another process to the same files."""
        named = ["--env-file", str(self.env_file)] if self.env_file else []
        return ["--config", str(self.config), *named]


def person(named: str, given: str, topology: Topology) -> str:
    """
    Somebody as keys name them.

    Args:
        named: how the command line calls it, for the error.

    Raises:
        ConfigurationError: it is nobody's id.
    """
    try:
        return people.person(given, phone_numbers=topology.users.phone_numbers)
    except people.Unusable as error:
        raise ConfigurationError(f"{named} {error}") from error


def redis_url(settings: Settings) -> str:
    """
    Where Redis is: REDIS_URL, or the running `cauce up`.

    Raises:
        ConfigurationError: neither.
    """
    if not settings.embedded:
        assert settings.redis_url is not None  # noqa: S101 - else it would be embedded
        return settings.redis_url.reveal()
    refuse_silent_embedding(settings)
    found = embedded.running(settings.data_dir)
    if found is None:
        raise ConfigurationError(f"no Redis is running in {settings.data_dir}: start `cauce up`, or set REDIS_URL")
    return found


def refuse_silent_embedding(settings: Settings) -> None:
    """Raises ConfigurationError in production where nobody has said that the embedded Redis is meant."""
    if settings.production and settings.redis_url is None:
        raise ConfigurationError(
            "environment: REDIS_URL is not set; production takes the embedded Redis only if asked: REDIS_URL=embedded"
        )


def ingress_url(settings: Settings, url: str | None) -> str:
    """Where the ingress is: `url`, or where the settings put it.  Raises ConfigurationError: nothing is running."""
    if url is None:
        redis_url(settings)  # so that "nothing is running" is said in one way
    return (url or welcome.address(settings)).rstrip("/")


@contextlib.asynccontextmanager
async def opened(place: Place, topology: Topology, patience: float = 5) -> AsyncIterator[Stores]:
    """
    The shards of Redis, closed behind whoever asks them.

    Args:
        patience: seconds for which a call is repeated while Redis cannot be reached.

    Raises:
        ConfigurationError: no Redis is running, or it has another number of shards.
        Unavailable: it cannot be reached.
    """
    # Here, because `cauce --help` is to load nothing heavy.
    from streams import layout
    from streams.stores import Stores

    settings = place.settings
    url = redis_url(settings)
    stores = Stores.open(url, namespace=settings.namespace, shards=topology.shards, patience=patience)
    try:
        await layout.compare(stores)
        yield stores
    finally:
        await stores.close()


def ask(place: Place, asking: Callable[[Stores], Awaitable[Any]]) -> Any:
    """Run what a command asks of Redis.  Raises as `opened`."""

    async def main() -> Any:
        async with opened(place, place.topology, patience=1) as stores:
            return await asking(stores)

    return run(main())


async def agreed(question: str) -> bool:
    """Whether somebody says yes; where nobody is there to be asked, that is a no."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    answer = await asyncio.to_thread(sys.stdin.readline)
    if not answer:
        sys.stderr.write("nobody is there to say so; --yes does not ask\n")
    return answer.strip().lower() in _YES


def run(running: Awaitable[Any], *, fast: bool = True) -> Any:
    """
    Run a coroutine to its end.

    Args:
        fast: on uvloop, where there is one.
    """

    async def main() -> Any:
        return await running

    if fast and sys.platform != "win32":
        import uvloop

        return uvloop.run(main())
    return asyncio.run(main())


def expected(error: BaseException) -> CauceError | None:
    """The deliberate error in what came up, also out of a group of tasks; None for a bug."""
    if isinstance(error, BaseExceptionGroup):
        found = [expected(each) for each in error.exceptions]
        return found[0] if all(found) else None
    return error if isinstance(error, CauceError) else None


def exit_status(app: Callable[[], None]) -> int:
    """
    Run the command line to its end, and say of what we raise on purpose one line.

    Raises:
        SystemExit: the command's own status.
        BaseException: a bug.
    """
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # else a full disk is first met where nobody can say so any more
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        sys.stderr.close()
        return 141
    except BaseException as error:
        if _unwritten(error):
            _leave_the_output()
            sys.stderr.write(f"cauce: the output cannot be written ({error.strerror})\n")
            return os.EX_IOERR
        if (told := expected(error)) is None:
            raise
        sys.stderr.write(f"cauce: {told}\n")
    return 2


def _unwritten(error: BaseException) -> TypeGuard[OSError]:
    """Whether it is of standard output: what we write elsewhere has a name, or an error of its own."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _leave_the_output() -> None:
    """What is still to be written would fail once more when Python ends, and that would be the exit status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
