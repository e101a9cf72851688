"""
A model behind an OpenAI-compatible server: vLLM, TGI, llama.cpp, Ollama, `transformers serve`, a cloud.

`POST /v1/chat/completions` as https://platform.openai.com/docs/api-reference/chat has it, streamed, so that a server
that has died is noticed within the time that one token may take, and a reply that nobody waits for any more ends there
too: the connection is closed.  Which server is asked endpoints.py says, and completions.py what it is asked.

What becomes of a request: whatever is wrong with one server, another is asked.  Where none is left, a server that
cannot be reached, is busy, or refuses our key or the model's name is no fault of the request, which waits; one that
failed at it may be its fault, and an attempt is counted.  So may one that broke off or said nothing, unless it had
others of ours at the same time: then it gets fewer at once, and who finds no place waits here.  A 400 is refused for
good, unless it is for the prompt's length: then the oldest turns are left out.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Container, Sequence
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from processors.inference.completions import (
    Answer,
    Unreadable,
    messages,
    models,
    shorter,
    too_long,
    unknown,
    wished,
)
from processors.inference.endpoints import Endpoint, Endpoints
from processors.inference.generation import Generated, Line, Refused, Request, StepFailed
from streams import log as logs
from streams import retry_after, wire
from streams.errors import ConfigurationError, Retry
from streams.masking import bare
from streams.settings import Secret, Settings
from streams.tables import Inference

log = logs.get("inference")

CONNECT_SECONDS = 5.0
MOST_LINE = 1 << 20
"""Bytes of one line of a stream."""
_TRIES = 10
"""How often a request is made smaller, until the server takes it, before it is refused."""


class _Away(Exception):
    """
    This server does not answer; another may.

    Args:
        pause: seconds for which it is to be left alone; None: as Endpoints has it.
        blame: the request itself may be to blame.
        load: or what else the server had to do.
        refused: it takes nothing of ours, for its key, address or name.
    """

    def __init__(
        self, why: str, *, pause: float | None = None, blame: bool = False, load: bool = False, refused: bool = False
    ) -> None:
        super().__init__(why)
        self.pause, self.blame, self.load, self.refused = pause, blame, load, refused


class _TooLong(Exception):
    """The prompt does not fit into the model's context."""


class _TooMuch(Exception):
    """The server seems not to know a field that we can do without; its argument."""


