"""The `[[actions]]` that ship with Cauce, on what people write to a clinic."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from processors.inference.actions import Detector, Words
from streams import topology

SHIPPED = Detector.of(topology.load(Path(__file__).parents[3] / "streams.toml").actions)
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
