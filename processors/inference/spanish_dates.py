"""
Days as people write them in Spanish when they ask for an appointment.

Reads `el martes`, `pasado mañana`, `15 de octubre`, `15 oct`, `el 15`, `el 5 del próximo mes`, `7/10`, `en dos
semanas`, `de hoy en ocho`, `el lunes de la próxima semana`, `el primer lunes de agosto`, `2025-10-07`.  A day is told
from the day on which it was said, which the caller gives: pure, so that the same message always means the same day.
What it cannot read it leaves alone; it never guesses a day from `la próxima semana`, `martes o jueves`, `los lunes` or
`antes del 15`.
"""

from __future__ import annotations

import re
import unicodedata
from calendar import monthrange
from collections.abc import Callable
from datetime import date, timedelta
from itertools import pairwise
from typing import NamedTuple

import msgspec

from streams.tables import Which

DAYS = {
    "lunes": 0, "lune": 0, "martes": 1, "martez": 1, "miercoles": 2, "miercole": 2, "mircoles": 2, "jueves": 3,
    "juebes": 3, "jueve": 3, "viernes": 4, "biernes": 4, "viernez": 4, "sabado": 5, "savado": 5, "sabdo": 5,
    "domingo": 6, "domigo": 6, "lun": 0, "mie": 2, "jue": 3, "vie": 4, "vier": 4, "sab": 5,
}  # fmt: skip
_MONTHS = {
    "enero": 1, "febrero": 2, "marzo": 3, "abril": 4, "mayo": 5, "junio": 6, "julio": 7, "agosto": 8,
    "septiembre": 9, "setiembre": 9, "septienbre": 9, "octubre": 10, "otubre": 10, "noviembre": 11, "nobiembre": 11,
    "novienbre": 11, "diciembre": 12, "dicienbre": 12, "ene": 1, "feb": 2, "mar": 3, "abr": 4, "may": 5, "jun": 6,
    "jul": 7, "ago": 8, "sept": 9, "sep": 9, "set": 9, "oct": 10, "nov": 11, "dic": 12,
}  # fmt: skip
NUMBERS = {
    "un": 1, "una": 1, "uno": 1, "dos": 2, "tres": 3, "cuatro": 4, "cinco": 5, "seis": 6, "siete": 7, "ocho": 8,
    "nueve": 9, "diez": 10, "once": 11, "doce": 12, "trece": 13, "catorce": 14, "quince": 15, "dieciseis": 16,
    "diecisiete": 17, "dieciocho": 18, "diecinueve": 19, "veinte": 20, "veintiuno": 21, "veintiun": 21,
    "veintidos": 22, "veintitres": 23, "veinticuatro": 24, "veinticinco": 25, "veintiseis": 26, "veintisiete": 27,
    "veintiocho": 28, "veintinueve": 29, "treinta": 30, "treinta y uno": 31, "treinta y cinco": 35, "cuarenta": 40,
    "cuarenta y cinco": 45, "cincuenta": 50, "cincuenta y cinco": 55,
}  # fmt: skip
ANY_NUMBER = "|".join(sorted(NUMBERS, key=len, reverse=True))

EACH_DAY = "|".join(DAYS)
_EACH_MONTH = "|".join(_MONTHS)
_TEN_AND_MORE = "|".join(word for word in ANY_NUMBER.split("|") if 10 <= NUMBERS[word] <= 30) + "|treinta y uno"
_NEXT = "(?:(?:que|q) (?:viene|entra)|proxim[ao]|siguiente|entrante)"
_NEXT_WEEK = rf"(?:(?:la )?(?:proxima|otra|siguiente|entrante) semana|(?:la )?semana {_NEXT})"
_TOMORROW = "(?:manana|mnana|mnna|mnn|manna|mann|maniana)"
_NEXT_MONTH = rf"(?:(?:proximo|otro) mes|mes {_NEXT})"
_WEEKS = {"ocho": 1, "8": 1, "quince": 2, "15": 2}
_EIGHT = rf"(?: en (?P<later>{'|'.join(_WEEKS)})\b(?! (?:min|hora|hs)))?"
"""`de hoy en ocho` is the same day a week on."""

