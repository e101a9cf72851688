"""What is measured of one system in one round: a dictionary of figures, by row."""

from __future__ import annotations

import asyncio

from bench import commands
from bench.commands import Asked
from bench.stage import Stage, now, quantile, staged
from bench.systems import System

Figures = dict[str, float]

MESSAGES, USERS = 20_000, 1_000
RATE, SECONDS = 200, 15
IDLE_SECONDS = 10
ORDER_USERS, ORDER_EACH = 200, 10


async def path(system: System, messages: int = MESSAGES) -> Figures:
    """Accepted, drained, live, and the latency at a steady rate, on one stage."""
    found: Figures = {}
    asked = Asked(1) if system.answers else await commands.watched(system)
    async with staged(system) as stage:
        await stage.say(2_000 if system.answers else 64, USERS)  # nobody is measured while it warms up
        before = stage.ground.memory()
        sent = await stage.say(messages, USERS)
        latencies = sent.latencies()
        found |= {
            "accepted/s": sent.rate,
            "accept p50 ms": quantile(latencies, 0.5) * 1e3,
            "accept p99 ms": quantile(latencies, 0.99) * 1e3,
        }
        if system.answers:
            return found | {"live replies/s": sent.rate, **await steady(stage)}
        found["backlog bytes/message"] = (stage.ground.memory() - before) / messages
        found |= await _drained(stage, stage.sent, before, asked)
        found |= await _live(stage, messages)
        found |= await steady(stage)
        found |= await _idle(stage)
    return found


async def _drained(stage: Stage, backlog: int, before: int, asked: Asked) -> Figures:
    """From the first reply to the last of what lies there when the workers start."""
    redis = stage.ground.servers[0]
    redis.ask("CONFIG", "RESETSTAT")
    stage.start(*stage.system.workers)
    await stage.arrived(1)
    cpu, began = await stage.cpu(), now()
    await stage.arrived(backlog)
    seconds = now() - began
    stats = redis.told("commandstats")
    spent = {name: used - cpu.get(name, 0.0) for name, used in (await stage.cpu()).items()}
    arrived = len(await stage.arrivals())
    per = 1_000 / max(1, arrived)
    return {
        "drained replies/s": arrived / seconds,
        "drain CPU s/1,000": sum(spent.values()) * per,
        **{f"  {name}": used * per for name, used in spent.items() if name != "ingress"},
        "Redis calls/message": asked.calls,
        "Redis us/message in them": commands.microseconds(stats, asked) / max(1, arrived),
        "settled bytes/message": (stage.ground.memory() - before) / backlog,
    }


async def _live(stage: Stage, messages: int) -> Figures:
    sent = await stage.say(messages, USERS)
    await stage.arrived(stage.sent)
    arrivals = await stage.arrivals()
    last = max(arrivals[number] for number, _, _ in sent.rows if number in arrivals)
    return {"live replies/s": len(sent.rows) / (last - sent.began)}


async def _idle(stage: Stage) -> Figures:
    """What all processes use of one core, Redis included, while nobody says anything."""
    await asyncio.sleep(1)
    before, began = await stage.cpu(), now()
    await asyncio.sleep(IDLE_SECONDS)
    spent = sum((await stage.cpu()).values()) - sum(before.values())
    return {"idle, % of a core": 100 * spent / (now() - began)}


async def steady(stage: Stage, seconds: int = SECONDS) -> Figures:
    """From when a message is due until its reply is delivered, or answered, at a steady rate."""
    sent = await stage.say(RATE * seconds, ORDER_USERS, rate=RATE)
    if stage.system.answers:
        latencies = sent.latencies()
    else:
        await stage.arrived(stage.sent)
        latencies = sent.latencies(await stage.arrivals())
    return {
        f"p50 ms at {RATE}/s": quantile(latencies, 0.5) * 1e3,
        f"p99 ms at {RATE}/s": quantile(latencies, 0.99) * 1e3,
    }


async def promises(system: System, latency: float) -> Figures:
    """What becomes of ten messages that each of 200 people says in a row; with a model that takes its time."""
    if system.answers:
        return {}
    async with staged(system, latency=latency) as stage:
        stage.start(*stage.system.workers)
        await stage.say(ORDER_USERS * ORDER_EACH, ORDER_USERS, in_a_row=ORDER_EACH)
        await stage.arrived(stage.sent)
        arrived = await stage.order()
        found: Figures = {
            "users in order": in_order(arrived, ORDER_USERS),
            "turns kept": stage.turns_kept(),
            "missing": ORDER_USERS * ORDER_EACH - len(set(arrived)),
            "twice": len(arrived) - len(set(arrived)),
        }
        if latency:
            found |= await steady(stage)
    return {f"{latency * 1e3:.0f} ms model: {name}": value for name, value in found.items()}


def kept_order(figures: Figures) -> bool:
    """Everybody was answered in the order in which they spoke, where the model takes no time."""
    return figures.get("0 ms model: users in order") == ORDER_USERS and "drained replies/s" in figures


def in_order(arrived: list[int], users: int) -> int:
    """Of how many people the replies came in the order in which they spoke."""
    newest: dict[int, int] = {}
    wrong = set()
    for number in arrived:
        user = number // ORDER_EACH % users
        if newest.get(user, -1) > number:
            wrong.add(user)
        newest[user] = number
    return users - len(wrong)
