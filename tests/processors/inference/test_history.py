"""What of a long conversation the model gets to read: each prompt begins, where it can, as the last one did."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from processors.inference.generation import Generated, Line, Request
from processors.inference.handler import reply
from processors.inference.prompt import fit
from processors.inference.resources import Resources
from streams import wire
from streams.effects import Message, Turn
from streams.topology import Topology
from streams.wire import Inbound

ANA = "+59112345678"
NOON_MS = 1_759_658_400_000


@dataclass
class Listening:
    """An engine that keeps what it was asked."""

    asked: list[list[Line]] = field(default_factory=list)

    async def generate(self, request: Request) -> Generated:
        self.asked.append(list(request.lines))
        return Generated(text=f"Anotado, {len(self.asked)}", tokens=2)

    def describe(self) -> dict[str, Any]:
        return {}


def conversation(turns: int, max_messages: int) -> list[list[Line]]:
    """The prompts of a conversation of so many turns, a message each."""
    topology, engine = Topology(streams={}, groups={}), Listening()
    topology.history.max_messages = max_messages
    here, state = Resources(engine=engine, topology=topology), dict[str, bytes | None]()
    for number in range(turns):
        body = Inbound(user_id=ANA, message_id=f"m{number}", text=f"mensaje {number}")
        message = Message(id=f"{NOON_MS + number}-0", type="text", body=wire.encode(body))
        recalled = dict.fromkeys(("conversation", "conversation_meta", "paused")) | state
        turn = Turn(
            group="inference", key=ANA, messages=[message], state=recalled, resources=here, now_ms=NOON_MS + number
        )
        effects = asyncio.run(reply.handle(turn))
        assert effects is not None
        state = {write.kind: write.value for write in effects.writes}
    return engine.asked


def goes_on(earlier: Sequence[object], later: Sequence[object]) -> bool:
    return list(later[: len(earlier)]) == list(earlier)


def words(lines: Sequence[Line]) -> list[str]:
    """An encoder for which a word is a token, and every line costs one more."""
    return [word for line in lines for word in [line.role, *line.content.split()]]


def test_a_full_conversation_begins_as_before_until_a_quarter_of_it_has_gone() -> None:
    prompts = conversation(turns=60, max_messages=24)
    begun_anew = [not goes_on(earlier, later) for earlier, later in itertools.pairwise(prompts)]
    # It is full after twelve turns; a quarter is three of them.
    assert begun_anew == [number >= 12 and number % 3 == 0 for number in range(59)]
    # What the person says now is last; before it stand no less than three quarters.
    assert {len(prompt) - 1 for prompt in prompts[12:]} == {20, 22, 24}


@pytest.mark.parametrize("max_messages", [1, 2, 3, 5])
def test_of_a_short_memory_nothing_but_what_has_gone_is_missing(max_messages: int) -> None:
    prompts = conversation(turns=9, max_messages=max_messages)
    assert {len(prompt) - 1 for prompt in prompts[5:]} == {max_messages}


def test_a_prompt_over_the_context_begins_as_before_until_a_quarter_of_that_has_gone() -> None:
    lines, prompts = [Line("system", "reglas")], list[list[str]]()
    for number in range(100):
        lines.append(Line("user", f"pregunta {number} " + "x " * (number % 5)))
        prompts.append(fit(lines, words, 200))
        lines.append(Line("assistant", f"respuesta {number}"))
    full = [number for number, prompt in enumerate(prompts) if prompt[2:5] != ["user", "pregunta", "0"]]
    begun_anew = [number for number in full if not goes_on(prompts[number - 1], prompts[number])]
    # 8 tokens for a turn on average: a quarter of the context holds six of them.
    assert len(begun_anew) == pytest.approx(len(full) / 6, abs=1)
    assert all(200 * 3 // 4 - 12 <= len(prompts[number]) <= 200 for number in full)


def test_where_only_the_newest_turn_leaves_a_quarter_free_no_more_goes_than_has_to() -> None:
    lines = [Line("user", "a " * 30), Line("assistant", "b"), Line("user", "c " * 10), Line("user", "d " * 85)]
    assert fit(lines, words, 100) == words(lines[2:])