_DAY_WORDS = re.compile(
    # "mañana" is tomorrow, but in "de la mañana", "por la mañana", "el martes de mañana" it is a part of a day
    rf"\b(?:(?P<after>pasado ?{_TOMORROW}|(?<=\bpara )pasado(?! (?:el|la|mes|ano|{EACH_DAY})\b))"
    rf"|(?P<today>hoy|esta (?:{_TOMORROW}|tarde|noche))"
    r"|(?P<eve>anteayer|antier|antes de ayer)|(?P<yesterday>ayer|anoche)"
    rf"|(?<!\bla )(?<!\besta )(?<!\bsolo de )(?<!tarde o de )(?<!tarde y de )"
    rf"{''.join(rf'(?<!{day} de )' for day in DAYS)}(?P<tomorrow>{_TOMORROW})(?! o pasado))\b" + _EIGHT
)
_ISO = re.compile(r"\b(\d{4})-(\d{1,2})-(\d{1,2})\b")
_NUMERIC = re.compile(
    # "9-11 am" and "3-4 días" are no days
    r"(?<![\d:/.-])(?!24/7\b)(\d{1,2})(?:[/-]|\.(?=\d{1,2}\.\d{4}\b))(\d{1,2})(?:[/.-](\d{4}|\d{2}))?(?![\d:/-])"
    r"(?! ?(?:[ap]\.? ?m\b|h\b|hs\b|hrs\b|horas?\b|min|dias?\b|semanas?\b|mes(?:es)?\b|anos?\b))"
)
_OF_MONTH = re.compile(
    rf"\b(?:(?P<digits>\d{{1,2}})(?: ?(?:ro|ero|°|º))?(?: de | d | del mes de | ?[/-] ?| )"
    rf"|(?P<word>primero|{ANY_NUMBER}) de )(?P<month>{_EACH_MONTH})\b\.?"
    r"(?:(?:,? (?:de |del )?|[/-])(?P<year>\d{4})\b)?"
)
_OF_NEXT_MONTH = re.compile(rf"\b(\d{{1,2}}) del {_NEXT_MONTH}\b|\b{_NEXT_MONTH},? el (?:dia )?(\d{{1,2}})\b")
_IN = re.compile(
    rf"\b(?:en|dentro de|de (?:aca|aqui|hoy) (?:a|en)) (\d{{1,3}}|{ANY_NUMBER}) (dias?|semanas?|mes(?:es)?)\b"
)
_WEEKDAY = re.compile(
    rf"\b(?:(?P<before>{_NEXT_WEEK}),? (?:para )?(?:el )?)?"
    rf"(?:(?P<many>los|cada|otro) )?(?:(?P<this>este) )?(?:(?P<gone>pasado) )?(?P<day>{EACH_DAY})\b(?! sub)"
    rf"(?:(?P<after>,? de {_NEXT_WEEK})|(?P<coming> {_NEXT})|(?P<past> pasado\b(?! {_TOMORROW})))?" + _EIGHT
)
_WHICH = {"primer": 0, "1er": 0, "segundo": 1, "2do": 1, "tercer": 2, "3er": 2, "cuarto": 3, "ultimo": -1}
_OF_SOME_MONTH = re.compile(
    rf"\b(?P<which>{'|'.join(_WHICH)}) (?P<day>{EACH_DAY}) del? (?:mes de )?"
    rf"(?:(?P<month>{_EACH_MONTH})\b|(?P<next>{_NEXT_MONTH})|(?P<this>(?:este )?mes\b))"
)
_DAY_OF_MONTH = re.compile(
    # "el viernes 17" is the 17th, whatever the weekday; "el 31 de febrero" is not the 31st of any month
    rf"\b(?:(?:(?:(?:{EACH_DAY}),? (?:el )?(?:dia )?|(?:el|del|al) (?:dia )?|dia )(?P<digits>\d{{1,2}})"
    rf"(?: ?(?:ro|ero|°|º))?)|(?:(?:el|del|al) (?:dia )?)(?P<word>{_TEN_AND_MORE}))(?!\w)"
    r"(?! ?(?:[:.]\d|h\b|hs\b|hrs\b|horas?\b|[ap]\.? ?m\b|/|%)| y (?:media|cuarto|30|45)\b| (?:piso|anos|menos)\b"
    rf"| de(?:l dia|l mediodia| la| (?:{_EACH_MONTH})| (?!este )[a-z]+ de)\b)"
    r"(?P<more> ?(?:,|-| o| u| y| a) ?(?:el )?\d{1,2}\b(?![:.]\d))?"
)