class Remote:
    """See `generation.Engine`."""

    def __init__(self, urls: Sequence[str], model: str, *, key: str | None = None, timeout: float = 60.0) -> None:
        """
        Args:
            urls: each up to and with `/v1`.
            timeout: seconds within which the first token has to come, and each further one.
        """
        self._endpoints = Endpoints(urls)
        self._model = model
        self._headers = {"authorization": f"Bearer {key}"} if key else {}
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=timeout)
        self._client: aiohttp.ClientSession | None = None
        self._without = frozenset[str]()
        """Fields without which a request went through that was refused with them."""
        self._refused = ""
        """Why no server takes anything of ours: the key, or the model's name."""
        self._waiting = deque[asyncio.Future[None]]()
        """Of requests for which no server has a place; those that have gone meanwhile are done."""

    async def generate(self, request: Request) -> Generated:
        lines, without = request.lines, self._without
        for _ in range(_TRIES):
            if not lines:
                break
            try:
                generated = await self._somewhere(lines, request, without)
            except _TooMuch as field:
                without = without | {str(field)}
            except _TooLong:
                lines = shorter(lines)
            else:
                if without - self._without:
                    log.warning("model.fields_refused", fields=sorted(without))
                self._without = without
                return generated
        raise Refused("the prompt does not fit into the model's context" if request.lines else "the prompt is empty")

    async def _somewhere(self, lines: list[Line], request: Request, without: frozenset[str]) -> Generated:
        loop, tried = asyncio.get_running_loop(), dict[Endpoint, _Away]()
        while (place := await self._place(tried)) is not None:
            endpoint, began = place
            try:
                generated = await self._ask(endpoint, began, lines, request, without)
            except _Away as away:
                tried[endpoint] = away
                self._failed(endpoint, away, began, loop.time())
            else:
                if endpoint.failures:
                    log.info("model.back", url=bare(endpoint.url))
                self._endpoints.works(endpoint)
                self._refused = ""
                return generated
            finally:
                self._endpoints.done(endpoint, loop.time())
                self._wake()
        raise self._nobody(tried)

    async def _place(self, tried: Container[Endpoint]) -> tuple[Endpoint, float] | None:
        """
        The server to ask, once it has a place, and since when it has; None where there is none to ask.

        Raises:
            Retry: that took longer than a first token may.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._timeout.sock_read):
                while True:
                    now = loop.time()
                    if (endpoint := self._endpoints.next(now, tried)) is not None:
                        return endpoint, now
                    if not self._endpoints.all_full(now, tried):
                        return None
                    await self._wait()
        except TimeoutError:
            again = random.uniform(1, 2)  # noqa: S311 - jitter, not a secret
            raise Retry("every model server has as much to do as it can", after=again, counted=False) from None

    async def _wait(self) -> None:
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if not place.cancelled():
                self._wake()  # it was ours; the next one's, then
            raise

    def _wake(self) -> None:
        """Whoever has waited longest looks for a place."""
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    def _failed(self, endpoint: Endpoint, away: _Away, began: float, now: float) -> None:
        if endpoint.failures == 0:
            log.warning("model.away", url=bare(endpoint.url), why=str(away))
        if away.blame:
            self._endpoints.doubted(endpoint, now)
        else:
            self._endpoints.failed(endpoint, now, pause=away.pause)
        before = endpoint.most
        if away.load and self._endpoints.crowded(endpoint, began, now):
            away.blame = False
            if endpoint.most != before:
                log.warning("model.crowded", url=bare(endpoint.url), at_once=endpoint.most)

    def _nobody(self, tried: dict[Endpoint, _Away]) -> Exception:
        """Why nobody has answered, and what that means for the request."""
        told = [f"{bare(endpoint.url)}: {away}" for endpoint, away in tried.items()]
        why = f"no model server answers ({'; '.join(told) or 'each is left alone for a while'})"
        if any(away.blame for away in tried.values()):
            return StepFailed(why)
        if tried and all(away.refused for away in tried.values()):
            self._refused = why
            log.error("model.misconfigured", why=why, hint="look at MODEL, MODEL_URL and MODEL_API_KEY")
        wait = max(1.0, self._endpoints.wait(asyncio.get_running_loop().time()))
        return Retry(why, after=wait * random.uniform(1, 1.5), counted=False)  # noqa: S311 - jitter, not a secret

    async def _ask(
        self, endpoint: Endpoint, began: float, lines: list[Line], request: Request, without: frozenset[str]
    ) -> Generated:
        more = {name: value for name, value in wished(request).items() if name not in without}
        body = {"model": self._model, "messages": messages(lines), **more}
        url, answer = f"{endpoint.url}/chat/completions", Answer()
        headers = self._headers | ({"traceparent": wire.trace_from(trace)} if (trace := logs.trace.get()) else {})
        try:
            async with self._session().post(url, json=body, headers=headers, proxy=_proxy(url)) as response:
                await self._hear(response, answer, more)
        except aiohttp.ClientConnectorError as lost:
            raise _Away(str(lost)) from lost
        except TimeoutError as late:  # while it connects it is aiohttp's own kind of the former
            blame = not isinstance(late, aiohttp.ConnectionTimeoutError)
            raise _Away(f"nothing came for {self._timeout.sock_read:g} s", blame=blame, load=blame) from late
        except (aiohttp.ClientError, OSError) as lost:
            raise _Away(str(lost) or type(lost).__name__, blame=True, load=True) from lost
        except (Unreadable, ValueError) as wrong:  # a line that is too long is aiohttp's ValueError
            raise _Away(f"its answer is none: {wrong}", blame=True) from wrong
        if not answer.complete:
            raise _Away("the answer broke off", blame=True, load=True)
        if self._endpoints.interrupted(endpoint, began, answer.finish):
            raise _Away("the answer was interrupted", pause=0.0, load=True)
        ms = (asyncio.get_running_loop().time() - began) * 1000
        return answer.generated(ms, request.stop, tools="tools" in more)

    async def _hear(self, response: aiohttp.ClientResponse, answer: Answer, sent: Container[str]) -> None:
        if response.status != 200:
            told = (await response.read())[:4096].decode(errors="replace")
            raise self._declined(response, told, sent)
        kind = response.headers.get("content-type", "")
        if "html" in kind:  # a proxy's, or a log-in's: nothing that a person wrote
            raise _Away("it answered with a web page", pause=30.0, refused=True)
        if "event-stream" in kind:
            async for line in response.content:
                answer.hear(line)
        else:
            answer.read(await response.read())

    def _declined(self, response: aiohttp.ClientResponse, told: str, sent: Container[str]) -> Exception:
        """What a status other than 200 means, for a request with these fields."""
        status, why = response.status, f"it answered {response.status}: {_excerpt(told)}"
        if status in (400, 413, 422):
            if too_long(told):
                return _TooLong()
            if (field := unknown(told, sent)) is not None:
                return _TooMuch(field)
            return Refused(f"the model server answered {status}: {_excerpt(told)}")
        if status in (408, 425, 429, 502, 503, 504):
            pause = retry_after.seconds(response.headers.get("retry-after"), time.time())
            return _Away(why, pause=pause, load=status in (408, 429, 503, 504))
        if status < 500:
            # Nothing that a person wrote: the key, the address, or the model's name.
            return _Away(why, pause=30.0, refused=True)
        if "tools" in sent and unknown(told, ("tools",)):  # llama.cpp without its flag, Ollama with some models
            return _TooMuch("tools")
        return _Away(why, blame=True)

    def _session(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                timeout=self._timeout,
                # uvicorn, and so many of these servers, closes what is idle for 5 s.
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=4),
                read_bufsize=MOST_LINE,
            )
        return self._client

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._model, "engine": "remote",
            "dtype": None, "device": None, "parameters": None, "context_length": None,
            "urls": [bare(each.url) for each in self._endpoints.all],
            "away": [bare(each.url) for each in self._endpoints.all if each.failures],
            "running": sum(each.busy for each in self._endpoints.all),
            "waiting": sum(not place.done() for place in self._waiting),
        }  # fmt: skip

    def ready(self) -> bool:
        """It takes turns also while all servers are away: those wait, and count no attempt."""
        return not self._refused

    def forget(self) -> None:
        """What the server keeps is the server's."""

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def open_engine(settings: Settings, inference: Inference) -> Remote:
    """Raises ConfigurationError: see `name_of`."""
    key = settings.model_api_key.reveal() if settings.model_api_key else None
    return Remote(settings.model_url, name_of(settings), key=key, timeout=inference.timeout)


