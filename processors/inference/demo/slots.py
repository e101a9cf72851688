"""
What fills a slot: specialities, days, hours, names, half of them invented.

An invented word cannot be learnt by heart, only copied; that is how the model learns to say back a name that it has
never seen.  Knows no phrase and no dialogue.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

_INVENTED = 0.55


@cache
def words() -> dict[str, Any]:
    with Path(__file__).with_name("words.toml").open("rb") as file:
        return tomllib.load(file)


def draw(slot: str, rng: Random) -> str:
    """One filling of a slot, written as its writer would write it with care."""
    return _DRAWN[slot](rng)


def invented(rng: Random, least: int = 2, most: int = 4) -> str:
    """A word of no language, in small letters."""
    parts = words()["silabas"]
    closed = rng.choice([0.1, 0.3, 0.6])

    def syllable() -> str:
        end = rng.choice(parts["final"]) if rng.random() < closed else ""
        return f"{rng.choice(parts['inicio'])}{rng.choice(parts['centro'])}{end}"

    return "".join(syllable() for _ in range(rng.randint(least, most)))


def _speciality(rng: Random) -> str:
    shape = rng.random()
    if shape > _INVENTED:
        return str(rng.choice(words()["especialidades"]))
    if shape < 0.07:
        return f"{rng.choice(words()['titulos'])} {_surname(rng)}"
    if shape < 0.14:
        return f"{rng.choice(words()['campos'])} {invented(rng)}"
    branch = f"{invented(rng, 1, 3)}{rng.choice(words()['ramas'])}"
    if shape < 0.18:
        return f"{branch} {rng.choice(['infantil', 'general', 'pediátrica', 'clínica'])}"
    return f"{rng.choice(['', '', '', 'el ', 'la '])}{branch}" if shape < 0.42 else invented(rng, 2, 4)


def _day(rng: Random) -> str:
    days, months = words()["dias"], words()["meses"]
    day, number, month = rng.choice(days), rng.randint(1, 31), rng.choice(months)
    shapes = [
        day, day, f"el {day}", f"el {day}", f"este {day}", f"el próximo {day}", f"el {day} que viene",
        f"el {number} de {month}", f"{number} de {month}", f"el {day} {number}", f"{day} {number}", f"el {number}",
        f"el {day} {number} de {month}", f"{number}/{rng.randint(1, 12)}", f"el día {number}",
        f"{day} o {rng.choice(days)}", f"el {day} o el {rng.choice(days)}",
    ]  # fmt: skip
    return str(rng.choice(shapes) if rng.random() < 0.83 else rng.choice(words()["fechas"]))


def _hour(rng: Random) -> str:
    hour, clock = rng.randint(1, 12), rng.randint(7, 20)
    minute = rng.choice(["00", "15", "30", "45", f"{rng.randint(0, 59):02}"])
    late, half = rng.choice(words()["partes"]), rng.choice(["am", "pm", " am", " pm", "h", " hs"])
    spoken = rng.choice(words()["horas_dichas"])
    shapes = [
        f"a las {hour}", f"a las {hour}", f"a las {hour} {late}", f"a las {hour} {late}", f"{hour} {late}",
        f"{clock}:{minute}", f"{clock}:{minute}", f"a las {clock}:{minute}", f"{hour}{half}",
        f"{hour}:{minute} {half.strip()}", f"tipo {hour}", f"después de las {hour}", f"antes de las {hour}",
        f"a partir de las {hour}", f"a eso de las {hour}", f"entre las {hour} y las {hour + 1}", f"a las {spoken}",
        f"a las {spoken} {late}", f"tipo {spoken}", f"{spoken} {late}",
    ]  # fmt: skip
    return str(rng.choice(shapes) if rng.random() < 0.84 else rng.choice(words()["horas"]))


def _given(rng: Random) -> str:
    return str(rng.choice(words()["nombres"])) if rng.random() > _INVENTED else invented(rng, 2, 3).capitalize()


def _surname(rng: Random) -> str:
    return str(rng.choice(words()["apellidos"])) if rng.random() > _INVENTED else invented(rng, 2, 3).capitalize()


def _name(rng: Random) -> str:
    surnames = rng.choice([0, 0, 1, 1, 1, 1, 2])
    givens = 2 if rng.random() < 0.15 else 1
    return " ".join([*(_given(rng) for _ in range(givens)), *(_surname(rng) for _ in range(surnames))])


def _gibberish(rng: Random) -> str:
    return "".join(rng.choice("asdfghjklqwertyuiopzxcvbnm") for _ in range(rng.randint(2, 12)))


_DRAWN: dict[str, Callable[[Random], str]] = {
    "esp": _speciality,
    "fecha": _day,
    "otra": lambda rng: f"el {rng.choice(words()['dias'])}",
    "hora": _hour,
    "nombre": _name,
    "doctor": _surname,
    "pseudo": invented,
    "galimatias": _gibberish,
    "numero": lambda rng: str(rng.randint(1, 300)),
}
