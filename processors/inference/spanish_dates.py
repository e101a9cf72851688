"""
Days and times as people write them in Spanish when they ask for an appointment.

Reads `el martes`, `pasado mañana`, `15 de octubre`, `el 15`, `7/10`, `en dos semanas`, `2025-10-07`, and `a las 3 de la
tarde`, `15:30`, `tres y media`, `mediodía`.  A day is told from the day on which it was said, which the caller gives:
pure, so that the same message always means the same day.  What it cannot read it leaves alone; it never guesses a day
from `la próxima semana`.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from datetime import date, timedelta

import msgspec

_DAYS = {"lunes": 0, "martes": 1, "miercoles": 2, "jueves": 3, "viernes": 4, "sabado": 5, "domingo": 6}
_MONTHS = {
    "enero": 1, "febrero": 2, "marzo": 3, "abril": 4, "mayo": 5, "junio": 6, "julio": 7, "agosto": 8,
    "septiembre": 9, "setiembre": 9, "octubre": 10, "noviembre": 11, "diciembre": 12,
}  # fmt: skip
_NUMBERS = {
    "un": 1, "una": 1, "uno": 1, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5, "seis": 6, "siete": 7, "ocho": 8,
    "nueve": 9, "diez": 10, "once": 11, "doce": 12, "trece": 13, "catorce": 14, "quince": 15, "dieciseis": 16,
    "diecisiete": 17, "dieciocho": 18, "diecinueve": 19, "veinte": 20, "veintiuno": 21, "veintiun": 21,
    "veintidos": 22, "veintitres": 23, "veinticuatro": 24, "veinticinco": 25, "veintiseis": 26, "veintisiete": 27,
    "veintiocho": 28, "veintinueve": 29, "treinta": 30, "treinta y uno": 31, "treinta y cinco": 35, "cuarenta": 40,
    "cuarenta y cinco": 45, "cincuenta": 50, "cincuenta y cinco": 55,
}  # fmt: skip
_AFTERNOON = range(1, 8)
"""Hours that without a word beside them mean the afternoon: nobody asks a clinic for three in the night."""

_ANY = "|".join(sorted(_NUMBERS, key=len, reverse=True))
_NUMBER = rf"\d{{1,2}}|{_ANY}"
_FIVES = "|".join([*(word for word in _ANY.split("|") if _NUMBERS[word] % 5 == 0), *map(str, range(55, 0, -5))])
_DAY_WORDS = re.compile(
    # "mañana" is tomorrow, but in "de la mañana", "por la mañana" and "esta mañana" it is a part of a day
    r"\b(?:(?P<after>pasado manana)|(?P<today>hoy|esta (?:manana|tarde|noche))|(?P<yesterday>ayer)"
    r"|(?<!\bla )(?<!\besta )(?P<tomorrow>manana))\b"
)
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC = re.compile(r"(?<![\d:/-])(?!24/7\b)(\d{1,2})[/-](\d{1,2})(?:[/-](\d{4}|\d{2}))?(?![\d:/-])")
_OF_MONTH = re.compile(rf"\b(\d{{1,2}}|primero|{_ANY}) de ({'|'.join(_MONTHS)})(?:,? (?:de |del )?(\d{{4}}))?\b")
_IN = re.compile(rf"\b(?:en|dentro de) (\d{{1,3}}|{_ANY}) (dias?|semanas?|mes(?:es)?)\b")
_WEEKDAY = re.compile(
    # "el martes de la próxima semana" may be in two days or in nine, so it is nobody's guess
    rf"\b(?:(?P<this>este) )?(?P<day>{'|'.join(_DAYS)})\b"
    r"(?! de (?:(?:la )?(?:proxima|otra) semana|la semana (?:que viene|que entra|proxima|siguiente)))"
)
_DAY_OF_MONTH = re.compile(
    # "el viernes 17" is the 17th, whatever the weekday; "el 31 de febrero" is not the 31st of any month
    rf"\b(?:(?:(?:{'|'.join(_DAYS)}),? )(?:el )?(?:dia )?|el (?:dia )?)(\d{{1,2}})"
    rf"\b(?! ?(?::|h\b|hs\b|hrs\b|horas\b|am\b|pm\b|/)| de (?:la|{'|'.join(_MONTHS)}|[a-z]+ de)\b)"
)
_CLOCK = re.compile(
    rf"(?:(?P<at>\ba las? (?:eso de las? )?)|\b)(?P<hour>{_NUMBER})"
    rf"(?:\s?[:.h]\s?(?P<minute>[0-5]\d)(?!\d)|(?P<half> y media)|(?P<quarter> y cuarto)|(?P<to> menos cuarto)"
    # "3 y 4 de la tarde" are two hours; minutes are said in fives
    rf"|(?: y (?P<past>{_FIVES})\b))?"
    r"(?P<mark>\s?(?:h|hs|hrs|horas))?(?!/|-|(?![ap]\.?\s?m\b)\w)"
    r"(?:\s?(?P<half_day>a\.?\s?m\b\.?|p\.?\s?m\b\.?|(?:de|en|por) la (?:manana|tarde|noche|madrugada)|del mediodia))?"
)
_NOON = re.compile(r"\b(?:al |a )?mediodia\b")


class Found(msgspec.Struct, frozen=True):
    """What was read, and where it stands in the text."""

    value: str
    """`YYYY-MM-DD` or `HH:MM`."""
    span: tuple[int, int]


def fold(text: str) -> str:
    """The text without accents and capitals, character by character: a place in it is a place in the original."""
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character.lower()
    base = unicodedata.normalize("NFD", character)[0].lower()
    return base if len(base) == 1 else character


def find_date(text: str, said_on: date) -> Found | None:
    """The first day named in a folded text.  The surest forms are tried first."""
    for pattern, read in (
        (_ISO, _iso),
        (_OF_MONTH, _of_month),
        (_NUMERIC, _numeric),
        (_DAY_WORDS, _day_words),
        (_IN, _in),
        (_DAY_OF_MONTH, _day_of_month),
        (_WEEKDAY, _weekday),
    ):
        for match in pattern.finditer(text):
            if (day := _safely(read, match, said_on)) is not None:
                return Found(day.isoformat(), match.span())
    return None


def find_time(text: str) -> Found | None:
    """The first time of day named in a folded text; a bare number is none."""
    for match in _CLOCK.finditer(text):
        if any(match[name] for name in ("at", "minute", "mark", "half_day")) and (time := _clock(match)):
            return Found(time, match.span())
    noon = _NOON.search(text)
    return Found("12:00", noon.span()) if noon else None


def number(text: str) -> int | None:
    """`7`, `siete`; None for anything else."""
    return int(text) if text.isdecimal() else _NUMBERS.get(text)


def _safely(read: object, match: re.Match[str], said_on: date) -> date | None:
    """A 31st of February, or the year 9999 and a day, is no day."""
    try:
        return read(match, said_on)  # type: ignore[operator,no-any-return]
    except (ValueError, OverflowError):
        return None


def _iso(match: re.Match[str], _said_on: date) -> date:
    return date(int(match[1]), int(match[2]), int(match[3]))


def _of_month(match: re.Match[str], said_on: date) -> date:
    day = 1 if match[1] == "primero" else number(match[1]) or 0
    return _coming(day, _MONTHS[match[2]], int(match[3]) if match[3] else None, said_on)


def _numeric(match: re.Match[str], said_on: date) -> date:
    year = int(match[3]) if match[3] else None
    return _coming(int(match[1]), int(match[2]), year + 2000 if year is not None and year < 100 else year, said_on)


def _coming(day: int, month: int, year: int | None, said_on: date) -> date:
    if year is not None:
        return date(year, month, day)
    # A 29 February is looked for until there is one.
    for candidate in range(said_on.year, said_on.year + 9):
        if day <= monthrange(candidate, month)[1] and date(candidate, month, day) >= said_on:
            return date(candidate, month, day)
    raise ValueError("no such day")


def _day_words(match: re.Match[str], said_on: date) -> date:
    days = {"after": 2, "today": 0, "yesterday": -1, "tomorrow": 1}
    return said_on + timedelta(days=days[match.lastgroup or ""])


def _in(match: re.Match[str], said_on: date) -> date:
    count = number(match[1]) or 0
    if match[2].startswith("dia"):
        return said_on + timedelta(days=count)
    if match[2].startswith("semana"):
        return said_on + timedelta(weeks=count)
    months = said_on.month - 1 + count
    year, month = said_on.year + months // 12, months % 12 + 1
    return date(year, month, min(said_on.day, monthrange(year, month)[1]))


def _weekday(match: re.Match[str], said_on: date) -> date:
    ahead = (_DAYS[match["day"]] - said_on.weekday()) % 7
    # Said on a Tuesday, "el martes" is the next one; "este martes" is today.
    return said_on + timedelta(days=ahead or (0 if match["this"] else 7))


def _day_of_month(match: re.Match[str], said_on: date) -> date:
    day, year, month = int(match[1]), said_on.year, said_on.month
    for _ in range(12):
        if day <= monthrange(year, month)[1] and date(year, month, day) >= said_on:
            return date(year, month, day)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    raise ValueError("no such day")


def _clock(match: re.Match[str]) -> str | None:
    hour, minute = number(match["hour"]), 0
    if hour is None or hour > 23:
        return None
    if match["minute"]:
        minute = int(match["minute"])
    elif match["half"]:
        minute = 30
    elif match["quarter"]:
        minute = 15
    elif match["past"]:
        minute = number(match["past"]) or 0
    hour = _half_day(hour, match["half_day"])
    total = hour * 60 + minute - (15 if match["to"] else 0)
    return f"{total // 60 % 24:02}:{total % 60:02}" if minute < 60 else None


def _half_day(hour: int, words: str | None) -> int:
    words = (words or "").replace(".", "").replace(" ", "")
    if not words:
        return hour + 12 if hour in _AFTERNOON else hour
    if words in ("am", "delamanana", "enlamanana", "porlamanana") or words.endswith("madrugada"):
        return 0 if hour == 12 else hour
    if words.endswith("noche") and hour == 12:
        return 0
    return hour + 12 if hour < 12 else hour
