"""
Actions as tools of a model: how they are offered to it, and which of its calls count.

A call is a guess in the shape of an action, so it is held against what streams.toml says: its name, its slots, the kind
of each.  What the person's own words ask for, by a pattern, is the operator's rule and goes before it.  Pure; that
nothing of what was written is logged is why a refusal speaks in fixed words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple

from processors.inference import slots
from processors.inference.actions import Detected
from processors.inference.generation import Call, Tool
from processors.inference.slots import Heard
from processors.inference.spanish_dates import fold
from streams.tables import Action, Slot

MOST_VALUE = 1000
"""Characters of one slot."""

_STAMP = re.compile(r"\b(\d{4}-\d{2}-\d{2})t(?=\d)")
"""`2025-10-07T15:00` as models have it and people do not."""

_LEAST_ECHO = 8
"""Characters of a call that are no coincidence where the person wrote the same."""

_HINTS = {
    "text": "Como lo dijo la persona.",
    "date": "El día, con las palabras de la persona: «el martes», «15 de octubre».",
    "time": "La hora, con las palabras de la persona: «a las 3 de la tarde», «15:30».",
    "number": "Un número.",
    "values": "Uno de estos, u otro como lo dijo la persona: {values}.",
}
"""What a model is told of a slot that has no description, in the language of the prompt that ships."""


class Verdict(NamedTuple):
    """What becomes of one call."""

    outcome: Literal["taken", "overruled", "refused"]
    action: str | None = None
    """None where it is none of ours."""
    why: str = ""


class _Unfit(Exception):
    """Its argument says why, in fixed words."""


class Tools:
    """The actions that have a description."""

    def __init__(self, actions: Iterable[Action]) -> None:
        self._actions = {action.name: action for action in actions if action.description}
        self._values = {
            (action.name, name): slots.synonyms(slot)
            for action in self._actions.values()
            for name, slot in action.slots.items()
            if slot.kind == "values"
        }
        self.offered = tuple(_tool(action) for action in self._actions.values())

    def reply(self, name: str) -> str:
        """What is said where the model called this action and said nothing."""
        return self._actions[name].reply if name in self._actions else ""

    def choose(
        self, calls: Sequence[Call], asked: Detected | None, said: Heard, before: str = ""
    ) -> tuple[Detected | None, list[Verdict]]:
        """
        The action of a turn, and what became of each call.

        Args:
            asked: what the person's words ask for; it stays, and a call of the same action fills slots that they left.
                Where that is but guessed, a model that calls another knows better.
            said: the person's messages of this turn, one at least.
            before: what the person wrote in former turns, as far as the model has read it.
        """
        fit, verdicts = list[tuple[int, Detected]](), list[Verdict]()
        written = _bare(before + said.text)
        for place, call in enumerate(calls):
            try:
                detected = self._judged(call, said, written)
            except _Unfit as why:
                verdicts.append(Verdict("refused", call.name if call.name in self._actions else None, str(why)))
            else:
                fit.append((place, detected))
                verdicts.append(Verdict("overruled", detected.name))
        if asked is not None and not asked.guessed:
            fit = [(place, each) for place, each in fit if each.name == asked.name][:1]
        if not fit:
            return asked, verdicts
        # As with patterns: of several the first of the file.
        order = list(self._actions)
        place, chosen = min(fit, key=lambda one: order.index(one[1].name))
        verdicts[place] = Verdict("taken", chosen.name)
        own = asked.slots if asked is not None and asked.name == chosen.name else {}
        return Detected(chosen.name, chosen.slots | own), verdicts

    def _judged(self, call: Call, said: Heard, written: str) -> Detected:
        if call.flaw:
            raise _Unfit(call.flaw)
        if (action := self._actions.get(call.name)) is None:
            raise _Unfit("there is no such action")
        # A model that only repeats what the person wrote to have it say so.
        if len(raw := _bare(call.raw)) >= _LEAST_ECHO and raw in written:
            raise _Unfit("the person wrote it")
        if not call.arguments.keys() <= action.slots.keys():
            raise _Unfit("the action has no such slot")
        filled: dict[str, Any] = {}
        for name, slot in action.slots.items():
            values = self._values.get((action.name, name), [])
            value = _filled(slot, call.arguments.get(name), values, said)
            if value is None:
                value = slots.found(slot, values, said.lines)
            if value is not None:
                filled[name] = value
        return Detected(action.name, filled)


def _tool(action: Action) -> Tool:
    properties = {name: _property(slot) for name, slot in action.slots.items()}
    return Tool(
        name=action.name,
        description=action.description,
        parameters={"type": "object", "properties": properties},
    )


def _property(slot: Slot) -> dict[str, Any]:
    # No `enum`: a server that holds a model to it would have it name the wrong one where none is right.
    told = (slot.description or _HINTS[slot.kind]).replace("{values}", ", ".join(slot.values))
    return {"type": "number" if slot.kind == "number" else "string", "description": told}


def _bare(text: str) -> str:
    return "".join(text.split())


def _filled(slot: Slot, given: Any, values: slots.Synonyms, said: Heard) -> Any:
    """An argument as the slot's value; None where there is none.  Raises _Unfit."""
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, (str, int, float)):
        raise _Unfit("a slot has the wrong type")
    if not isinstance(given, str) and (given := slots.exact(given)) is None:
        raise _Unfit("a slot has the wrong type")
    text = _text(given)
    if len(text) > MOST_VALUE:
        raise _Unfit("a slot is too long")
    if not text or slot.kind == "text":
        return text or None
    plain = _STAMP.sub(r"\1 ", fold(text))
    value = slots.read(slot, plain, values, _said_at(plain, said))
    if value is None and slot.kind == "number":
        raise _Unfit("a slot has the wrong type")
    return text if value is None else value


def _text(given: str | int | float) -> str:
    """What can be sent on: half of a surrogate cannot."""
    return str(given).encode("utf-8", "ignore").decode().replace("\x00", "").strip()


def _said_at(plain: str, said: Heard) -> datetime:
    """The moment of the message that has these words, else of the newest."""
    return next((line.said_at for line in said.lines if plain in line.folded), said.lines[-1].said_at)
