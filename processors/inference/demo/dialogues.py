"""
Conversations between a person and the clinic's assistant, made from a seed.

One side draws what the person does next and words it (grammar, slots, noise); the other answers by clinic.py's rules.
Knows no token and no model.  No reply says that a cita has been booked, moved or cancelled: that is for n8n to say,
once it has done it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from processors.inference.demo.clinic import Clinic
from processors.inference.demo.grammar import expand, phrase, phrases
from processors.inference.demo.noise import Hand
from processors.inference.demo.slots import draw

_SLOT = re.compile(r"\{(\w+)\}")
_MEANWHILE_SHARE = 0.2
_NOT_GREETED = ("saludo.", "charla.", "contesta.", "cambio.", "adjunto.")
_FACTS = ("horario", "precio", "direccion", "especialidades", "recepcion")


@dataclass(frozen=True)
class Turn:
    """What a person wrote, what is answered, and what it was about."""

    user: str
    reply: str
    about: str


@dataclass(frozen=True)
class Move:
    """What a person does: how it is written, the slots that it fills, and a question asked in the same breath."""

    about: str
    said: str
    values: dict[str, str]
    also: str | None = None


def dialogues(seed: int, count: int) -> Iterator[list[Turn]]:
    """Conversations; the same ones for the same seed, each independent of how many are drawn."""
    for number in range(count):
        yield conversation(Random(f"{seed}/{number}"))


def conversation(rng: Random) -> list[Turn]:
    person, clinic = _Person(rng), Clinic()
    turns: list[Turn] = []
    # A few are as long as the model's context, so that it has seen its last positions too.
    long = rng.random() < 0.04
    for _ in range(rng.randint(12, 26) if long else rng.choice([1, 1, 2, 3, 4, 5, 5, 6, 6, 7, 8, 9])):
        move = person.next(clinic, first=not turns)
        turns.append(Turn(move.said, clinic.answer(move.about, move.said, move.values, move.also), move.about))
        if move.about == "charla.adios" and not long and rng.random() < 0.8:
            break
    return turns


def fingerprint(seed: int) -> str:
    """What the first conversations of a seed come to: tells whether a model was trained on the phrases as they are."""
    digest = hashlib.sha256()
    for talk in dialogues(seed, 300):
        digest.update("\n".join(f"{turn.user}\n{turn.reply}" for turn in talk).encode())
    return digest.hexdigest()[:16]


@cache
def habits() -> dict[str, Any]:
    with Path(__file__).with_name("habits.toml").open("rb") as file:
        return tomllib.load(file)


class _Person:
    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._hand = Hand(rng)

    def next(self, clinic: Clinic, *, first: bool) -> Move:
        about = self._choose(clinic)
        text, values = self._fill(phrase(about, self._rng))
        said = self._hand.write(text, values)
        also = None
        if about.startswith(("pregunta.horario", "pregunta.precio", "pregunta.direccion", "agendar.")):
            said, also = self._asking_two(said, about)
        greets = 0.5 if first else 0.04
        if not about.startswith(_NOT_GREETED) and not clinic.asked and self._rng.random() < greets:
            hello = self._hand.write(expand("<hola>", self._rng), {})
            said = hello + self._rng.choice([", ", " ", "\n", "\n", ". ", " 👋 ", "! "]) + said
        said = self._contracted(self._burst(said, about))
        if not about.startswith("adjunto.") and self._rng.random() < 0.015:
            said = self._rng.choice([f"[imagen: {said}]", f"{said}\n[audio]", f"[audio]\n{said}", f"[imagen]\n{said}"])
        return Move(about, said, values, also)

    def _choose(self, clinic: Clinic) -> str:
        offered = clinic.asked in ("general", "cita", "humano")
        if offered and (clinic.asked == "general" or self._rng.random() < 0.6):
            return self._weighted(habits()["answers"][clinic.asked])
        if clinic.asked and not offered:
            if self._rng.random() > _MEANWHILE_SHARE:
                return self._weighted(habits()["answers"][clinic.asked])
            about = self._weighted(habits()["meanwhile"])
            if about == "pregunta.agenda" and clinic.asked not in ("cuando", "fecha", "hora"):
                about = "charla.sigues"
        else:
            about = self._weighted(habits()["after" if clinic.noted else "free"])
        if about == "cambio":
            known = [slot for slot in clinic.slots if slot in phrases()["cambio"]]
            about = f"cambio.{self._rng.choice(known)}" if known else "charla.sigues"
        return about

    def _asking_two(self, said: str, about: str) -> tuple[str, str | None]:
        """Now and then a second question stands before the first thing."""
        if self._rng.random() > 0.06:
            return said, None
        also = self._rng.choice([fact for fact in _FACTS if fact not in about])
        text, values = self._fill(phrase(f"pregunta.{also}", self._rng))
        return self._hand.write(text, values) + self._rng.choice(["\n", "\n", " y ", ". ", ", "]) + said, also

    def _fill(self, text: str) -> tuple[str, dict[str, str]]:
        """Each slot's filling; of two slots of one name the second is filled at once and forgotten."""
        values: dict[str, str] = {}

        def fill(found: re.Match[str]) -> str:
            slot = found[1]
            value = self._hand.value(draw(slot, self._rng), slot)
            if slot in values:
                return value
            values[slot] = value
            return found[0]

        return _SLOT.sub(fill, text), values

    def _burst(self, said: str, about: str) -> str:
        """Some people press send at every comma; some thank before they ask."""
        if about.startswith(("pregunta.", "agendar.")) and self._rng.random() < 0.03:
            said = self._hand.write(phrase("charla.gracias", self._rng), {}) + "\n" + said
        if self._rng.random() < 0.12:
            said = re.sub(r"[,.] (?=\w)", "\n", said)
        return said

    @staticmethod
    def _contracted(said: str) -> str:
        said = re.sub(r"\b([dD])e el ", r"\1el ", said)
        return re.sub(r"\b([aA]) el ", r"\1l ", said)

    def _weighted(self, chances: Mapping[str, float]) -> str:
        return self._rng.choices(list(chances), weights=list(chances.values()))[0]