APPOINTMENT = "(?:cita|turno|ficha|consulta|reserva|hora|control)"
_NEAR = 48
"""Characters before a day or a time in which the words lie that bear on it."""
_BETWEEN_ONE = re.compile(r",? ?(?:el )?(?:dia )?")
"""Between two ways to name one day: `mañana martes 7`."""
_BETWEEN_TWO = re.compile(
    r" ?(?:(?:(?P<through>al?|hasta)|,? ?(?:(?P<or>o|u|o si ?no)|y|e|ni)|/|-) ?(?:para |por )?|, ?)"
    r"(?:el |este )?(?:dia )?"
)
_BOUND = re.compile(
    r"\b(?:(?:desde|hasta|antes|despues|partir|menos|excepto|salvo|en (?:vez|lugar)|(?<!que )no(?: para)?|ni)"
    r"(?: del?)?(?: el| la)?(?: dia)?|semana del) ?$"
)
_DENIED = re.compile(r"\bno (?:puedo|podre|podria|voy a poder|podemos)(?: ir| asistir| venir)?(?: el| para el)? ?$")
_DENIED_AFTER = re.compile(
    r",? ?(?:(?:ya )?no (?:puedo|podre|podria|voy|estoy|estare|podemos)\b|\bno[,;]"
    r"|se (?:me|nos) (?:complic|cruz|hace|junt)|(?:al|para (?:el|la)) (?:otr[oa]|siguiente|proxim[oa])\b)"
)
"""`El lunes no puedo`, `del lunes al otro`: what follows a day that is given up."""
_RATHER = re.compile(r"\b(?:mejor|sino|perdon|digo),?(?: para| seria| que sea)?(?: el)? ?$")
_GIVEN = "me (?:toca|tocaba|dieron|pusieron|agendaron|anotaron|citaron)"
_HAVE = f"tengo|tenia|tenemos|(?<!si )es|era|estaba|{_GIVEN}"
_HELD = re.compile(
    rf"\b{APPOINTMENT} (?:del|(?P<of>de|d)) (?:el )?$"
    rf"|\b(?:{_HAVE})(?: (?:una |un |mi )?{APPOINTMENT})?(?: para)?(?: el)? ?$"
)
"""What stands before the day of an appointment that there is: `mi cita del martes, al jueves`."""
_OURS = re.compile(rf"\b(?:mi|el|la|su|tu|es[ea]) {APPOINTMENT} del? (?:dia )?$")
"""`el turno del lunes al miércoles` is to be moved; `una cita del lunes al miércoles` may be on either."""
_TO = re.compile(r"\b(?:(?:para|pa)(?: el)?|pal|al)(?: dia)?(?: de)? ?$")


NOT_ASKED = 3
"""The rank of a day or a time that is named, but not asked for."""


class Found(msgspec.Struct, frozen=True):
    """What was read, and where it stands in the text."""

    value: str
    """`YYYY-MM-DD` or `HH:MM`."""
    span: tuple[int, int]


class _Named(NamedTuple):
    start: int
    end: int
    sure: int
    """The place of its form among `_FORMS`: the less, the surer."""
    day: date | None
    """None where the words name no single day."""


def fold(text: str) -> str:
    """The text without accents and capitals, character by character: a place in it is a place in the original."""
    return "".join(_plain(character) for character in text)


def _plain(character: str) -> str:
    if character.isascii():
        return character.lower()
    base = unicodedata.normalize("NFD", character)[0].lower()
    return base if len(base) == 1 else character


