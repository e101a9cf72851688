"""
The story of a reply: what was said before, may they ask, what is answered, what is remembered.

A turn in, effects out.  What an engine is stands in generation.py, what the effects look like in replies.py.
"""

from __future__ import annotations

from processors.inference import arrivals, events, history, limits
from processors.inference.answering import Said, give_up, respond, say
from processors.inference.limits import Verdict
from processors.inference.replies import HANDOFF, Exchange, Spoken, answer, paused, resume, spoken
from processors.inference.resources import Resources, opened
from processors.inference.retelling import retell
from streams.effects import Answer, Effects, Turn, handler


def apologise(turn: Turn, _why: str) -> Effects | None:
    """Beside the burial of a turn: the person is told, once, that no reply could be made."""
    here = turn.resources or Resources()
    exchange = Exchange(turn=turn, here=here, past=history.recall(turn), arrived=arrivals.read(turn, legible_only=True))
    if not exchange.person:
        return None
    if exchange.paused:
        return paused(exchange)
    said = give_up(exchange)
    return spoken(exchange, said.spoken, answer(exchange, "failed", said.spoken), handoff=said.action == HANDOFF)


@handler(
    recall=("conversation", "conversation_meta", "paused"),
    metering=limits.METER,
    lifespan=opened,
    buried=apologise,
    retell=retell,
)
async def reply(turn: Turn) -> Effects | None:
    """
    Answer all that a person has written, together, once.

    Raises:
        Malformed: an entry is not one of ours.
        StepFailed, Retry: the engine could not.
    """
    here: Resources = turn.resources
    exchange = Exchange(
        turn=turn, here=here, past=history.recall(turn), arrived=arrivals.read(turn), rules=here.rules()
    )
    if not exchange.arrived:
        return None  # a reaction, or what WhatsApp could not pass on
    await resume(exchange)
    events.recalled(exchange)
    if exchange.paused:
        turn.note("paused")
        return events.saved(exchange, paused(exchange))

    verdict = limits.judge(exchange.arrived, here.settings.rate_limit_per_minute)
    events.limited(exchange, verdict)
    said = await respond(exchange, verdict.within) if verdict.within else Said()
    notice = say(here.texts.rate_limited, "notice", verdict.over) if verdict.told_now else []
    effects = spoken(
        exchange,
        said.spoken + notice,
        _answer(exchange, verdict, said, notice),
        handoff=said.action == HANDOFF,
    )
    return events.saved(exchange, effects)


def _answer(exchange: Exchange, verdict: Verdict, said: Said, notice: list[Spoken]) -> Answer | None:
    if verdict.within:
        return answer(exchange, "failed" if said.failed else "replied", said.spoken)
    if not verdict.over:
        return None  # only staff has spoken
    return answer(
        exchange,
        "rate_limited",
        notice,
        detail=exchange.here.texts.too_many,
        retry_after=max(1, -(-exchange.turn.meter_ms // 1000)),
    )
