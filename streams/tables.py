"""
The tables of streams.toml as structs, with their defaults: what can be written, and what is meant where nothing is.

Pure shapes.  topology.py reads a file into them and says what is wrong with it.
"""

from __future__ import annotations

from typing import Any, Literal, NewType

import msgspec

Seconds = NewType("Seconds", float)
"""A duration: in the file a number of seconds, or text such as "1.5s", "10m", "2h", "7d"."""


class Table(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Anything that can be written as `[name]`."""


class Stream(Table):
    """`[streams.NAME]`"""

    keep: Seconds = Seconds(7 * 86400)
    """How long an entry stays once every group has settled it."""
    max_len: int = 1_000_000
    """At this length the ingress answers 503."""


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
    turn_max: int = 50
    """Messages in a turn; the rest form the next one."""
    turn_max_chars: int = 16_000
    concurrency: int = 16
    """Turns one worker handles at once."""
    attempts: int = 5
    """Starts before a turn is buried."""
    backoff: tuple[Seconds, ...] = (Seconds(1), Seconds(5), Seconds(30), Seconds(120))
    deadline: Seconds = Seconds(600)
    """A handler running longer is cancelled; that counts as a failed attempt."""
    from_: str = msgspec.field(default="start", name="from")
    """Where a new group begins: "start", "now", or an entry id."""
    replay: bool = False
    """Take entries marked as replayed too; others settle them unseen."""


class Slot(Table, kw_only=True):
    """One slot of an action: `slots.speciality = {kind = "values", values = {...}}` or just `"text"`."""

    kind: Literal["text", "date", "time", "number", "values"] = "text"
    values: dict[str, list[str]] = {}
    """For kind `values`: canonical value → synonyms; accents and case are ignored."""


class Action(Table, kw_only=True):
    """`[[actions]]`"""

    name: str
    patterns: list[str]
    """Regular expressions, searched in the person's words without regard to case; named groups fill slots."""
    slots: dict[str, Slot] = {}


class Texts(Table):
    """`[texts]`: what a person may read that no model wrote.  Empty means silence."""

    rate_limited: str = "Estás enviando muchos mensajes. Espera un minuto, por favor."
    failure: str = "Disculpa, tuve un problema y no pude responderte. ¿Puedes escribirlo de nuevo?"
    fallback: str = "Disculpa, no estoy seguro de haberte entendido. ¿Me lo puedes decir de otra manera?"
    not_text: str = "Por ahora solo puedo leer mensajes de texto. ¿Me lo puedes escribir, por favor?"
    """The answer to a turn that holds nothing the bot can read (a voice message, a sticker)."""
    too_many: str = "Demasiadas solicitudes"
    """The `detail` of a 429 to a waiting request."""


class RateLimit(Table):
    """`[rate_limit]`; how many is RATE_LIMIT_PER_MINUTE in the environment."""

    window: Seconds = Seconds(60)


class History(Table):
    """`[history]`"""

    max_messages: int = 50


class Wait(Table):
    """`[wait]`: `Prefer: wait=N`"""

    max_seconds: Seconds = Seconds(60)
    keep: Seconds = Seconds(86400)
    """How long a claimed reply can be asked for again."""


class Handoff(Table):
    """`[handoff]`"""

    pause: Seconds = Seconds(12 * 3600)


class Users(Table):
    """`[users]`"""

    phone_numbers: bool = True
    """Write anything that looks like a phone number as `+` and digits."""


class Inference(Table):
    """`[inference]`: how replies are generated."""

    max_tokens: int = 200
    temperature: float | None = None
    """0 is greedy.  This and the next three, left out: as the model's author says, else as is usual for a chat."""
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    slots: int = 16
    """Requests in the running batch at once."""
    threads: int = 0
    """Torch threads; 0 = one fewer than the cores, at least one."""
    device: str = "auto"
    dtype: str = "auto"
    chat_template: str | None = None
    """A Jinja template in place of the tokenizer's own."""


class Egress(Table):
    """`[egress]`: how replies are delivered."""

    types: tuple[str, ...] = ("reply",)
    timeout: Seconds = Seconds(15)
    max_chars: int = 4096
    spacing: Seconds = Seconds(1)
    """Between the parts of one long reply."""
    expire: Seconds = Seconds(86400)
    """A reply older than this is buried unsent: WhatsApp's window has closed."""
    breaker_failures: int = 5
    """Failures in a row that open the breaker of a destination."""
    breaker_wait: Seconds = Seconds(5)
    breaker_wait_max: Seconds = Seconds(300)


class Dead(Table):
    """`[dead]`"""

    keep: Seconds = Seconds(30 * 86400)
    max_len: int = 100_000


class File(Table, kw_only=True):
    """The whole of streams.toml."""

    streams: dict[str, Stream] = {}
    groups: dict[str, Group] = {}
    actions: list[Action] = []
    texts: Texts = msgspec.field(default_factory=Texts)
    rate_limit: RateLimit = msgspec.field(default_factory=RateLimit)
    history: History = msgspec.field(default_factory=History)
    wait: Wait = msgspec.field(default_factory=Wait)
    handoff: Handoff = msgspec.field(default_factory=Handoff)
    users: Users = msgspec.field(default_factory=Users)
    inference: Inference = msgspec.field(default_factory=Inference)
    egress: Egress = msgspec.field(default_factory=Egress)
    dead: Dead = msgspec.field(default_factory=Dead)


Plain = dict[str, Any]
