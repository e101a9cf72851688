"""
What the log and the metrics say of a reply: the events that the original architecture lists, and what went wrong.

Ids and numbers only, never what anybody wrote.  streams/log.py knows which of them are each message's.
"""

from __future__ import annotations

from processors.inference import tools
from processors.inference.generation import Generated, Refused
from processors.inference.limits import Verdict
from processors.inference.replies import Exchange
from streams import log as logs
from streams import metrics
from streams.connection import order
from streams.counted import Count, Times
from streams.effects import Effects

log = logs.get("inference")

_SECONDS = Times(metrics.GENERATION_SECONDS)
_READ, _RECALLED, _WRITTEN = (Count(metrics.GENERATION_TOKENS.labels(of)) for of in ("prompt", "recalled", "reply"))


def recalled(exchange: Exchange) -> None:
    past = exchange.past
    name = past.conversation.conversation_id
    if past.corrupt:
        log.warning("conversation.corrupt", user_id=exchange.turn.key, why="no conversation JSON; begun anew")
    if past.new:
        log.info("conversation.created", conversation_id=name, user_id=exchange.turn.key)
    else:
        log.info("conversation.recalled", conversation_id=name, user_id=exchange.turn.key)


def saved(exchange: Exchange, effects: Effects) -> Effects:
    """Handed on unchanged: they are saved when the runtime commits them."""
    user, ttl = exchange.turn.key, exchange.here.settings.session_expire_time
    log.info("conversation.saved", user_id=user, messages=exchange.past.saved, ttl_s=ttl)
    if not exchange.past.new:
        log.info("conversation.ttl_extended", user_id=user, ttl_s=ttl)
    return effects


def limited(exchange: Exchange, verdict: Verdict) -> None:
    limit = exchange.here.settings.rate_limit_per_minute
    if verdict.over:
        log.warning("rate_limit.exceeded", user_id=exchange.turn.key, count=verdict.count, limit=limit)
        first = min((arrival.entry for arrival in verdict.over), key=order)
        exchange.turn.note("rate_limited", since=first, count=verdict.count, limit=limit)
    elif limit and verdict.count:  # without a limit there is nothing to keep
        log.info("rate_limit.ok", user_id=exchange.turn.key, count=verdict.count, limit=limit)


def cached(exchange: Exchange) -> None:
    exchange.turn.note("cached")


def guessed(exchange: Exchange, action: str) -> None:
    exchange.turn.note("guessed", action=action)


def generated(exchange: Exchange, result: Generated) -> None:
    _SECONDS.observe(result.ms / 1000)
    _READ.inc(result.prompt_tokens)
    _RECALLED.inc(result.recalled_tokens)
    _WRITTEN.inc(result.tokens)
    told: dict[str, object] = {"model": exchange.here.settings.model, "tokens": result.tokens, "ms": int(result.ms)}
    if result.prompt_tokens:
        told |= {"prompt_tokens": result.prompt_tokens, "recalled_tokens": result.recalled_tokens}
    if result.finish != "stop":
        told["finish"] = result.finish
    exchange.turn.note("generated", **told)


def refused(exchange: Exchange, why: Refused) -> None:
    log.warning("generation.refused", turn=exchange.turn.id, user_id=exchange.turn.key, why=str(why))
    exchange.turn.note("refused", why=str(why))


def degenerate(exchange: Exchange, generated: Generated, attempt: int) -> None:
    log.warning("generation.degenerate", turn=exchange.turn.id, tokens=generated.tokens, attempt=attempt)
    exchange.turn.note("degenerate", tokens=generated.tokens)


def called(exchange: Exchange, verdicts: list[tools.Verdict]) -> None:
    """What became of a model's calls."""
    for verdict in verdicts:
        metrics.TOOL_CALLS.labels(verdict.outcome).inc()
        exchange.turn.note("called", action=verdict.action, outcome=verdict.outcome)
        told = {"turn": exchange.turn.id, "user_id": exchange.turn.key, "action": verdict.action}
        if verdict.outcome == "taken":
            log.info("call.taken", **told)
        elif verdict.outcome == "refused":
            log.warning("call.refused", **told, why=verdict.why)