def find_date(text: str, said_on: date, which: Which = "any") -> Found | None:
    """
    The day that a folded text asks for, else the first that it names.

    Args:
        which: `coming`, none that is over; `asked`, only one that is asked for.

    A day said with `mejor`, then one said with `para`, goes before others; that of an appointment that there is, one
    that is over, or on which the person cannot come, is read only where there is no other.  Of two between which the
    person leaves the choice it is neither.
    """
    named = _one_each(text, _all(text, said_on))
    pairs = [(one.start, other.start) for one, other in pairwise(named) if _left_open(text, one, other)]
    left_open = {start for pair in pairs for start in pair}
    clear = [one for one in named if one.day and one.start not in left_open and not _bound(text, one)]
    read = [(_rank(text, one, said_on), one.sure, one.start, one) for one in clear]
    if which == "coming":
        read = [each for each in read if (each[-1].day or said_on) >= said_on]
    elif which == "asked":
        read = [each for each in read if each[0] < NOT_ASKED]
    if not read:
        return None
    best = min(read)[-1]
    return Found(best.day.isoformat(), (best.start, best.end)) if best.day else None


def before(marks: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    """Marks that end where a day or a time begins: `antes del`, `no puedo el`."""
    return marks.search(text, max(0, start - _NEAR), start)


def number(text: str) -> int | None:
    """`7`, `siete`; None for anything else."""
    return int(text) if text.isdecimal() else NUMBERS.get(text)


def _all(text: str, said_on: date) -> list[_Named]:
    """Every day named, in the order of the text; the surer form has the words where two would read them."""
    named, taken = list[_Named](), bytearray(len(text))
    for sure, (pattern, read) in enumerate(_FORMS):
        for match in pattern.finditer(text):
            start, end = match.span()
            if taken.find(1, start, end) >= 0:
                continue
            try:
                day = read(match, said_on)
            except (ValueError, OverflowError):  # a 31st of February, or the year 9999 and a day, is no day
                continue
            named.append(_Named(start, end, sure, day))
            taken[start:end] = b"\1" * (end - start)
    return sorted(named)


def _one_each(text: str, named: list[_Named]) -> list[_Named]:
    """`martes 7 de octubre` is one day, told by its surest form."""
    one: list[_Named] = []
    for each in named:
        same = one and one[-1].sure != each.sure and not text.startswith(("al ", "del "), each.start)
        if same and _BETWEEN_ONE.fullmatch(text, one[-1].end, each.start):
            surest = min(one[-1], each, key=lambda two: two.sure)
            one[-1] = surest._replace(start=one[-1].start, end=each.end)
        else:
            one.append(each)
    return one


def _left_open(text: str, first: _Named, second: _Named) -> bool:
    """`martes o jueves`, `del 15 al 20`; but in `mi cita del martes, el jueves` there is no choice."""
    article = 2 if text.startswith("al ", second.start) else 0
    between = _BETWEEN_TWO.fullmatch(text, first.end, second.start + article)
    if between is not None and before(_OURS, text, first.start + _article(text, first)):
        return between["or"] is not None
    return between is not None and (
        between["through"] is not None
        or between["or"] is not None
        or not (_held(text, first) or before(_DENIED, text, first.start))
    )


def _bound(text: str, named: _Named) -> bool:
    """`antes del 15` and `la semana del 15` are no day."""
    return bool(before(_BOUND, text, named.start + _article(text, named)))


def _article(text: str, named: _Named) -> int:
    """Of `del 15` the article is the day's."""
    return 4 if text.startswith("del ", named.start) else 0


def _held(text: str, named: _Named) -> bool:
    held = before(_HELD, text, named.start + _article(text, named))
    if held is None or not held["of"]:
        return held is not None
    # "una cita de lunes a viernes" and "una cita de hoy en ocho" are asked for
    return not (
        text.startswith(tuple(DAYS), named.start)
        or text.endswith(tuple(f" en {word}" for word in _WEEKS), named.start, named.end)
    )


def _rank(text: str, named: _Named, said_on: date) -> int:
    if (named.day and named.day < said_on) or _DENIED_AFTER.match(text, named.end) or _held(text, named):
        return NOT_ASKED
    for rank, marks in ((NOT_ASKED, _DENIED), (0, _RATHER), (1, _TO)):
        if before(marks, text, named.start):
            return rank
    return 1 if text.startswith("al ", named.start) else 2


def _iso(match: re.Match[str], _said_on: date) -> date:
    return date(int(match[1]), int(match[2]), int(match[3]))


def _of_month(match: re.Match[str], said_on: date) -> date:
    day = 1 if match["word"] == "primero" else number(match["digits"] or match["word"]) or 0
    return _coming(day, _MONTHS[match["month"]], int(match["year"]) if match["year"] else None, said_on)


def _of_next_month(match: re.Match[str], said_on: date) -> date:
    year, month = _months_on(said_on, 1)
    return date(year, month, int(match[1] or match[2]))


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
    days = {"after": 2, "today": 0, "yesterday": -1, "eve": -2, "tomorrow": 1}
    return said_on + timedelta(days=next(days[name] for name in days if match[name])) + _later(match)


def _later(match: re.Match[str]) -> timedelta:
    return timedelta(weeks=_WEEKS.get(match["later"], 0))


def _months_on(said_on: date, count: int) -> tuple[int, int]:
    months = said_on.month - 1 + count
    return said_on.year + months // 12, months % 12 + 1


def _in(match: re.Match[str], said_on: date) -> date:
    count = number(match[1]) or 0
    if match[2].startswith("dia"):
        return said_on + timedelta(days=count)
    if match[2].startswith("semana"):
        return said_on + timedelta(weeks=count)
    year, month = _months_on(said_on, count)
    return date(year, month, min(said_on.day, monthrange(year, month)[1]))


def _weekday(match: re.Match[str], said_on: date) -> date | None:
    if match["many"]:
        return None
    if match["before"] or match["after"]:
        # On a Sunday, and of one, it depends on whether that is the last day of a week or the first.
        sunday = 6 in (said_on.weekday(), DAYS[match["day"]])
        return None if sunday else said_on + timedelta(days=7 - said_on.weekday() + DAYS[match["day"]])
    ahead = (DAYS[match["day"]] - said_on.weekday()) % 7
    if match["past"] or match["gone"]:
        return said_on + timedelta(days=ahead - 7)
    # Said on a Tuesday, "el martes" is the next one; "este martes" is today.
    today = match["this"] and not match["coming"]
    return said_on + timedelta(days=ahead or (0 if today else 7)) + _later(match)


def _of_some_month(match: re.Match[str], said_on: date) -> date | None:
    """`el primer lunes de agosto`."""
    if match["month"]:
        month = _MONTHS[match["month"]]
        months = [(year, month) for year in (said_on.year, said_on.year + 1)]
    else:
        months = [_months_on(said_on, 1 if match["next"] else 0)]
    for year, month in months:
        first, length = monthrange(year, month)
        days = range(1 + (DAYS[match["day"]] - first) % 7, length + 1, 7)
        if (day := date(year, month, days[_WHICH[match["which"]]])) >= said_on:
            return day
    return None


def _day_of_month(match: re.Match[str], said_on: date) -> date | None:
    if match["more"]:
        return None
    day, year, month = number(match["digits"] or match["word"]) or 0, said_on.year, said_on.month
    for _ in range(12):
        if 0 < day <= monthrange(year, month)[1] and date(year, month, day) >= said_on:
            return date(year, month, day)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
    raise ValueError("no such day")


_FORMS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], date], date | None]], ...] = (
    (_ISO, _iso),
    (_OF_MONTH, _of_month),
    (_NUMERIC, _numeric),
    (_OF_NEXT_MONTH, _of_next_month),
    (_OF_SOME_MONTH, _of_some_month),
    (_DAY_WORDS, _day_words),
    (_IN, _in),
    (_DAY_OF_MONTH, _day_of_month),
    (_WEEKDAY, _weekday),
)
