"""
The tables of streams.toml as structs, with their defaults: what can be written, and what is meant where nothing is.

Pure shapes and the bounds of their numbers.  topology.py reads a file into them and says what is wrong with it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NewType

import msgspec

Seconds = NewType("Seconds", float)
"""A duration: in the file a number of seconds, or text such as "1.5s", "10m", "2h", "7d"."""

Count = Annotated[int, msgspec.Meta(ge=1)]
Handful = Annotated[int, msgspec.Meta(ge=1, le=1000)]
"""A count of what is held in memory at once."""

Processes = Annotated[int, msgspec.Meta(ge=1, le=64)]

WhenFull = Literal["shed", "skip"]

Span = Annotated[Seconds, msgspec.Meta(gt=0)]
"""A duration in which something has to happen."""


Patience = Annotated[Seconds, msgspec.Meta(ge=0, le=60)]
"""A duration for which leases are held without anything being done."""


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anything that can be written as `[name]`."""


class Stream(Table):
    """`[streams.NAME]`"""

    keep: Seconds = Seconds(7 * 86400)
    """How long an entry stays once every group has settled it."""
    max_len: Count = 1_000_000
    """Near this length settled entries go before `keep` is up; at it the ingress answers 503."""


class Group(Table, kw_only=True):
    """`[groups.NAME]`"""

    name: str = ""
    """Set by the reader from the table's name."""
    reads: str
    handler: str
    """`module:function`, imported from the folder of streams.toml."""
    writes: list[str] = []
    order: Literal["key", "none"] = "key"
    debounce: Seconds = Seconds(0)
    """Each message of a key restarts this wait before its turn starts."""
    debounce_max: Seconds = Seconds(10)
    """A turn starts at the latest this long after its first message."""
    turn_max: Handful = 50
    """Messages in a turn; the rest form the next one."""
    turn_max_chars: Count = 16_000
    on_new_message: Literal["finish", "supersede"] = "finish"
    """Of a key whose turn is in work: it is finished, or cancelled, to be handled anew together with the message."""
    supersede_max: Count = 3
    """How often that may happen before what a turn was begun for is answered."""
    concurrency: Handful = 16
    """Turns one worker handles at once."""
    processes: Processes = 1
    """Of `cauce up`; elsewhere whoever starts workers decides."""
    batch: Handful | None = None
    """Of a handler of batches: turns in one call at most; `concurrency` is then how many calls at once."""
    batch_wait: Patience = Seconds(0.2)
    """How long the first turn of a batch waits for others, while fewer have come."""
    attempts: Count = 5
    """Starts before a turn is buried."""
    backoff: tuple[Seconds, ...] = (Seconds(1), Seconds(5), Seconds(30), Seconds(120))
    deadline: Span = Seconds(600)
    """A handler running longer is cancelled; that counts as a failed attempt."""
    from_: str = msgspec.field(default="start", name="from")
    """Where a new group begins: "start", "now", a time ago ("2h"), a date, or behind an entry's id."""
    replay: bool = False
    """Take entries marked as replayed too; others settle them unseen."""
    when_full: WhenFull = "shed"
    """Where it is too far behind: the ingress answers 503, or it loses its oldest entries (only if it writes none)."""
    tallies: str | None = None
    """The name that it counts under; None: its own."""
    max_backlog: Count | None = None
    """Entries that it may be behind; None: as many as its stream holds."""


Which = Literal["any", "coming", "asked"]


class Slot(Table, kw_only=True):
    """One slot of an action: `slots.speciality = {kind = "values", values = {...}}` or just `"text"`."""

    kind: Literal["text", "date", "time", "number", "values"] = "text"
    values: dict[str, list[str]] = {}
    """For kind `values`: canonical value → synonyms; accents and case are ignored."""
    which: Which = "any"
    """
    Of the days and times in the words: any, only a day that is to come, or only what is asked for, which is not that of
    an appointment that there is, nor one that is refused.
    """
    description: str = ""
    """What the model is told to put here."""


class Action(Table, kw_only=True):
    """`[[actions]]`"""

    name: str
    patterns: list[str] = []
    """Regular expressions, searched in the person's words without regard to case; named groups fill slots."""
    slots: dict[str, Slot] = {}
    description: str = ""
    """When the model is to call it, in words for the model; empty: it is not offered."""
    reply: str = ""
    """Said where the model calls it without a word; empty: the model is asked for words."""


class Texts(Table):
    """`[texts]`: what a person may read that no model wrote.  Empty means silence."""

    rate_limited: str = "Estás enviando muchos mensajes. Espera un minuto, por favor."
    failure: str = "Disculpa, tuve un problema y no pude responderte. ¿Puedes escribirlo de nuevo?"
    fallback: str = "Disculpa, no estoy seguro de haberte entendido. ¿Me lo puedes decir de otra manera?"
    not_text: str = "Por ahora solo puedo leer mensajes de texto. ¿Me lo puedes escribir, por favor?"
    """The answer to a turn that holds nothing the bot can read (a voice message, a sticker)."""
    too_many: str = "Demasiadas solicitudes"
    """The `detail` of a 429 to a waiting request."""


