"""Days and times as people write them, told from Sunday 5 October 2025."""

from __future__ import annotations

from datetime import date, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.inference.spanish_dates import find_date, fold
from processors.inference.spanish_times import find_time, later
from streams.tables import Which

SUNDAY = date(2025, 10, 5)


def day(text: str, said_on: date = SUNDAY) -> str | None:
    found = find_date(fold(text), said_on)
    return found.value if found else None


@pytest.mark.parametrize(
    ("text", "which", "value"),
    [
        ("mi cita del 18", "any", "2025-10-18"), ("mi cita del 18", "coming", "2025-10-18"),
        ("mi cita del 18", "asked", None), ("no puedo el martes", "asked", None),
        ("mi cita del 18, para el 20", "asked", "2025-10-20"), ("el 18", "asked", "2025-10-18"),
        ("me dieron para el 18", "asked", None), ("me toca el 18, quiero ir el 20", "asked", "2025-10-20"),
        ("el martes se me complica", "asked", None), ("pasarla del lunes al otro", "asked", None),
        ("si es el martes, mejor", "asked", "2025-10-07"),
        ("anoche", "any", "2025-10-04"), ("anoche", "coming", None), ("ayer no; el martes", "coming", "2025-10-07"),
    ],
)  # fmt: skip
def test_what_is_not_asked_for_or_over_is_read_only_where_it_is_wanted(
    text: str, which: Which, value: str | None
) -> None:
    found = find_date(fold(text), SUNDAY, which)
    assert (found and found.value) == value


@pytest.mark.parametrize(
    "text",
    ["mi cita de las 10", "tengo turno el viernes 4 a las 10", "mi consulta es a las 10 y media", "salgo a las 6",
     "ella sale del trabajo a las 6"],
)  # fmt: skip
def test_a_time_that_is_not_asked_for_is_none(text: str) -> None:
    assert find_time(text, "asked") is None


def clock(text: str) -> str | None:
    found = find_time(fold(text))
    return found.value if found else None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("el martes a las 3 de la tarde", "2025-10-07"),
        ("mañana", "2025-10-06"),
        ("Mañana por la mañana", "2025-10-06"),
        ("para pasado mañana", "2025-10-07"),
        ("hoy mismo", "2025-10-05"),
        ("esta tarde", "2025-10-05"),
        ("15 de octubre", "2025-10-15"),
        ("el 4 de octubre", "2026-10-04"),
        ("15 de octubre del 2027", "2027-10-15"),
        ("primero de enero", "2026-01-01"),
        ("29 de febrero", "2028-02-29"),
        ("2025-10-07", "2025-10-07"),
        ("7/10", "2025-10-07"),
        ("07/10/2026", "2026-10-07"),
        ("7-10-26", "2026-10-07"),
        ("7.10.2026", "2026-10-07"),
        ("el miércoles", "2025-10-08"),
        ("el próximo sábado", "2025-10-11"),
        ("el lunes que viene", "2025-10-06"),
        ("el domingo", "2025-10-12"),
        ("este domingo", "2025-10-05"),
        ("el lunes 13 de octubre", "2025-10-13"),
        ("el 15 a las 4", "2025-10-15"),
        ("el día 3", "2025-11-03"),
        ("el 31", "2025-10-31"),
        ("en tres días", "2025-10-08"),
        ("dentro de dos semanas", "2025-10-19"),
        ("en 1 mes", "2025-11-05"),
        ("EL MARTES", "2025-10-07"),
        ("el viernes 17 a las 10", "2025-10-17"),
        ("martes 14", "2025-10-14"),
        ("el sábado, día 18", "2025-10-18"),
        ("el lunes 20 de la tarde", "2025-10-06"),
        ("dieciséis de octubre", "2025-10-16"),
        ("el treinta y uno de octubre", "2025-10-31"),
        ("el martes 8 de la mañana", "2025-10-07"),
        ("el martes 9:30", "2025-10-07"),
        ("el jueves 15.30", "2025-10-09"),
        ("lunes 3pm", "2025-10-06"),
        ("15 ene", "2026-01-15"),
        ("15/ene/2026", "2026-01-15"),
        ("el 1ro de noviembre", "2025-11-01"),
        ("al 15", "2025-10-15"),
        ("del 15", "2025-10-15"),
        ("el quince", "2025-10-15"),
        ("el 5 del próximo mes", "2025-11-05"),
        ("el 20 del mes que viene", "2025-11-20"),
        ("el mes que viene, el 20", "2025-11-20"),
        ("de hoy en ocho", "2025-10-12"),
        ("de mañana en quince", "2025-10-20"),
        ("el lunes en ocho", "2025-10-13"),
        ("hoy en 15 minutos", "2025-10-05"),
        ("mañana martes 7 de octubre", "2025-10-07"),
        ("el martes pasado", "2025-09-30"),
        ("anteayer", "2025-10-03"),
        ("el lunes de mañana", "2025-10-06"),
        ("mñn", "2025-10-06"),
        ("pasado mñna", "2025-10-07"),
        ("el juebes", "2025-10-09"),
        ("el vier 17", "2025-10-17"),
        ("el turno del lunes al miércoles", "2025-10-08"),
        ("para el 29 no para el 19", "2025-10-29"),
        ("una cita de hoy en ocho", "2025-10-12"),
        ("de acá a dos semanas", "2025-10-19"),
        ("de aquí a 3 días", "2025-10-08"),
        ("para pasado a las 10", "2025-10-07"),
        ("el primer lunes de noviembre", "2025-11-03"),
        ("el segundo martes de octubre", "2025-10-14"),
        ("el último viernes del mes", "2025-10-31"),
        ("el tercer jueves del próximo mes", "2025-11-20"),
        ("el primer lunes de octubre", "2025-10-06"),
        ("el primer miércoles de octubre", "2026-10-07"),
        ("cumple 40 el viernes, para el lunes", "2025-10-06"),
    ],
)
def test_a_day_is_told_from_the_day_on_which_it_was_said(text: str, value: str) -> None:
    assert day(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("el jueves de la semana que viene", "2025-10-16"),
        ("el viernes de la próxima semana", "2025-10-17"),
        ("lunes de la otra semana", "2025-10-13"),
        ("la semana entrante el jueves a las 3 pm", "2025-10-16"),
        ("la próxima semana, el martes", "2025-10-14"),
        ("mañana no puedo, para el jueves de la semana q viene", "2025-10-16"),
        ("el jueves", "2025-10-09"),
        ("el domingo de la próxima semana", None),
    ],
)
def test_a_day_of_next_week_is_that_of_the_week_from_monday(text: str, value: str | None) -> None:
    assert day(text, said_on=date(2025, 10, 8)) == value


