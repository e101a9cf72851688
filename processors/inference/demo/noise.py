"""
How phrases look when thumbs have typed them: no accents, no opening marks, slips, shorthand, emojis, capitals.

What fills a slot is spelled before the reply is written, so the reply copies what was really typed.
"""

from __future__ import annotations

import re
import unicodedata
from random import Random

from processors.inference.demo.slots import words

_SLOT = re.compile(r"\{(\w+)\}")
_SHORT = {
    "que": "q", "qué": "q", "por": "x", "para": "pa", "porque": "xq", "también": "tmb", "estoy": "toy", "está": "ta",
    "quiero": "kiero", "dónde": "dnd", "hola": "ola", "gracias": "grcs", "tengo": "tngo", "necesito": "nesesito",
    "cita": "sita", "quisiera": "kisiera", "ustedes": "uds", "usted": "ud", "hacer": "aser", "doctor": "dr",
}  # fmt: skip
_EMOJIS = ["🙏", "😊", "👍", "🙂", "❤️", "😅", "🤗", "😷", "🤒", "🙌", "☺️", "💕", "😭", "🥺"]
_NEIGHBOURS = {
    "a": "s",
    "e": "r",
    "i": "o",
    "o": "p",
    "n": "m",
    "s": "d",
    "t": "y",
    "r": "t",
    "c": "v",
    "l": "k",
    "u": "i",
}


def plain(text: str) -> str:
    """Without accents; ñ stays, as most keyboards have it."""
    kept = unicodedata.normalize("NFD", text.replace("ñ", "\0").replace("Ñ", "\1"))
    bare = "".join(letter for letter in kept if not unicodedata.combining(letter))
    return bare.replace("\0", "ñ").replace("\1", "Ñ")


class Hand:
    """One person's way of typing, the same through a conversation."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._careful = rng.random() < 0.25
        self._small = not self._careful and rng.random() < 0.7
        self._plain = not self._careful and rng.random() < 0.65
        self._bare = not self._careful and rng.random() < 0.8
        self._slips = 0.0 if self._careful else rng.choice([0, 0, 0, 0.04, 0.1])
        self._short = 0.0 if self._careful else rng.choice([0, 0, 0.3])
        self._loud = rng.random() < 0.04

    def value(self, text: str, slot: str) -> str:
        """A slot's filling as this person types it."""
        if slot in ("nombre", "doctor", "esp") and self._loud:
            return text.upper()
        if slot == "nombre" and self._small and self._rng.random() < 0.5:
            text = text.lower()
        if slot == "esp" and " " not in text and self._rng.random() < (0.5 if self._careful else 0.15):
            text = text[0].upper() + text[1:]
        return plain(text) if self._plain else text

    def write(self, text: str, values: dict[str, str]) -> str:
        """A phrase with its slots filled, typed by this hand."""
        pieces = _SLOT.split(text)
        typed = [values[piece] if index % 2 else self._type(piece) for index, piece in enumerate(pieces)]
        line = re.sub(r" +", " ", "".join(typed)).strip()
        if not self._small and line and (self._careful or self._rng.random() < 0.5):
            # A name or a speciality is copied as typed; the small words before it, or a day, begin a sentence.
            if pieces[0] or pieces[1] in ("fecha", "hora") or " " in values.get(pieces[1], ""):
                line = line[0].upper() + line[1:]
        if self._careful and len(line) > 12 and line[-1].isalnum() and self._rng.random() < 0.5:
            line += "."
        if self._rng.random() < 0.05:
            line += " " + "".join(self._rng.choice(_EMOJIS) for _ in range(self._rng.randint(1, 3)))
        return line or text

    def _type(self, piece: str) -> str:
        if self._plain:
            piece = plain(piece)
        if self._bare:
            piece = re.sub(r"[¿¡]", "", piece)
            if self._rng.random() < 0.5:
                piece = re.sub(r"[?!.,;]", "", piece)
        elif not self._careful and self._rng.random() < 0.6:
            piece = re.sub(r"[¿¡]", "", piece)
        if self._small:
            piece = piece.lower()
        if self._loud:
            return piece.upper()
        return re.sub(r"\w+", lambda word: self._word(word[0]), piece)

    def _word(self, word: str) -> str:
        if word.lower() in _SHORT and self._rng.random() < self._short:
            return _SHORT[word.lower()]
        if len(word) > 3 and self._rng.random() < self._slips:
            return self._slip(word)
        if word in ("hola", "gracias", "porfa", "si", "no") and self._rng.random() < 0.06:
            return word + word[-1] * self._rng.randint(1, 5)
        return word

    def _slip(self, word: str) -> str:
        at = self._rng.randrange(1, len(word) - 1)
        kind = self._rng.randrange(4)
        if kind == 0:
            return word[:at] + word[at + 1 :]
        if kind == 1:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        if kind == 2:
            return word[:at] + word[at] + word[at:]
        return word[:at] + _NEIGHBOURS.get(word[at], word[at]) + word[at + 1 :]


def restored(value: str) -> str:
    """A speciality that the clinic knows, with its accents back; any other as typed."""
    known = _known().get(plain(value).lower())
    if known is None:
        return value
    return known[0].upper() + known[1:] if value[0].isupper() else known


def _known() -> dict[str, str]:
    return {plain(name): name for name in words()["especialidades"]}
