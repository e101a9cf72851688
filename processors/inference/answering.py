"""
What the bot says to messages it may answer: the model's words, or the text that stands in for them.

Knows when a text stands in.  What is recorded and committed is replies.py's.
"""

from __future__ import annotations

import zlib

from processors.inference import events, prompt, texts
from processors.inference.arrivals import Arrival
from processors.inference.generation import Line, Refused, Request, Sampling
from processors.inference.replies import Exchange, Source, Spoken, heard


def say(text: str, source: Source, to: list[Arrival]) -> list[Spoken]:
    """One of `[texts]`; nothing where it is empty, which means silence."""
    return [Spoken(text=text, source=source, to=to)] if text else []


async def respond(exchange: Exchange, within: list[Arrival]) -> list[Spoken]:
    """
    One reply to all of these messages, with the action that the person's words ask for.

    Raises:
        StepFailed, Retry: the engine could not; another attempt may.
    """
    here = exchange.here
    readable = [arrival for arrival in within if arrival.readable]
    if not readable:
        return say(here.texts.not_text, "fallback", within)
    text = await _generate(exchange, within)
    if text is None:
        return say(here.texts.fallback, "fallback", within)
    words = "\n".join(arrival.inbound.text for arrival in readable)
    found = here.detector.detect(words, said_at=readable[-1].said_at, zone=here.zone)
    return [
        Spoken(
            text=text,
            source="model",
            to=within,
            action=found.name if found else None,
            slots=found.slots if found else {},
        )
    ]


async def _generate(exchange: Exchange, within: list[Arrival]) -> str | None:
    """The model's words; None where it twice said nothing that can be sent."""
    lines = _lines(exchange, within)
    for attempt in (1, 2):
        request = Request(
            lines=lines,
            max_tokens=exchange.here.topology.inference.max_tokens,
            sampling=_sampling(exchange, attempt),
        )
        try:
            generated = await exchange.here.engine.generate(request)
        except Refused as refused:
            events.refused(exchange, refused)
            return None
        events.generated(generated)
        text = texts.tidy(generated.text, cut=generated.finish == "length")
        if not texts.degenerate(text):
            return text
        events.degenerate(exchange, generated, attempt)
    return None


def _lines(exchange: Exchange, within: list[Arrival]) -> list[Line]:
    arrived = {arrival.inbound.message_id for arrival in exchange.arrived}
    before = [said for said in exchange.past.conversation.messages if said.message_id not in arrived]
    # What staff said meanwhile goes before the person's words, which the model is to answer.
    before += [heard(arrival) for arrival in exchange.arrived if not arrival.from_person]
    return prompt.compose(exchange.here.system_prompt, before, "\n".join(arrival.words for arrival in within))


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
