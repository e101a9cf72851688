"""
What the assistant answers: the rules that the model is to learn.

A conversation is at most one request (book, move, cancel) with slots filling up.  The texts are in replies.toml.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path

from processors.inference.demo.noise import plain, restored

_GREETINGS = {
    "buenos dias": "¡Buenos días!", "buen dia": "¡Buenos días!",
    "buenas tardes": "¡Buenas tardes!", "buenas noches": "¡Buenas noches!",
}  # fmt: skip
_AND_THEN = {
    "medico": "quieres_cita", "especialidades": "quieres_cita",
    "ajeno": "puedo", "identidad": "puedo", "raro": "otra_forma",
}  # fmt: skip
"""What follows the answer to a question when no request is open."""
_CLOSING = {"gracias": "gracias", "adios": "adios", "bien": "bien", "si": "bien", "no": "nada_mas"}
"""What is said to small talk when no request is open."""
_HELLO = re.compile(r"^\W*(h?ol[aiá]+|buen[ao]s?|muy buenas|hey+|saludos|al[oó]+|qu?[eé]? tal)\b", re.IGNORECASE)
_REQUESTS = ("agendar", "mover", "cancelar")
_SLOTS = ("esp", "fecha", "hora", "nombre")


@cache
def replies() -> dict[str, str]:
    with Path(__file__).with_name("replies.toml").open("rb") as file:
        return tomllib.load(file)


class Clinic:
    """The assistant's side of one conversation."""

    def __init__(self) -> None:
        self.slots: dict[str, str] = {}
        self.asked: str | None = None
        """The question that is open."""
        self.noted = False
        """A request is complete and has been passed on."""
        self._request: str | None = None

    def answer(self, about: str, said: str, values: dict[str, str], also: str | None = None) -> str:
        """
        The reply to one turn of the person.

        Args:
            about: what the person does, a table and an entry of phrases.toml.
            said: the turn as written; only greetings and what is attached are looked up in it.
            values: the slots as the person typed them.
            also: a question of phrases.toml that was asked in the same breath; it is answered first.
        """
        table, _, entry = about.partition(".")
        lead = self._lead(table, said) + (replies()[also] + " " if also else "")
        known = {slot: restored(value) if slot == "esp" else value for slot, value in values.items() if slot in _SLOTS}
        if table == "contesta" or entry.startswith("contesta"):
            return lead + self._answered(entry, known)
        if table in _REQUESTS:
            return lead + self._requested(table, known)
        if table == "cambio":
            self.slots |= known
            return lead + (self._note() if self.noted else f"De acuerdo, {self._list(known)}. {self._ask()}")
        if table == "saludo":
            return self._greeted(entry, said)
        if table == "charla":
            return lead + self._chatted(entry)
        return lead + (self._attached(entry) if table == "adjunto" else self._questioned(entry))

    def _lead(self, table: str, said: str) -> str:
        lead = ""
        if table not in ("saludo", "charla", "contesta", "cambio") and _HELLO.match(said.removeprefix("[audio]\n")):
            lead = _hello(said) + " "
        if table != "adjunto" and "[imagen" in said:
            lead += replies()["imagen_leida"] + " "
        elif table != "adjunto" and "[audio]" in said:
            lead += replies()["audio_leido"] + " "
        return lead

    def _requested(self, request: str, known: dict[str, str]) -> str:
        self._request, self.noted, self.slots = request, False, dict(known)
        if request == "cancelar":
            self.slots.pop("hora", None)
        question = self._ask()
        if self.noted:
            return question
        given = self._list(known)
        return f"{replies()[request]}{': ' + given if given else ''}. {question}"

    def _answered(self, entry: str, known: dict[str, str]) -> str:
        if entry == "no_se":
            self.asked = "general"
            return replies()["no_se"]
        self._request = self._request or "agendar"
        self.slots |= known
        question = self._ask()
        if self.noted:
            return question
        if list(known) == ["nombre"]:
            return f"Gracias, {known['nombre']}. {question}"
        return f"Perfecto, {self._list(known)}. {question}"

    def _greeted(self, entry: str, said: str) -> str:
        if self._open:
            return f"{_hello(said)} {self._ask()}"
        self.asked = None
        return replies()["como_estas" if entry == "como_estas" else "saludo"].format(saludo=_hello(said))

    def _chatted(self, entry: str) -> str:
        if self.asked in ("general", "cita", "humano") and entry in ("si", "no"):
            return self._decided(self.asked, yes=entry == "si")
        if entry == "dejalo":
            self._close()
            return replies()["dejalo"]
        if not self._open:
            self.asked = None
            return replies()[_CLOSING.get(entry, "ayudo")]
        if entry == "gracias":
            return f"¡De nada! {self._ask()}"
        if entry == "adios":
            self._close()
            return replies()["adios"]
        return f"{replies()['aqui']} {self._ask()}" if entry == "sigues" else f"Te explico: {self._why()} {self._ask()}"

    def _decided(self, asked: str, *, yes: bool) -> str:
        self.asked = None
        if asked == "general":
            return self._answered("esp", {"esp": replies()["general"]}) if yes else self._again()
        if not yes:
            return replies()["nada_mas"]
        return replies()["humano"] if asked == "humano" else self._requested("agendar", {})

    def _again(self) -> str:
        self.asked = "esp"
        return replies()["que_otra"]

    def _questioned(self, entry: str) -> str:
        text = replies()
        if entry == "emergencia":
            self._close()
            return text["emergencia"]
        if entry == "sintoma":
            self._request, self.noted, self.slots = "agendar", False, {}
            return f"{text['sintoma']} {self._ask()}"
        if entry == "confirmada" and not self.noted:
            return text["recepcion"]
        if entry == "queja":
            self._close()
            self.asked = "humano"
            return text["queja"]
        if self._open:
            return text[entry] if entry in ("humano", "otro_idioma") else f"{text[entry]} {self._ask()}"
        then = _AND_THEN.get(entry)
        if then == "quieres_cita" or entry == "otro_idioma":
            self._close()
            self.asked = "cita"
        else:
            self.asked = None
        return f"{text[entry]} {text[then]}" if then else text[entry]

    def _attached(self, entry: str) -> str:
        text = replies()[entry]
        if entry in ("ubicacion", "contacto"):
            return f"{text} {self._ask() if self._open else replies()['ayudo']}"
        return text

    @property
    def _open(self) -> bool:
        return self._request is not None and not self.noted

    def _close(self) -> None:
        self._request, self.asked, self.noted, self.slots = None, None, False, {}

    def _ask(self) -> str:
        """The next question of the request, or the note that ends it."""
        text, has = replies(), self.slots.keys()
        question = ""
        if self._request == "agendar":
            if "esp" not in has:
                self.asked, question = "esp", "que_especialidad"
            elif "fecha" not in has:
                self.asked, question = ("fecha", "que_dia") if "hora" in has else ("cuando", "que_dia_y_hora")
            elif "hora" not in has:
                self.asked, question = "hora", "que_hora"
            elif "nombre" not in has:
                self.asked, question = "nombre", "que_nombre"
        elif "nombre" not in has:
            self.asked, question = "nombre_cancelar" if self._request == "cancelar" else "nombre", "de_quien"
        elif "fecha" not in has:
            if self._request == "cancelar":
                self.asked, question = "fecha_cancelar", "de_que_dia"
            else:
                self.asked, question = ("fecha", "que_dia") if "hora" in has else ("cuando", "que_nuevo")
        elif self._request == "mover" and "hora" not in has:
            self.asked, question = "hora", "que_hora"
        return text[question] if question else self._note()

    def _note(self) -> str:
        self.asked, self.noted = None, True
        return replies()[f"nota_{self._request}"].format(**self.slots)

    def _why(self) -> str:
        return {
            "agendar": "para tu cita necesito especialidad, día, hora y nombre.",
            "mover": "para mover tu cita necesito el nombre y la nueva fecha.",
            "cancelar": "para cancelar tu cita necesito el nombre y la fecha.",
        }[self._request or "agendar"]

    @staticmethod
    def _list(known: dict[str, str]) -> str:
        when = " ".join(known[slot] for slot in ("fecha", "hora") if slot in known)
        name = f"a nombre de {known['nombre']}" if "nombre" in known else ""
        return ", ".join(part for part in (known.get("esp", ""), when, name) if part)


def _hello(said: str) -> str:
    words = plain(said).lower()
    return next((reply for greeting, reply in _GREETINGS.items() if greeting in words), "¡Hola!")
