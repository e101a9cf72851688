"""
What a handler is given (a turn) and what it may want done (effects).

A handler returns effects and never touches pipeline state itself; the runtime commits them together with the
acknowledgement, all or nothing.  Knows no Redis, and of clocks only how long a turn has taken so far.
"""

from __future__ import annotations

import builtins
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypedDict, TypeVar, Unpack, overload

import msgspec

from streams import wire
from streams.errors import Malformed

T = TypeVar("T")


class Message(msgspec.Struct, kw_only=True, frozen=True):
    """One entry of a stream, as a handler sees it."""

    id: str
    """The entry's id, `<milliseconds>-<sequence>`."""
    type: str
    body: bytes
    version: str = wire.VERSION
    trace: str = ""
    replayed: bool = False
    door: str | None = None
    """On outbound: the entry whose waiting HTTP request may claim this reply instead of the webhook."""
    origin: str | None = None
    """Of an entry that was put back from the dead letters: the id under which it first came."""
    count: int | None = None
    """Where the group has a meter: the how-many-th of its person's window this message was; None if not counted."""

    def decode(self, shape: builtins.type[T]) -> T:
        """The body as `shape`.  Raises Malformed, which names this entry."""
        try:
            return wire.decode(self.body, shape, self.version)
        except Malformed as error:
            error.entry = self.id
            raise

    @property
    def at_ms(self) -> int:
        """When Redis first took it, Unix milliseconds."""
        return int((self.origin or self.id).partition("-")[0])


class Note(msgspec.Struct, frozen=True, array_like=True):
    """Something worth knowing of how a turn was handled."""

    ms: int
    """Since the turn was granted."""
    name: str
    facts: dict[str, Any] = {}


class Turn(msgspec.Struct, kw_only=True):
    """All that waits of one key, to be handled together, once."""

    group: str
    key: str
    messages: list[Message]
    attempt: int = 1
    """1 on the first start."""
    state: dict[str, bytes | None] = {}
    """What the handler's `recall` names, read in the same act that granted the turn."""
    progress: str = ""
    """
    What an earlier attempt left in `Retry(progress=…)`, or had set here when the turn was superseded: what is set while
    it is handled is kept then.
    """
    superseded: int = 0
    """How often it was cancelled so far, to be handled anew with what came meanwhile (`on_new_message`)."""
    resources: Any = None
    """What the handler's lifespan yielded."""
    now_ms: int = 0
    """Redis's clock when the turn was granted, Unix milliseconds."""
    meter_ms: int = 0
    """Where the group has a meter: until this person's window ends."""
    ahead: Callable[[Output], Awaitable[None]] | None = None
    """
    Append an entry now, while the turn is in work: for what is worth nothing later, such as that an answer is on its
    way.  It may come twice, or not at all; what has to come once belongs into the effects.  None where nothing may
    leave: in a test, in a replay.
    """
    shard: int | None = None
    """Where there are several: two of them may have entries of the same id."""
    began: float = msgspec.field(default_factory=time.monotonic)
    """When it was granted, by the clock of `note`."""
    notes: list[Note] = []

    def note(self, name: str, /, **facts: Any) -> None:
        """
        Leave a note for the timeline of these messages (`cauce trace`): `turn.note("booked", room=3)`.

        Facts are numbers and short texts.  Numbers of people and WhatsApp's ids in them are masked; what people write
        does not belong there.
        """
        self.notes.append(Note(int((time.monotonic() - self.began) * 1000), name, facts))

    @property
    def id(self) -> str:
        """Stable over retries and takeovers of the same messages: the id of the last entry."""
        return self.messages[-1].id

    @property
    def replayed(self) -> bool:
        for message in self.messages:  # asked for several times a message, and a generator takes twice as long
            if message.replayed:
                return True
        return False


class Output(msgspec.Struct, kw_only=True):
    """One entry to append."""

    stream: str
    type: str
    body: msgspec.Struct | dict[str, Any]
    key: str | None = None
    """None: the turn's key."""
    answers: bool = False
    """This is the text a waiting HTTP request is waiting for: it goes through that door or the webhook, never both."""


class Write(msgspec.Struct, kw_only=True):
    """One state key of the turn's key to set, or to delete where `value` is None."""

    kind: str
    """A kind of the key table (`conversation`, …) or `own`, the group's own state for this key."""
    value: bytes | None = None
    ttl_seconds: int = 0


class Tally(msgspec.Struct, kw_only=True):
    """
    What is to be counted of one moment, once, whoever crashes; minutes, hours and days of it are the runtime's.

    It is counted under the group's `tallies`.  Names should be few: what they count is kept for each bucket of time.
    """

    at_ms: int
    """When it was, Unix milliseconds: mostly the message's `at_ms`."""
    counts: dict[str, int] = {}
    """How many more there are: `{"actions.book": 1}`; what stands before a dot is shown as one group."""
    distinct: dict[str, str] = {}
    """How many different ones there are, to within a percent: `{"people": turn.key}`; the values are not kept."""
    timings: dict[str, int] = {}
    """How long something took, milliseconds: of these there are percentiles."""


