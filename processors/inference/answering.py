"""
What the bot says to messages it may answer: the model's words, or the text that stands in for them.

Knows when a text stands in, and that what a person's words ask for (an action) does not depend on what the model says;
where they ask for nothing, its calls may (tools.py).  What is recorded and committed is replies.py's.
"""

from __future__ import annotations

import zlib

import msgspec

from processors.inference import events, prompt, texts
from processors.inference.actions import Detected
from processors.inference.answers import plain
from processors.inference.arrivals import Arrival
from processors.inference.generation import Call, Generated, Line, Refused, Request, Sampling
from processors.inference.replies import Exchange, Source, Spoken, heard, typing
from processors.inference.slots import Heard, Words
from streams.errors import Retry

TYPING = "typing"
"""Progress of a turn: it has been said that it is being answered."""


class Said(msgspec.Struct, kw_only=True):
    """What one turn comes to."""

    spoken: list[Spoken] = []
    action: str | None = None
    """What is asked for, also where nothing is said."""
    failed: bool = False
    """No reply could be made; what is said, if anything, is an apology."""


class _Made(msgspec.Struct, kw_only=True):
    """A reply before it is said."""

    text: str
    source: Source
    action: Detected | None
    called: bool = False
    """The model called something, whatever became of it: its words are not the whole reply."""
    own: str = ""
    """What streams.toml has it say where it called and said nothing."""


def say(text: str, source: Source, to: list[Arrival], action: Detected | None = None) -> list[Spoken]:
    """A text; nothing where it is empty, which means silence."""
    if not text:
        return []
    name, slots = (action.name, action.slots) if action else (None, {})
    return [Spoken(text=text, source=source, to=to, action=name, slots=slots)]


async def respond(exchange: Exchange, within: list[Arrival]) -> Said:
    """
    One reply to all of these messages, with the action that the person's words ask for, or else the model.

    Raises:
        StepFailed, Retry: the engine could not; another attempt may.
    """
    if not any(arrival.readable for arrival in within):
        return Said(spoken=say(exchange.here.texts.not_text, "fallback", within))
    asked = _asked(exchange, within)
    answers = exchange.here.answers
    question = _alone(exchange, within) if answers else ""
    if answers and question and (known := await answers.find(exchange.turn.key, exchange.rules, question)):
        events.cached(exchange)
        return Said(spoken=say(known, "cache", within, asked), action=asked.name if asked else None)
    try:
        await _say_typing(exchange, within)
        made = await _generate(exchange, within, asked)
    except Retry as again:
        again.progress = TYPING
        raise
    if answers and question and made.source == "model" and not made.called:
        await answers.keep(exchange.turn.key, exchange.rules, question, made.text)
    return Said(
        spoken=say(made.text, made.source, within, made.action),
        action=made.action.name if made.action else None,
        failed=made.source == "failure",
    )


async def _say_typing(exchange: Exchange, within: list[Arrival]) -> None:
    """Once for a turn, however often it is tried while a model is away."""
    turn = exchange.turn
    if turn.ahead and turn.attempt == 1 and turn.progress != TYPING and "typing" in exchange.here.topology.egress.types:
        turn.progress = TYPING  # before, for it may be superseded while it is said
        await turn.ahead(typing(exchange, within))


def _alone(exchange: Exchange, within: list[Arrival]) -> str:
    """A question that needs no conversation to be answered, in plain words; empty where it is none."""
    alone = len(exchange.arrived) == 1 and not exchange.past.conversation.messages
    return plain(within[0].inbound.text) if alone and within[0].inbound.kind == "text" else ""


def give_up(exchange: Exchange) -> Said:
    """The apology for a turn to which no reply could be made; what was asked for still counts."""
    action = _asked(exchange, exchange.person)
    spoken = say(exchange.here.texts.failure, "failure", exchange.person, action)
    return Said(spoken=spoken, action=action.name if action else None, failed=True)


def _asked(exchange: Exchange, within: list[Arrival]) -> Detected | None:
    said = [words for words in _words(within) if words.text.strip()]
    asked = exchange.here.detector.detect(said, zone=exchange.here.zone)
    if asked is not None and asked.guessed:
        events.guessed(exchange, asked.name)
    return asked


def _words(within: list[Arrival]) -> list[Words]:
    return [Words(arrival.inbound.text, arrival.said_at) for arrival in within]


async def _generate(exchange: Exchange, within: list[Arrival], asked: Detected | None) -> _Made:
    """
    The model's words, or those that stand in where it twice said nothing that can be sent.

    Tools are offered the first time only: who has called without a word is then asked for words.
    """
    here, lines = exchange.here, _lines(exchange, within)
    made = _Made(text=here.texts.failure, source="failure", action=asked)
    for attempt in (1, 2):
        request = Request(
            lines=lines,
            max_tokens=here.topology.inference.max_tokens,
            stop=here.topology.inference.stop,
            sampling=_sampling(exchange, attempt, again=attempt == 2 and not made.called),
            tools=here.tools.offered if attempt == 1 else (),
        )
        try:
            generated = await here.engine.generate(request)
        except Refused as refused:
            events.refused(exchange, refused)
            made.text, made.source = here.texts.fallback, "fallback"
            return made
        events.generated(exchange, generated)
        if generated.calls:
            _take(exchange, within, made, generated.calls, lines)
        if _speak(exchange, made, generated):
            return made
        if not generated.calls:
            events.degenerate(exchange, generated, attempt)
    return made


def _take(exchange: Exchange, within: list[Arrival], made: _Made, calls: tuple[Call, ...], lines: list[Line]) -> None:
    """The action of the turn, after the model's calls."""
    said = Heard.of(_words(within), exchange.here.zone)
    before = "".join(line.content for line in lines if line.role == "user")
    made.action, verdicts = exchange.here.tools.choose(calls, made.action, said, before)
    made.called = True
    if any(verdict.outcome == "taken" for verdict in verdicts) and made.action:
        made.own = exchange.here.tools.reply(made.action.name)
    events.called(exchange, verdicts)


def _speak(exchange: Exchange, made: _Made, generated: Generated) -> bool:
    """Whether what was generated can be said; where it cannot, what would stand in for it."""
    text = texts.tidy(generated.text, cut=generated.finish == "length")
    if not texts.degenerate(text):
        made.text, made.source = text, "model"
        return True
    if made.own:
        made.text, made.source = made.own, "action"
        return True
    if text or generated.calls:
        made.text, made.source = exchange.here.texts.fallback, "fallback"
    return False


def _lines(exchange: Exchange, within: list[Arrival]) -> list[Line]:
    arrived = {arrival.inbound.message_id for arrival in exchange.arrived}
    past = exchange.past.begun_in_steps(exchange.here.topology.history.max_messages)
    before = [said for said in past if said.message_id not in arrived]
    # What staff said meanwhile goes before the person's words, which the model is to answer.
    before += [heard(arrival) for arrival in exchange.arrived if not arrival.from_person]
    return prompt.compose(exchange.rules, before, "\n".join(arrival.words for arrival in within))


def _sampling(exchange: Exchange, attempt: int, *, again: bool) -> Sampling:
    """
    Args:
        again: the same was asked before, and came to nothing.
    """
    how = exchange.here.topology.inference
    return Sampling(
        # Greedy twice would fail twice, in the same words.
        temperature=max(how.temperature or 0, 0.7) if again else how.temperature,
        top_p=how.top_p,
        top_k=how.top_k,
        repetition_penalty=how.repetition_penalty,
        seed=zlib.crc32(f"{how.seed or 0}:{exchange.turn.id}:{attempt}".encode()),
    )
