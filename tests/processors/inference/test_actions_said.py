"""What patients type, in Bolivia, Mexico, Argentina and Peru, and what the `[[actions]]` that ship make of it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from processors.inference import examples
from processors.inference.actions import Detector, Words
from streams import topology

FILE = topology.load(Path(__file__).parents[3] / "streams.toml")
SHIPPED = Detector.of(FILE.actions, FILE.vocabulary)
"""Patterns alone."""
LA_PAZ = datetime(2025, 10, 8, 10, 15, tzinfo=ZoneInfo("America/La_Paz"))
"""A Wednesday."""
MEXICO = datetime(2025, 10, 7, 16, 40, tzinfo=ZoneInfo("America/Mexico_City"))
"""A Tuesday."""
BUENOS_AIRES = datetime(2025, 12, 26, 23, 50, tzinfo=ZoneInfo("America/Argentina/Buenos_Aires"))
"""A Friday; in UTC it is Saturday."""
LIMA = datetime(2025, 12, 31, 23, 30, tzinfo=ZoneInfo("America/Lima"))
"""A Wednesday; in UTC the year is over."""


def heard(words: str, said: datetime) -> tuple[str | None, dict[str, Any]]:
    found = SHIPPED.detect([Words(words, said.timestamp())], zone=said.tzinfo)
    return (found.name, found.slots) if found else (None, {})


def slots(date: str | None = None, time: str | None = None, speciality: str | None = None) -> dict[str, str]:
    told = {"date": date, "time": time, "speciality": speciality}
    return {name: value for name, value in told.items() if value}


@pytest.mark.parametrize(
    ("said", "words", "name", "told"),
    [
        # An appointment is wanted
        (LA_PAZ, "quiero sacar una ficha xfa", "book", slots()),
        (LA_PAZ, "Buenas, necesito sacar ficha para el pediatra", "book", slots(speciality="pediatría")),
        (LA_PAZ, "kisiera reserbar una sita con el cardiologo", "book", slots(speciality="cardiología")),
        (LA_PAZ, "HOLA NECESITO CITA URGENTE PARA HOY", "book", slots("2025-10-08")),
        (LA_PAZ, "Una citaaa porfaaa 😭", "book", slots()),
        (LA_PAZ, "tiene fichas para el medico general", "book", slots(speciality="medicina general")),
        (LA_PAZ, "quiero ver al dr. Gutierrez mañana", "book", slots("2025-10-09")),
        (LA_PAZ, "se me fue la cita de ayer, me da otra cita para el viernes?", "book", slots("2025-10-10")),
        (LA_PAZ, "mi hijo nació el 15 de enero de 2020, necesito cita para mañana", "book", slots("2025-10-09")),
        (LA_PAZ, "ya no quiero cancelar, quiero otra cita para el lunes", "book", slots("2025-10-13")),
        (LA_PAZ, "puede ser una cita en dos horas?", "book", slots("2025-10-08", "12:15")),
        (LA_PAZ, "quiero turno entre 3 y 5 de la tarde", "book", slots()),
        (LA_PAZ, "turno para el martes o miercoles", "book", slots()),
        (LA_PAZ, "una cita antes de las 10 el jueves", "book", slots("2025-10-09")),
        (LA_PAZ, "quisiera agendar para el jueves por la noche, a las 8", "book", slots("2025-10-09", "20:00")),
        (MEXICO, "cita mñn a las 5 pm", "book", slots("2025-10-08", "17:00")),
        (MEXICO, "hacer una cita 15 nov 4pm", "book", slots("2025-11-15", "16:00")),
        (MEXICO, "agéndame una cita de mañana en ocho", "book", slots("2025-10-15")),
        (MEXICO, "quiero una cita al cuarto para las 5", "book", slots(time="16:45")),
        (BUENOS_AIRES, "Che tenés turno para mañana?", "book", slots("2025-12-27")),
        (BUENOS_AIRES, "hay turnos para el martes a la mañana?", "book", slots("2025-12-30")),
        (BUENOS_AIRES, "me das un turno para el 15/1 a las 15hs", "book", slots("2026-01-15", "15:00")),
        (BUENOS_AIRES, "quiero un turno en dos horas", "book", slots("2025-12-27", "01:50")),
        (LIMA, "Quiero separar una cita para pasado mañana", "book", slots("2026-01-02")),
        (LIMA, "una citita para el lunes porfis", "book", slots("2026-01-05")),
        (LIMA, "necesito una hora con el oculista", "book", slots(speciality="oftalmología")),
        (LA_PAZ, "me agenda dentro de 15 días porfa", "book", slots("2025-10-23")),
        (LA_PAZ, "Anóteme a las 16hs el viernes", "book", slots("2025-10-10", "16:00")),
        (LA_PAZ, "a q hora me podrían ver mañana?", "book", slots("2025-10-09")),
        (LA_PAZ, "tienen turnos libres en la semana del 14?", "book", slots()),
        (LA_PAZ, "cita con la nutri el 12", "book", slots("2025-10-12", None, "nutrición")),
        (LA_PAZ, "me urge cita con el gine", "book", slots(speciality="ginecología")),
        (LA_PAZ, "quiero una consulta con el médico de cabecera", "book", slots(speciality="medicina general")),
        (LA_PAZ, "turno para limpieza dental", "book", slots(speciality="odontología")),
        (LA_PAZ, "necesito un dentista urgente", "book", slots(speciality="odontología")),
        (LA_PAZ, "me revisan al bebé? necesito pediatra para mañana", "book", slots("2025-10-09", None, "pediatría")),
        # One that there is, at another time
        (LA_PAZ, "me dieron para el lunes 13, puedo cambiar al jueves 16?", "move", slots("2025-10-16")),
        (LA_PAZ, "no puedo ir hoy, puedo ir el viernes?", "move", slots("2025-10-10")),
        (LA_PAZ, "no puedo el jueves, tienen para el viernes?", "move", slots("2025-10-10")),
        (LA_PAZ, "no voy a llegar a mi cita de las 4, puedo llegar a las 4:30?", "move", slots(time="16:30")),
        (LA_PAZ, "no alcanzo a ir a mi cita de las 11, me la dejan para la 1?", "move", slots(time="13:00")),
        (LA_PAZ, "mañana se me complica, se podrá el viernes?", "move", slots("2025-10-10")),
        (LA_PAZ, "mi turno es el lunes, mejor el martes a las 4", "move", slots("2025-10-14", "16:00")),
        (LA_PAZ, "quiero agendar de este lunes al otro", "move", slots()),
        (LA_PAZ, "la podríamos mover de las 3 a las 6?", "move", slots(time="18:00")),
        (LA_PAZ, "me pueden atender más temprano? mi turno es a las 6", "move", slots()),
        (LA_PAZ, "puedo mover mi cita del martes al jueves?", "move", slots("2025-10-09")),
        (LA_PAZ, "me pueden cambiar el turno de las 10 a las 11", "move", slots(time="11:00")),
        (LA_PAZ, "no puedo ir mañana, me lo cambian para el lunes?", "move", slots("2025-10-13")),
        (LA_PAZ, "no quiero cancelar, quiero cambiar la fecha de mi cita", "move", slots()),
        (LA_PAZ, "Necesito reagendar", "move", slots()),
        (BUENOS_AIRES, "podés pasarme el turno para el viernes que viene?", "move", slots("2026-01-02")),
        (LIMA, "mi cita era para mañana pero quiero pasarla al 5 de enero", "move", slots("2026-01-05")),
        (LA_PAZ, "cambio de hora mi turno de 4 a 5 y media", "move", slots(time="17:30")),
        # No longer
        (LA_PAZ, "ya no puedo ir mañana", "cancel", slots("2025-10-09")),
        (LA_PAZ, "no puedo ir el viernes, viajo el lunes", "cancel", slots("2025-10-10")),
        (LA_PAZ, "cancelar la cita del viernes y sacar otra para el lunes", "cancel", slots("2025-10-10")),
        (LA_PAZ, "quiero cancelar", "cancel", slots()),
        (LA_PAZ, "kiero canselar mi cita", "cancel", slots()),
        (LA_PAZ, "quiero cancelar la cita del lunes, el viernes viajo", "cancel", slots("2025-10-13")),
        (LA_PAZ, "ya no necesito la cita, gracias", "cancel", slots()),
        (BUENOS_AIRES, "quiero dar de baja el turno del lunes", "cancel", slots("2025-12-29")),
        (LIMA, "no asistiré a mi cita de mañana a las 9", "cancel", slots("2026-01-01", "09:00")),
        (LA_PAZ, "no puedo ir mañana, tampoco puedo el viernes", "cancel", slots("2025-10-09")),
        (LA_PAZ, "me surgió un viaje, no llego a mi cita del lunes", "cancel", slots("2025-10-13")),
        (LA_PAZ, "no podemos llevar al nene mañana al pediatra", "cancel", slots("2025-10-09")),
        (LA_PAZ, "me pueden sacar de la agenda del viernes", "cancel", slots("2025-10-10")),
        # Questions, also such as name an appointment
        (LA_PAZ, "cuánto cuesta cancelar una cita?", "prices", slots()),
        (LA_PAZ, "cuanto debo cancelar por la consulta?", "prices", slots()),
        (BUENOS_AIRES, "cuánto me sale un turno con la psicóloga?", "prices", slots(speciality="psicología")),
        (LA_PAZ, "cuál es el valor de la cita con nutrición?", "prices", slots(speciality="nutrición")),
        (LA_PAZ, "de lunes a viernes a q hora abren", "hours", slots()),
        (LIMA, "mañana atienden?", "hours", slots("2026-01-01")),
        (LA_PAZ, "atienden los martes?", "hours", slots()),
        # A human
        (LA_PAZ, "HUMANO", "handoff", slots()),
        (LA_PAZ, "comuníqueme con recepción", "handoff", slots()),
        (BUENOS_AIRES, "no quiero hablar con una máquina", "handoff", slots()),
        # English
        (LA_PAZ, "Hello, do you have appointments for 20/10?", "book", slots("2025-10-20")),
        (LA_PAZ, "need an appt pls", "book", slots()),
        (LA_PAZ, "can I get an appointment on 2025-10-20 at 9:30 am?", "book", slots("2025-10-20", "09:30")),
        (LA_PAZ, "I would like to see a pediatrician", "book", slots(speciality="pediatría")),
        (LA_PAZ, "I'd like to change my appointment to 17/10", "move", slots("2025-10-17")),
        (LA_PAZ, "don't cancel, I want to reschedule my appointment", "move", slots()),
        (LA_PAZ, "sorry i cant come at 3pm", "cancel", slots(time="15:00")),
        (LA_PAZ, "how much do you charge for an appointment", "prices", slots()),
        (LA_PAZ, "are you open on Sundays", "hours", slots()),
        (LA_PAZ, "can I speak with a real person please", "handoff", slots()),
    ],
)  # fmt: skip
def test_what_patients_ask_for_is_found(said: datetime, words: str, name: str, told: dict[str, str]) -> None:
    assert heard(words, said) == (name, told)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        # The same wishes in other words, for which the days are of no matter
        ("book", [
            "Me podrías agendar para el 3 de agosto a las 9:30?", "me podés agendar para el lunes?",
            "Agéndeme por favor para el 29/7 a las 16hs", "resérveme porfis para mañana", "apúntame para el martes",
            "resérvame hora pal viernes", "quiero que me atiendan el lunes tempranito", "hay campo el jueves a las 9?",
            "¿podría coger cita para el lunes?", "¿cómo cojo cita?", "¿tenéis cita para el martes?",
            "me podéis dar cita", "sera que me puede agendar una citica para el jueves a las 2",
            "quisiera saber si tiene agenda disponible para el 20 de julio", "esta noche a las 7 me pueden atender?",
            "hoy me podrían atender?", "mi cita anterior fue el 3 de julio, quiero otra para el 24",
            "me quiero hacer una limpieza dental el sabado", "hay alguien que me ayude a sacar una cita?",
            "Do you have anything available on Thursday afternoon?", "can you fit me in today?",
            "I'd like to schedule a checkup in two weeks", "may I have an appointment on Wednesday the 22nd?",
            "I'd like to book for the 30th at 2", "Could you book my mother in for a consultation?",
            "necesito cita desde ayer tengo fiebre",
            "¿qué horarios tienen libres?", "q días tiene libre la dra?", "tienen disponible el 14?", "me agendas?",
            "el viernes a las 10 está disponible?", "cuál es el próximo turno libre?", "podría ir hoy a consulta?",
            "quiero que revisen a mi papá mañana", "necesito apartar lugar para el sábado", "tenés algún hueco hoy?",
            "me gustaría pasar consulta mañana", "quiero llevar a mi hija al pediatra", "cómo saco ficha?",
            "solicitud de cita", "reserva para mañana a las 4", "me ayudas a agendar?", "es posible agendar el 4?",
            "resérveme esa hora", "hay posibilidad de agendar con la doctora?", "necesito una ecografía para mañana",
            "can you schedule me for the last Friday of July", "I need a appointmet for friday",
            "Could I come in today at 4:30?", "have you got anything free tomorrow?",
            "resérveme nomás para el 22 a las 16:30 por favorcito", "apúnteme nomás para mañana",
            "pueden darle cita el 5 de agosto?", "pueden darles turno a mis hijos mañana?", "agéndenos para mañana",
            "quiero agendar una teleconsulta", "necesito una videoconsulta con el pediatra",
            "quisiera una valoración con el ortodoncista", "quiero agendar un control",
            "me hacés un lugarcito hoy a última hora, me siento fatal", "me hacés un lugar hoy?",
            "me puede hacer un huequito hoy?", "¿me podría ver pasado mañana a primera hora?",
            "nos puede ver el lunes?", "¿Cuándo tendría libre el doctor Rojas? Me urge que me revise",
            "cuándo tiene libre la doctora?",
        ]),
        ("move", [
            "puedo cambiarla para pasado mañana?", "no quiero cancelarla, solo moverla al lunes",
            "pásela para el martes por favor", "la podemos mover para el jueves?", "me la podrían pasar al viernes?",
            "¿me cambiais la cita del jueves al viernes?", "kiero canviar mi cita pa el lunes",
            "tengo turno el viernes a las 10 pero no llego, puede ser a las 11?",
            "tenia cita hoy a las 4 pero se me complico, puedo ir mañana a la misma hora?",
            "puedo ir el viernes en vez del lunes?", "oye y si la pasamos para el jueves?",
            "quiero cambiar de la mañana a la tarde mi cita",
            "Could we push my appointment to Thursday?", "I don't want to cancel, just move it to Monday",
            "can we postpone it until Friday?", "I can't make it tomorrow, can we do Friday at 3 instead?",
            "Tomorrow doesn't work for me, could I come on Saturday at 10:30 instead?",
            "I can't be there at 3, can I come at 4?", "could you bring my appointment forward to 9 o'clock",
            "My appointment is on Monday at 4pm, can I change it to Wednesday at 5pm?",
            "Señorita, mi mamita no puede ir hoy, me la pasa para pasado mañana a las 8:30 de la mañana?",
            "no puedo ir hoy, ¿me la pasan al viernes?", "mi mamá no puede ir a la cita hoy, me la pasa para mañana?",
            "mover mi control pal otro mes", "aplazar la cirugia menor del 24, mejor para el 31 de julio",
            "adelantar mi control", "posponer la operación de mi mamá", "me corrés el turno del lunes al miércoles?",
            "Tengo cita hoy a las 3 pero salgo tarde del trabajo, me la puede poner a las 5?",
            "se me complicó lo de mañana, podemos dejarlo para el viernes a la misma hora?",
            "lo dejamos para el lunes?", "mueve lo de mañana para el viernes", "pásela nomás para el viernes",
            "podria ser mas tardecito mi cita de mañana?", "mi cita puede ser un poco más temprano?",
            "en vez del martes mejor el jueves a las 9 puede ser? lo de mi cita con la dra Paz",
            "en lugar del lunes puede ser el martes?",
            "cámbieme para el viernes", "me la mueves para mañana?", "mi turno lo quiero el martes",
            "trasládeme la cita al 18", "necesito otro horario para mi turno", "puedo ir más tarde a mi cita?",
            "no llego a las 4, puede ser a las 5?", "se puede a las 5 en vez de a las 4?",
            "puedo cambiar del lunes al martes?", "me toca hoy a las 3 pero puedo ir mañana?",
            "mi cita del jueves la quiero para el viernes",
            "me equivoqué de día, era para el miércoles", "podemos dejar la cita para el lunes?",
        ]),
        ("cancel", [
            "Me es imposible asistir mañana", "no me va a ser posible ir el lunes", "quisiera desagendar mi cita",
            "me dieron cita para el viernes pero ya no la quiero", "si, cancela mi cita por favor",
            "I can no longer attend my appointment on the 31st", "I don't need the appointment anymore",
            "I no longer need the appointment for the day after tomorrow", "I can't make it to my appointment",
            "cancélenos la cita", "anúlenos el turno", "cancélanos la cita del lunes", "quiero kanselar mi konsulta",
            "cancélame lo de pasado mañana", "cancélame nomás lo de mañana", "anula lo del viernes porfa",
            "quiero cancelar nomás", "No quiero la cita ya, gracias, muy caro", "no quiero la cita",
            "quiero que le cancele la cita a mi mamá", "cancelar mi control del lunes", "cancelar la teleconsulta",
            "quiero cancelar la cirugía de mi papá", "libere mi turno por favor", "desmarca mi cita porfis",
            "quería liberar mi cupo del jueves a las 4 y media para que lo use otra persona",
            "Bájeme de la lista del sábado porfa, me salió un compromiso", "sáquenme de la agenda de mañana",
            "Tenía turno con la psicóloga pero voy a desistir", "quiero desistir de la cita",
            "Quisiera dejar sin efecto la reserva a nombre de Rosa Flores",
            "cancele la cita que saqué ayer", "cancele la cita de ayer no, la de mañana", "no podré ir a la de las 4",
            "no puedo ir a la sesión del lunes", "no puedo ir al dentista hoy", "no podré ir a las 10",
            "hoy no puedo ir a la tarde", "ya no hace falta la consulta", "no será necesaria la cita, gracias",
            "cancela la del lunes", "mejor cancelemos", "ya no vamos a necesitar la cita",
            "no podré llegar a mi cita", "no llegaremos al turno", "dele mi turno a otra persona",
            "déjela sin efecto", "quiero darme de baja del turno", "cancela todo",
            "cancele por favor", "ya no me interesa la cita", "no voy a poder traer a mi hija a la consulta",
        ]),
        ("hours", [
            "estan abiertos ahorita?", "ahorita están atendiendo?", "el finde atienden?", "mañana van a atender?",
            "¿a qué hora abrís?",
            "atendéis los domingos?", "desde que hora puedo ir?", "están de turno las 24 horas?",
            "en qué horario atiende la doctora?", "are you open the 25th?",
            "¿Qué días trabaja la clínica?", "siguen abriendo al mediodía o cierran para almorzar?",
            "siguen atendiendo los sábados?", "atienden de mañana?", "desde q hora puedo ir a sacarme sangre?",
            "desde qué hora podemos ir a recoger los resultados?",
            "a q horas abren", "hasta las cuántas atienden?", "el 24 de diciembre abren?", "el 8 es feriado, atienden?",
            "qué días viene el dermatólogo?", "hasta qué hora me pueden atender?",
        ]),
        ("prices", [
            "es gratis la primera consulta?", "qué valor tiene el examen de glucosa?", "what are your rates?",
            "how much?", "how much is it?", "how much will it be to see the doctor", "how much for a visit",
            "Presupuesto para blanqueamiento, gracias", "me pasan un presupuesto para los brackets?",
            "cuántos bs es la consulta?", "valor de la consulta?", "tienen alguna promo?",
            "Es muy caro el examen de la vista?", "qué tan cara es la consulta?", "kuanto kuesta sacar una muela",
        ]),
        ("handoff", [
            "no me entiende, quiero que me conteste una persona", "prefiero que me hable una persona",
            "hay alguien ahí que me pueda atender? no quiero un bot", "stop, get me an agent",
            "ponme con recepción", "prefiero tratar con una persona", "eres un bot? quiero una persona",
            "quiero que me llamen por favor", "me puedes comunicar con la doctora?",
        ]),
    ],
)  # fmt: skip
def test_it_is_found_however_it_is_put(name: str, words: list[str]) -> None:
    assert {each: heard(each, LA_PAZ)[0] for each in words} == dict.fromkeys(words, name)


@pytest.mark.parametrize(
    "words",
    [
        # An appointment that there is, or was
        "ayer saqué un turno", "ya tengo cita, gracias", "a qué hora es mi cita?", "cuando es mi turno?",
        "confirmo mi cita de mañana", "voy llegando tarde a mi cita", "tengo turno mañana a las 10",
        "qué debo llevar a mi cita?", "no, el turno está bien así", "mi mamá tiene cita hoy", "gracias por la cita",
        "me dieron turno para el viernes, gracias", "estuve en consulta con el cardiólogo la semana pasada",
        "me llegó el recordatorio de mi cita", "perdí mi turno ayer por el tráfico", "qué ficha me tocó?",
        # What is not wanted, or what others did
        "no quiero cancelar mi cita", "no cancelen mi turno por favor", "no quiero mover mi cita",
        "no quiero una cita, solo información", "el doctor me canceló la cita la semana pasada",
        "gracias por cambiar mi cita", "hablé con la secretaria ayer", "quién me atiende mañana?",
        "ya le cancelé a la señorita lo de la consulta de ayer", "le cancelé a la doctora la consulta",
        "ya la cancelé, la cita", "ya le cambié la cita al lunes", "me retrasaron la cirugía",
        "no quiero cancelar mi control", "no quiero mover la cirugía", "gracias por adelantar mi control",
        "cancelé la operación ayer", "anulé el turno hace un rato", "cambié la cita la semana pasada",
        "mi hermana agendó una cita ayer", "la cita es el lunes en vez del martes, no?",
        # The same words about other things
        "no puedo ir a la escuela mañana, me dan un certificado?", "no iremos a la fiesta", "no puedo ir a la farmacia",
        "no llego a la cita, estoy en el tráfico", "puedo darle mi número a otra persona?",
        "ya no es necesaria la consulta?", "no puedo llevar a mi hijo al colegio", "no quiero que me llamen",
        "quiero que me llamen cuando estén los resultados", "quiero transferir para pagar la consulta",
        "me agendaron el lunes, se puede llevar acompañante?", "se me complicó el embarazo, puede ser por el azúcar?",
        "necesito receta del cardiólogo", "quiero que vean mi caso", "me equivoqué de hora y tomé doble pastilla",
        "no voy a llegar a la cita a tiempo", "quiero llevar a mi esposo a mi cita del lunes",
        "reserva para el hotel", "cancelé la de ayer", "cámbieme la receta", "es posible pagar con QR?",
        "me falta cancelar 50 bs de la consulta", "puedo cancelar mañana el saldo de la consulta?",
        "con cuánta anticipación puedo cancelar la cita?", "con cuánto tiempo debo avisar para cambiar la cita?",
        "hoy no puedo hablar, puedo mañana", "no puedo dormir, puedo tomar la pastilla a las 10?",
        "me cambiaron del lunes al martes", "necesito una ecografía antes de la cita?",
        "me dieron otro día para la cita",
        "me toca la pastilla a las 8, puedo pasarla a las 10?", "ese horario me queda bien",
        "el pediatra de mi hijo está de vacaciones", "puedo pasar a la consulta con mi esposo?",
        "quiero hacer una consulta", "una consulta, atienden por OSDE?", "puedo cancelar con tarjeta?",
        "se puede cancelar por QR?", "quiero cambiar de medicamento", "no puedo ir al baño", "no puedo mover el brazo",
        "te paso los datos de mi hijo", "tomo la pastilla cada 8 horas", "cuánto tiempo dura la consulta?",
        "el agente de seguros me dijo que venga", "el costo emocional ha sido alto", "la herida está abierta",
        "el cardiólogo me dijo que vuelva en un mes", "es hora de almorzar", "es un buen horario para mí",
        "hasta la vista!",
        "no puedo ir de cuerpo hace 3 días", "y si cancelo la cita me devuelven el dinero?",
        "puedo mover la pierna después de la cita?", "después de la consulta puedo correr?",
        "la venda la quiero cambiar", "puedo pasar a recoger mis lentes antes de la consulta?",
        "se puede adelantar el resultado de mi consulta?", "no puedo dormir, puede ser otra cosa?",
        "cambiar el horario de la pastilla", "a qué horario me tocaba la pastilla?",
        "se me cruzó el horario del trabajo", "qué horario es mejor para tomar el jarabe?",
        "desde la consulta me corre sangre de la nariz", "me corre el moco hace una hora", "no quiero la pastilla",
        "pasé la cirugía bien, gracias", "puedo mover la pierna después de la cirugía?", "puedo dejarlo a las 5",
        "me puede ver el resultado?", "en vez de hoy puedo tomar la pastilla mañana?", "tengo un hueco en la muela",
        "si no quiero la cita me devuelven el dinero?", "sáquenme de la lista de difusión",
        "quiero hacer una evaluación de su servicio", "está fuera de mi presupuesto",
        "cuando trabaja le duele la espalda", "hasta cuando atienden mi reclamo", "cuanto es la dosis?",
        "que valor tiene mi glucosa?",
        "cuál es el valor normal de la glucosa?", "cuánto sale de sangre normalmente?",
        # Talk
        "ok nos vemos mañana", "dale, a las 3 está bien", "feliz año nuevo!", "mi hijo tiene fiebre desde el lunes",
        # English
        "I don't want to cancel my appointment", "what time is my appointment?", "I read a good book",
        "I had an appointment yesterday and it was great", "I have an appointment at 3pm",
        "how much ibuprofen can I take?", "how much bleeding is normal?", "how much should I run after the surgery?",
        "you don't know how much it hurts", "what is the success rate of the surgery?",
        "I can't make it stop hurting", "I can't come to the phone right now", "what if I cancel my appointment?",
        "can I change the bandage after my visit?", "I can't move it for 3 days", "should I change it to 10 mg?",
        "could I take paracetamol instead?", "can I have the pill at 8pm instead?", "can I have coffee before a visit?",
        "do you have anything for the pain?", "how much should I pay attention to the swelling?",
        "do you close the wound with stitches?",
    ],
)  # fmt: skip
def test_what_only_sounds_like_it_is_none(words: str) -> None:
    assert heard(words, LA_PAZ) == (None, {})
    assert examples.of(FILE).guess(words) is None


@pytest.mark.parametrize(
    "words", ["no quiero que me ", "de las 3 a ", "el 15 o ", "a las 10 o ", "hola ", "no puedo el "]
)
def test_no_message_keeps_the_patterns_from_being_searched_to_the_last(words: str) -> None:
    # Given a text about as long as is read, of words with which many patterns begin
    said = f"{words * (4000 // len(words))}\nany openings?"
    # Then what one of the last patterns of the file names is found within the bound of time
    assert heard(said, LA_PAZ)[0] == "book"