class Answer(msgspec.Struct, kw_only=True):
    """What a waiting HTTP request is told."""

    status: Literal["replied", "paused", "failed", "rate_limited"]
    body: dict[str, Any] = {}


class Effects(msgspec.Struct, kw_only=True):
    """
    What a handler wants done, committed as one act.

    `unless` names a state kind: where its key exists at the moment of the commit, what `instead` makes is committed in
    place of these effects (a reply generated while someone paused the bot is not sent).
    """

    outputs: list[Output] = []
    writes: list[Write] = []
    tallies: list[Tally] = []
    answer: Answer | None = None
    unless: str | None = None
    instead: Callable[[], Effects] | None = None


class Metering(msgspec.Struct, kw_only=True, frozen=True):
    """
    Count each message once, on its first attempt, in a fixed window from the first one.

    Counted in the act that grants the turn, so a retry, a takeover or a repeated call counts nothing twice.
    """

    kind: str
    window_seconds: int
    skip_types: tuple[str, ...] = ()
    """Entry types that are not counted."""
    unless: str | None = None
    """A state kind, one of those that the handler recalls: while it is there nothing is counted."""


class Retold(msgspec.Struct, kw_only=True):
    """What a turn of the past, with what it once appended, tells of the state around it."""

    found: list[Write] = []
    """What stood there when it began, or did not (None), whoever had put it there or taken it away."""
    left: list[Write] = []
    """What it left."""


Handle = Callable[[Turn], Awaitable[Effects | None]]
HandleBatch = Callable[[list[Turn]], Awaitable[Sequence[Effects | None] | None]]
"""Of several turns: what is to be done for each, in their order, or None where it is nothing for any."""
Retell = Callable[[Turn, Sequence[Message]], Awaitable[Retold]]

Elsewhere = Callable[[str, Any, Any, Any], Awaitable[dict[str, int]]]
"""
`forget(person, group, topology, settings)`, of what lies outside Redis.  Raises errors.Partly: some of it was done; may
raise anything else where nothing was.
"""


class Handler(msgspec.Struct, kw_only=True, frozen=True):
    """A handler with all the runtime needs to know of it."""

    handle: Callable[[Any], Awaitable[Any]]
    """Handle, or HandleBatch where `batch`."""
    batch: bool = False
    """It is given many turns at once, as many as its group's `batch`."""
    recall: tuple[str, ...] = ()
    metering: Metering | None = None
    outside: bool = False
    """It acts outside Redis (a webhook, a database): never run in a replay."""
    lifespan: Callable[..., AbstractAsyncContextManager[Any]] | None = None
    """`lifespan(group, topology, settings, stores)`: opened once per worker, before the first turn."""
    buried: Callable[[Turn, str], Effects | None] | None = None
    """What is committed beside the burial of a turn: an apology, say."""
    forget: Elsewhere | None = None
    """Delete what it has written of this person outside Redis; returns how much of what, for the receipt."""
    kept: Elsewhere | None = None
    """How much of what `forget` would delete, with nothing done."""
    retell: Retell | None = None
    """How a replay rebuilds the state that stood before its range; None: it begins with nothing."""

    def __call__(self, given: Any) -> Any:
        """A turn, or a list of them where `batch`: as the function itself, for its tests."""
        return self.handle(given)

    def __post_init__(self) -> None:
        if self.metering and self.metering.unless and self.metering.unless not in self.recall:
            raise TypeError(f"metering stops at {self.metering.unless!r}, which `recall` does not name")


class Said(TypedDict, total=False):
    """What may be said of a handler; Handler's fields of these names say what each means."""

    recall: tuple[str, ...]
    metering: Metering | None
    outside: bool
    lifespan: Callable[..., AbstractAsyncContextManager[Any]] | None
    buried: Callable[[Turn, str], Effects | None] | None
    forget: Elsewhere | None
    kept: Elsewhere | None
    retell: Retell | None


@overload
def handler(*, batch: Literal[False] = False, **said: Unpack[Said]) -> Callable[[Handle], Handler]: ...


@overload
def handler(*, batch: Literal[True], **said: Unpack[Said]) -> Callable[[HandleBatch], Handler]: ...


def handler(*, batch: bool = False, **said: Unpack[Said]) -> Callable[[Any], Handler]:
    """
    Say more about a handler than its code does.

    With `batch` it is given a list of turns, and returns the effects of each in a list of the same length, or None.

    ```python
    @handler(recall=("own",))
    async def count(turn: Turn) -> Effects:
        seen = int(turn.state["own"] or 0) + len(turn.messages)
        return Effects(writes=[Write(kind="own", value=str(seen).encode(), ttl_seconds=86400)])
    ```
    """
    return lambda handle: Handler(handle=handle, batch=batch, **said)