class History(Table):
    """`[history]`"""

    max_messages: Count = 50
    from_archive: bool = False
    """Where a conversation begins anew, what was said before is read from the archive."""


class Wait(Table):
    """`[wait]`: `Prefer: wait=N`"""

    max_seconds: Span = Seconds(60)
    keep: Seconds = Seconds(25 * 3600)
    """
    How long a claimed reply can be asked for again, and for which egress knows that it was claimed: at least as long as
    it may still be delivered.
    """


class Handoff(Table):
    """`[handoff]`"""

    pause: Seconds = Seconds(12 * 3600)


class Users(Table):
    """`[users]`"""

    phone_numbers: bool = True
    """Write anything that looks like a phone number as `+` and digits."""


class Inference(Table):
    """`[inference]`: how replies are generated."""

    max_tokens: Count = 200
    temperature: Annotated[float, msgspec.Meta(ge=0)] | None = None
    """0 is greedy.  This and the next three, left out: as the model's author says, else as is usual for a chat."""
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    repetition_penalty: Annotated[float, msgspec.Meta(gt=0)] | None = None
    seed: int | None = None
    stop: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    """Where one of these texts begins the reply ends; it is not sent."""
    slots: Count = 16
    """Requests in the running batch at once."""
    keep_mb: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """MiB for what was computed of conversations, for their next turn; None: a quarter of what is free at the start."""
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    """That compute; 0: one for a model of less than ten million parameters, else one fewer than the cores."""
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8"] = "auto"
    chat_template: str | None = None
    """A Jinja template in place of the tokenizer's own."""
    answers: Seconds = Seconds(0)
    """How long a reply serves others who begin with the same question; 0: not at all."""
    tools: bool = True
    """Offer the actions that have a description to the model, where it has tools."""
    examples: tuple[Annotated[str, msgspec.Meta(min_length=1)], ...] = ()
    """Sentences by which actions are found where no pattern finds one: `spanish`, which ship, and files."""
    timeout: Span = Seconds(60)
    """Of a model on another server (MODEL_URL): within which its first token has to come, and each further one."""


class Egress(Table):
    """`[egress]`: how replies are delivered."""

    types: Annotated[tuple[Literal["reply", "handover", "typing"], ...], msgspec.Meta(min_length=1)] = ("reply",)
    timeout: Span = Seconds(15)
    max_chars: Count = 4096
    spacing: Seconds = Seconds(1)
    """Between the parts of one long reply."""
    expire: Seconds = Seconds(86400)
    """A reply older than this is buried unsent: WhatsApp's window has closed."""
    breaker_failures: Count = 5
    """Failures in a row that open the breaker of a destination."""
    breaker_wait: Seconds = Seconds(5)
    breaker_wait_max: Seconds = Seconds(300)


class Tallies(Table):
    """`[tallies]`: how long what was counted is kept, for each length of a bucket."""

    minutes: Span = Seconds(2 * 86400)
    hours: Span = Seconds(60 * 86400)
    days: Span = Seconds(730 * 86400)


class Archive(Table):
    """`[archive]`: what the groups of `processors.archive` keep, and how long."""

    keep: Span = Seconds(2 * 365 * 86400)
    """Rows older than this are deleted; on PostgreSQL whole months."""
    book: tuple[str, ...] = ("book",)
    """Actions that ask for an appointment."""
    move: tuple[str, ...] = ("move",)
    cancel: tuple[str, ...] = ("cancel",)


class Dead(Table):
    """`[dead]`"""

    keep: Seconds = Seconds(30 * 86400)
    max_len: Count = 100_000


class Journal(Table):
    """`[journal]`: what is kept of how each message was handled, for `cauce trace`."""

    keep: Seconds = Seconds(7 * 86400)
    """0: nothing is."""
    max_mb: Count = 64
    """MiB in Redis, for all groups together; the oldest goes first."""


class Placement(Table, kw_only=True):
    """Before the first table: where in Redis things lie, and how safely."""

    shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    """Parts of which each holds some people's keys; on a Cluster they spread over the masters."""
    durability: Literal["memory", "fsync", "replica"] = "memory"
    """What has to have a message before its sender is told so."""


class File(Placement, kw_only=True):
    """The whole of streams.toml."""

    streams: dict[str, Stream] = {}
    groups: dict[str, Group] = {}
    vocabulary: dict[str, str] = {}
    """Pieces of regular expressions, which patterns name as {word}."""
    actions: list[Action] = []
    texts: Texts = msgspec.field(default_factory=Texts)
    history: History = msgspec.field(default_factory=History)
    wait: Wait = msgspec.field(default_factory=Wait)
    handoff: Handoff = msgspec.field(default_factory=Handoff)
    users: Users = msgspec.field(default_factory=Users)
    inference: Inference = msgspec.field(default_factory=Inference)
    egress: Egress = msgspec.field(default_factory=Egress)
    tallies: Tallies = msgspec.field(default_factory=Tallies)
    archive: Archive = msgspec.field(default_factory=Archive)
    dead: Dead = msgspec.field(default_factory=Dead)
    journal: Journal = msgspec.field(default_factory=Journal)


Plain = dict[str, Any]