def name_of(settings: Settings) -> str:
    """
    What the server calls its model.

    Raises:
        ConfigurationError: MODEL was left as it is, and no server knows a model of ours; or there are two keys.
    """
    if settings.model_api_key and any("@" in urlsplit(url).netloc for url in settings.model_url):
        raise ConfigurationError(
            "environment: MODEL_URL holds a password, and MODEL_API_KEY is set; write one of the two"
        )
    if settings.model == "demo":
        raise ConfigurationError(
            "environment: MODEL_URL is set, so write in MODEL what that server calls its model, "
            "such as Qwen/Qwen2.5-7B-Instruct"
        )
    return settings.model


async def served(url: str, key: Secret | None) -> list[str]:
    """
    The names of the models that a server has; an empty list where it does not say.

    Raises:
        OSError: it does not answer.
        ConfigurationError: it refuses us.
    """
    headers = {"authorization": f"Bearer {key.reveal()}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=CONNECT_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as client,
            client.get(f"{url.rstrip('/')}/models", proxy=_proxy(url)) as response,
        ):
            if response.status in (401, 403):
                raise ConfigurationError(f"{bare(url)} answered {response.status}: look at MODEL_API_KEY")
            if response.status == 404:
                raise ConfigurationError(f"{bare(url)} has no /models: MODEL_URL mostly ends in /v1")
            return models(await response.read()) if response.status == 200 else []
    except TimeoutError as late:
        raise OSError(f"nothing came for {CONNECT_SECONDS:g} s") from late
    except aiohttp.ClientError as lost:
        raise OSError(str(lost) or type(lost).__name__) from lost


def _proxy(url: str) -> str | None:
    """That of the environment; aiohttp's own reading of it would read a .netrc as well."""
    where = urlsplit(url)
    return None if proxy_bypass(where.hostname or "") else getproxies().get(where.scheme)


def _excerpt(told: str) -> str:
    return " ".join(told.split())[:200]
