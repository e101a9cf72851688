"""
What the bot says to messages it may answer: the model's words, or the text that stands in for them.

Knows when a text stands in, and that what a person asks for (an action) does not depend on what the model says.  What
is recorded and committed is replies.py's.
"""

from __future__ import annotations

import zlib

import msgspec

from processors.inference import events, prompt, texts
from processors.inference.actions import Detected, Words
from processors.inference.answers import plain
from processors.inference.arrivals import Arrival
from processors.inference.generation import Line, Refused, Request, Sampling
from processors.inference.replies import Exchange, Source, Spoken, heard, typing
from streams.errors import Retry

TYPING = "typing"
"""Progress of a turn: it has been said that it is being answered."""


class Said(msgspec.Struct, kw_only=True):
    """What one turn comes to."""

    spoken: list[Spoken] = []
    action: str | None = None
    """What the person's words ask for, also where nothing is said."""
    failed: bool = False
    """No reply could be made; what is said, if anything, is an apology."""


def say(text: str, source: Source, to: list[Arrival], action: Detected | None = None) -> list[Spoken]:
    """A text; nothing where it is empty, which means silence."""
    if not text:
        return []
    name, slots = (action.name, action.slots) if action else (None, {})
    return [Spoken(text=text, source=source, to=to, action=name, slots=slots)]


async def respond(exchange: Exchange, within: list[Arrival]) -> Said:
    """
    One reply to all of these messages, with the action that the person's words ask for.

    Raises:
        StepFailed, Retry: the engine could not; another attempt may.
    """
    if not any(arrival.readable for arrival in within):
        return Said(spoken=say(exchange.here.texts.not_text, "fallback", within))
    action = _asked(exchange, within)
    name = action.name if action else None
    answers = exchange.here.answers
    question = _alone(exchange, within) if answers else ""
    if answers and question and (known := await answers.find(exchange.turn.key, exchange.rules, question)):
        return Said(spoken=say(known, "cache", within, action), action=name)
    try:
        await _say_typing(exchange, within)
        text, source = await _generate(exchange, within)
    except Retry as again:
        again.progress = TYPING
        raise
    if answers and question and source == "model":
        await answers.keep(exchange.turn.key, exchange.rules, question, text)
    return Said(spoken=say(text, source, within, action), action=name, failed=source == "failure")


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
    said = [Words(arrival.inbound.text, arrival.said_at) for arrival in within if arrival.inbound.text.strip()]
    return exchange.here.detector.detect(said, zone=exchange.here.zone)


async def _generate(exchange: Exchange, within: list[Arrival]) -> tuple[str, Source]:
    """The model's words, or those that stand in where it twice said nothing that can be sent."""
    lines, stand_in = _lines(exchange, within), exchange.here.texts
    said_something = False
    for attempt in (1, 2):
        request = Request(
            lines=lines,
            max_tokens=exchange.here.topology.inference.max_tokens,
            stop=exchange.here.topology.inference.stop,
            sampling=_sampling(exchange, attempt),
        )
        try:
            generated = await exchange.here.engine.generate(request)
        except Refused as refused:
            events.refused(exchange, refused)
            return stand_in.fallback, "fallback"
        events.generated(generated)
        text = texts.tidy(generated.text, cut=generated.finish == "length")
        if not texts.degenerate(text):
            return text, "model"
        events.degenerate(exchange, generated, attempt)
        said_something = said_something or bool(text)
    return (stand_in.fallback, "fallback") if said_something else (stand_in.failure, "failure")


def _lines(exchange: Exchange, within: list[Arrival]) -> list[Line]:
    arrived = {arrival.inbound.message_id for arrival in exchange.arrived}
    before = [said for said in exchange.past.conversation.messages if said.message_id not in arrived]
    # What staff said meanwhile goes before the person's words, which the model is to answer.
    before += [heard(arrival) for arrival in exchange.arrived if not arrival.from_person]
    return prompt.compose(exchange.rules, before, "\n".join(arrival.words for arrival in within))


def _sampling(exchange: Exchange, attempt: int) -> Sampling:
    how = exchange.here.topology.inference
    return Sampling(
        # Greedy twice would fail twice, in the same words.
        temperature=how.temperature if attempt == 1 else max(how.temperature or 0, 0.7),
        top_p=how.top_p,
        top_k=how.top_k,
        repetition_penalty=how.repetition_penalty,
        seed=zlib.crc32(f"{how.seed or 0}:{exchange.turn.id}:{attempt}".encode()),
    )