@pytest.mark.parametrize(
    "text",
    ["", "la próxima semana", "31 de febrero", "el 31 de febrero", "el viernes de la próxima semana",
     "el martes de la semana que viene", "99/99", "2025-13-40", "de 8 a 9", "tengo 3 hijos",
     "a las 10 de la mañana", "a las 15:30", "24/7", "los sábados", "los lunes", "cada martes", "el otro martes",
     "martes o jueves", "el lunes, martes o miércoles", "de lunes a viernes", "del 15 al 20", "el 15 o 16",
     "la semana del 13", "la semana del 13 de octubre",
     "entre el 10 y el 15", "mañana o pasado", "desde el lunes", "hasta mañana", "antes del 15", "después del martes",
     "cualquier día menos el lunes", "el primer miércoles del mes", "la próxima semana, el viernes",
     "mi cita del martes o jueves", "solo de mañana", "por la tarde o de mañana",
     "9-11 am", "3-4 dias", "el 3er piso", "hace 3 días"],
)  # fmt: skip
def test_what_is_no_day_is_none(text: str) -> None:
    assert day(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a las 3 de la tarde", "15:00"),
        ("a las 3", "15:00"),
        ("a las 3 de la mañana", "03:00"),
        ("a las 10", "10:00"),
        ("a las 10 de la mañana", "10:00"),
        ("a las diez y media", "10:30"),
        ("a las 9 y cuarto", "09:15"),
        ("a las 12 menos cuarto", "11:45"),
        ("a la una", "13:00"),
        ("a las nueve y veinte", "09:20"),
        ("15:30", "15:30"),
        ("15h30", "15:30"),
        ("16 hs", "16:00"),
        ("3pm", "15:00"),
        ("3:30 p.m.", "15:30"),
        ("12 am", "00:00"),
        ("a las 12 de la noche", "00:00"),
        ("a las 8 de la noche", "20:00"),
        ("a eso de las 11, a las 11", "11:00"),
        ("al mediodía", "12:00"),
        ("a las tres y veinticinco", "15:25"),
        ("a las 4 y 10", "16:10"),
        ("a las nueve y cuarenta y cinco", "09:45"),
        ("a las trece", "13:00"),
        ("a la 1 del mediodía", "13:00"),
        ("tres y media", "15:30"),
        ("alas 3", "15:00"),
        ("para las 9", "09:00"),
        ("tipo 4", "16:00"),
        ("a las 1530", "15:30"),
        ("a las 930", "09:30"),
        ("15hs", "15:00"),
        ("a hrs. 10", "10:00"),
        ("8 a. m.", "08:00"),
        ("cuarto para las 3", "14:45"),
        ("un cuarto antes de las 4", "15:45"),
        ("diez minutos antes de las 4", "15:50"),
        ("de hoy a las 10 para las 9", "09:00"),
        ("es el 20 a las 10, sería posible pasarla al 21 a las 11:30", "11:30"),
        ("hoy a las 3, la puedo cambiar a las 5", "17:00"),
        ("el viernes a las 10 pero no llego, puede ser a las 11", "11:00"),
        ("on Monday at 4pm, can I change it to Wednesday at 5pm", "17:00"),
        ("mi cita de mañana a las 3", "15:00"),
        ("de mañana al viernes a las 5", "17:00"),
        ("el martes de mañana, a las 7", "07:00"),
        ("la paso a mañana a las 3", "15:00"),
        ("diez para las 9", "08:50"),
        ("a las 12 del día", "12:00"),
        ("al medio dia", "12:00"),
        ("por la noche, a las 8", "20:00"),
        ("mañana en la mañana a las 7", "07:00"),
        ("a las 3, mejor a las 4", "16:00"),
        ("mi cita de las 10, a las 11", "11:00"),
        ("mi cita de las 10", "10:00"),
        ("no puedo a las 10, a las 11 sí", "11:00"),
        ("tengo cita con la doctora a las 10, puede ser a las 11", "11:00"),
        ("salgo a las 5, puede ser a las 6", "18:00"),
        ("mañana o pasado a las 10", "10:00"),
        ("de la cita del martes 8 a las 10 al miércoles 9 a las 11", "11:00"),
        ("no puedo ir a las 10", "10:00"),
    ],
)
def test_a_time_of_day_is_read(text: str, value: str) -> None:
    assert clock(text) == value


