"""The `[[actions]]` that ship with Cauce, on what people write to a clinic."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from processors.inference.actions import Detected, Detector, Words
from processors.inference.generation import Call
from processors.inference.slots import Heard
from processors.inference.tools import Tools
from streams import topology

FILE = topology.load(Path(__file__).parents[3] / "streams.toml")
SHIPPED = Detector.of(FILE.actions, FILE.vocabulary)
SUNDAY = datetime(2025, 10, 5, 10, 0, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("words", "name", "slots"),
    [
        ("Hola, necesito una cita", "book", {}),
        ("Cardiología", "book", {"speciality": "cardiología"}),
        ("quiero una cita con el cardiologo el martes a las 3 de la tarde", "book",
         {"speciality": "cardiología", "date": "2025-10-07", "time": "15:00"}),
        ("una cita para podología mañana", "book", {"speciality": "podología", "date": "2025-10-06"}),
        ("Quisiera reservar una hora con el dentista", "book", {"speciality": "odontología"}),
        ("necesito ver a un médico", "book", {}),
        ("turno para pediatría el 15 de octubre", "book", {"speciality": "pediatría", "date": "2025-10-15"}),
        ("quiero cancelar mi cita del martes", "cancel", {"date": "2025-10-07"}),
        ("no voy a poder ir mañana", "cancel", {"date": "2025-10-06"}),
        ("anule mi turno por favor", "cancel", {}),
        ("puedo cambiar mi turno para el 15 de octubre a las 10", "move", {"date": "2025-10-15", "time": "10:00"}),
        ("quiero reprogramar la cita", "move", {}),
        ("¿cuánto cuesta la consulta de pediatría?", "prices", {"speciality": "pediatría"}),
        ("precios por favor", "prices", {}),
        ("¿A qué hora abren los sábados?", "hours", {}),
        ("¿Atienden los domingos?", "hours", {}),
        ("cuál es el horario", "hours", {}),
        ("quiero hablar con una persona", "handoff", {}),
        ("pásame con un asesor por favor", "handoff", {}),
        ("¿me puede atender un humano?", "handoff", {}),
    ],
)  # fmt: skip
def test_what_people_ask_for_is_found(words: str, name: str, slots: dict[str, Any]) -> None:
    found = SHIPPED.detect([Words(words, SUNDAY)], zone=UTC)
    assert found is not None
    assert (found.name, found.slots) == (name, slots)


@pytest.mark.parametrize(
    "words", ["Hola", "gracias", "ok", "sí, a las 3", "me duele la cabeza", "soy Ana", "👍", "buenos días"]
)
def test_small_talk_asks_for_nothing(words: str) -> None:
    assert SHIPPED.detect([Words(words, SUNDAY)], zone=UTC) is None


PAGE = (Path(__file__).parents[3] / "docs" / "actions.md").read_text(encoding="utf-8")


def test_what_the_page_says_is_found_is_found() -> None:
    table = re.findall(r"^\| (.+?) \| `(\w+)` \| ?(.*?) ?\|$", PAGE, re.MULTILINE)
    assert len(table) >= 8
    for words, name, told in table:
        found = SHIPPED.detect([Words(words, SUNDAY)], zone=UTC)
        assert found is not None, words
        slots = dict(re.findall(r"`(\w+)` ([^,]+)", told))
        assert (found.name, found.slots) == (name, slots), words


def test_the_pages_own_action_works() -> None:
    written, *_ = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    own = Detector.of(topology.parse(tomllib.loads(written)).actions)
    found = own.detect([Words("¿Ya están mis análisis de sangre del martes?", SUNDAY)], zone=UTC)
    assert found is not None
    assert (found.name, found.slots) == ("results", {"date": "2025-10-07", "kind": "sangre"})
    (node,) = json.loads(re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)[0])["nodes"]
    assert node["parameters"]["rules"]["values"][0]["conditions"]["conditions"][0]["rightValue"] == "book"


def test_the_pages_own_words_work() -> None:
    _, written, *_ = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    file = topology.parse(tomllib.loads(written))
    own = Detector.of(file.actions, file.vocabulary)
    assert own.detect([Words("¿Ya están mis análisis del lunes?", SUNDAY)], zone=UTC) == Detected("results")
    assert own.detect([Words("No quiero ver mis resultados", SUNDAY)], zone=UTC) is None


def test_a_pattern_that_ships_can_be_read_at_a_glance() -> None:
    patterns = [pattern for action in FILE.actions for pattern in action.patterns]
    assert [pattern for pattern in patterns if len(pattern) > 160] == []
    # And no word stands in the vocabulary for nothing
    assert set(re.findall(r"\{([a-z_]{2,})\}", "\n".join([*patterns, *FILE.vocabulary.values()]))) == set(
        FILE.vocabulary
    )


def test_the_pages_action_for_the_model_works() -> None:
    *_, written = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (action,) = topology.parse(tomllib.loads(written) | {"streams": {}, "groups": {}}).actions
    tools, said = Tools([action]), Heard.of([Words("¿Ya salió lo mío?", SUNDAY)], UTC)
    assert tools.offered[0].parameters["properties"]["kind"]["description"] == "El examen: sangre, orina."
    call = Call(name="results", arguments={"kind": "el hemograma", "taken": "ayer"})
    assert tools.choose([call], None, said)[0] == Detected("results", {"kind": "sangre", "taken": "2025-10-04"})
    assert tools.reply("results")


def test_no_action_that_ships_is_the_models_to_call() -> None:
    assert Tools(topology.load(Path(__file__).parents[3] / "streams.toml").actions).offered == ()


@pytest.mark.parametrize(
    ("words", "day", "clock"),
    [
        ("una cita hoy", "2025-10-05", None), ("una cita pasado mañana", "2025-10-07", None),
        ("una cita el próximo martes", "2025-10-07", None), ("una cita el 15", "2025-10-15", None),
        ("una cita el 7/10", "2025-10-07", None), ("una cita en dos semanas", "2025-10-19", None),
        ("una cita dentro de 3 días", "2025-10-08", None), ("una cita a las 3", None, "15:00"),
        ("una cita a las 3 de la mañana", None, "03:00"), ("una cita a las 15:30", None, "15:30"),
        ("una cita a las 3 y media", None, "15:30"), ("una cita al mediodía", None, "12:00"),
        ("una cita la próxima semana", None, None),
    ],
)  # fmt: skip
def test_days_and_times_are_read_as_the_page_says(words: str, day: str | None, clock: str | None) -> None:
    found = SHIPPED.detect([Words(words, SUNDAY)], zone=UTC)
    assert found is not None
    assert (found.slots.get("date"), found.slots.get("time")) == (day, clock)