@pytest.mark.parametrize(
    "text",
    ["", "3", "tengo 3 hijos", "calle 10", "de la mañana", "a las 25", "por la tarde", "7/10", "diabetes tipo 2"],
)
def test_a_bare_number_is_no_time(text: str) -> None:
    assert clock(text) is None


@pytest.mark.parametrize(
    "text",
    ["entre 3 y 4 de la tarde", "entre las 3 y las 5", "de 3 a 5", "de 8 a 12 am", "a las 10 o a las 11", "10 u 11 am",
     "después de las 4", "antes de las 10", "a partir de las 9", "hasta las 6", "cada 8 horas", "hace 2 horas",
     "en dos horas", "una hora más tarde", "a las tres personas", "antes del mediodía", "pasado el mediodía"],
)  # fmt: skip
def test_what_is_no_one_time_is_none(text: str) -> None:
    assert clock(text) is None


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("en dos horas", "2026-01-01T01:15"),
        ("dentro de media hora", "2025-12-31T23:45"),
        ("en una hora y media", "2026-01-01T00:45"),
        ("en 20 minutos", "2025-12-31T23:35"),
        ("dos horas", None),
        ("cada dos horas", None),
    ],
)
def test_a_moment_is_told_from_the_one_at_which_it_was_said(text: str, moment: str | None) -> None:
    eve = datetime(2025, 12, 31, 23, 15, tzinfo=ZoneInfo("America/Lima"))
    found = later(fold(text), eve)
    assert (found and f"{found:%Y-%m-%dT%H:%M}") == moment


@pytest.mark.parametrize(
    "text",
    [
        "mi cita del martes para el jueves",
        "la cita era para el martes, quiero pasarla al jueves",
        "no puedo el martes, el jueves sí",
        "el martes no puedo, el jueves sí",
        "el martes, mejor el jueves",
        "para hoy no, para el jueves",
        "el martes se me complica, el jueves",
        "me dieron el martes, puedo cambiar al jueves",
        "me toca el 7 de octubre, se puede cambiar al 9",
        "en vez del martes el jueves",
        "hoy llamé y no contestaron, quiero una cita para el jueves",
        "falté ayer, quiero otra el jueves",
        "nació el 15 de enero de 2020; el jueves",
        "tiene fiebre desde el martes, una cita el jueves",
    ],
)
def test_of_several_days_the_one_asked_for_is_read(text: str) -> None:
    assert day(text) == "2025-10-09"


def test_on_a_tuesday_the_tuesday_is_the_next_one() -> None:
    assert day("el martes", date(2025, 10, 7)) == "2025-10-14"
    assert day("este martes", date(2025, 10, 7)) == "2025-10-07"


def test_a_year_ends() -> None:
    assert day("mañana", date(2025, 12, 31)) == "2026-01-01"
    assert day("en dos meses", date(2025, 12, 31)) == "2026-02-28"
    assert day("el 30", date(2026, 1, 31)) == "2026-03-30"
    assert day("en 3 dias", date(9999, 12, 30)) is None


@given(st.text(max_size=80), st.dates())
def test_nothing_that_anybody_writes_raises(text: str, said_on: date) -> None:
    day(text, said_on)
    clock(text)
    assert len(fold(text)) == len(text)
