"""
Times of day as people write them in Spanish when they ask for an appointment.

Reads `a las 3 de la tarde`, `15:30`, `15hs`, `tres y media`, `cuarto para las 5`, `mediodía`, and `en dos horas`, told
from the moment of the message, which the caller gives.  What is no one time it leaves alone: `entre 3 y 5`, `a las 10 o
a las 11`, `después de las 4`, `por la tarde`, `cada 8 horas`.
"""

from __future__ import annotations

import re
from datetime import datetime

from processors.inference.spanish_dates import (
    ANY_NUMBER,
    APPOINTMENT,
    EACH_DAY,
    NOT_ASKED,
    NUMBERS,
    Found,
    before,
    number,
)
from streams.tables import Which

_AFTERNOON = range(1, 8)
"""Hours that without a word beside them mean the afternoon: nobody asks a clinic for three in the night."""

_NUMBER = rf"\d{{1,2}}|{ANY_NUMBER}"
_FIVES = "|".join([*(word for word in ANY_NUMBER.split("|") if NUMBERS[word] % 5 == 0), *map(str, range(55, 0, -5))])
_PART = r"(?:manana|mnn|tarde|noche|madrugada)\b"
_HALF_DAY = rf"[ap]\. ?m\b\.?|[ap] ?m\b\.?|(?:de|d|en|por|x|a) ?la {_PART}|del? (?:mediodia|medio dia|dia)\b"
_EARLIER = r"(?:(?<=\bcuarto )|(?<=\bmin )|(?<=\bminutos ))antes"
_CLOCK = re.compile(
    rf"(?:(?:\b(?:un )?(?P<before>cuarto|{_FIVES})(?: min(?:utos)?)? (?:para|pa|{_EARLIER} de) las? )"
    r"|(?P<at>\b(?:(?:a|para|pa|como a|tipo|sobre|hacia) ?las? ?(?:eso de las? )?|a eso de las? "
    r"|tipo (?=[3-9]|1\d|2\d)|de las (?=\d)|a? ?(?:hrs?|hs|horas)\.? (?=\d)))"
    rf"|\b)(?P<hour>{_NUMBER})"
    rf"(?:\s?[:.h]\s?(?P<minute>[0-5]\d)(?!\d)|(?P<glued>[0-5]\d)(?!\d)|(?P<half> ?y media)|(?P<quarter> y cuarto)"
    # "3 y 4 de la tarde" are two hours; minutes are said in fives
    rf"| menos (?P<to>cuarto|{_FIVES})\b| y (?P<past>{_FIVES})\b)?"
    r"(?P<mark>\s?(?:h|hs|hrs|horas))?(?!/|-\d{2}-|(?![ap]\.?\s?m\b)\w)"
    rf"(?:\s?(?P<half_day>{_HALF_DAY}))?(?! (?:personas|hijas|hermanas|ninas|nenas)\b)"
)
_NOON = re.compile(r"\b(?:al |a )?medio ?dia\b")
_BETWEEN = re.compile(
    rf"\b(?:entre|desde|de)(?: las?)? (?:{_NUMBER})(?:[:.]\d\d| y media)? ?(?:am|pm|hs|h)? ?"
    rf"(?:y|a|hasta|-) ?(?:las? )?(?:{_NUMBER})(?:[:.]\d\d| y media)?(?!\w)"
    rf"(?: ?(?:{_HALF_DAY}|hs\b|hrs\b|h\b|horas\b))?"
)
_EITHER = re.compile(r",? ?(?:o|u|-|/) ?(?:a )?")
_THROUGH = re.compile(r" ?(?:a|y|hasta|al) ?")
_BOUND = re.compile(
    r"\b(?:(?:antes|despues|partir|desde|hasta|pasadas|mas tarde|mas temprano)(?: del?)?(?: las?)?|pasado el) ?$"
)
_LASTING = re.compile(
    r"\b(?:en|dentro de|cada|hace|hacen|durante|por|de|unas?|con|son|faltan|tengo|llevo|ultimas|como|x) ?$"
)
_RATHER = re.compile(r"\b(?:mejor|sino|perdon|digo),?(?: para| seria)? ?$")
_DENIED = re.compile(r"\bno (?:puedo|podre|llego|alcanzo)(?: (?:a )?(?:ir|llegar|asistir))? ?$")
_DENIED_AFTER = re.compile(r",? ?(?:pero )?(?:ya )?no (?:puedo|podre|llego|alcanzo|voy)\b")
_HELD = re.compile(
    rf"\b(?:(?:tengo|tenia|tenemos|teniamos)(?: (?:una?|mi|el|la))? {APPOINTMENT}|{APPOINTMENT} (?:es|era|esta|estaba))"
    r"(?: (?!(?:pero|y|que|se|me|lo|quiero|puedo|pued\w+|podr\w+)\b)\w+){0,5} $"
)
_ELSEWHERE = re.compile(r"\b(?:salgo|sale|salimos|entro|entra|entramos|termino|termina)(?: \w+){0,2} $")
"""`Tengo turno el viernes a las 10`, `salgo a las 6`: hours that nobody asks for."""
_MOVE = "(?:pas|cambi|mov|muev|pon|pued|corr|adelant|atras|retras|posterg|program|reprogram|reagend)"
_MOVED = re.compile(rf"\b(?:l[ao]s? (?:\w+ ){{0,2}}?{_MOVE}\w*|{_MOVE}\w*l[ao])\b[^.;?\n]{{0,30}}$")
"""`¿la puedo pasar a las 5?`: the hour to which."""
_TO = re.compile(
    rf"\bto (?:(?:this|next) )?(?:\w+day )?(?:at )?$|\b(?:al|pal|(?:para|pa)(?: el)?)(?: (?:{EACH_DAY}|\d{{1,2}}|))* $"
)
"""`al viernes 4 a las 10`; of the day read before there are blanks."""
_SAID_APART = re.compile(
    # "de mañana al lunes" is of tomorrow, but "el martes de mañana" in the morning
    rf"\b(?:(?:en|por|x|a|de) la|esta|(?:{EACH_DAY}) de) ({_PART})|\b(?:hoy|en|por|x|a|de) (tarde|noche)\b"
)
_LATER = re.compile(
    r"(?<!hora )(?<!mas )\b(?:en|dentro de) (?:(?P<half>media hora)"
    r"|(?:(?P<hours>\d{1,2}|una|dos|tres|cuatro|cinco|seis)"
    r" ?(?:hs?|hrs|horas?)\b(?P<and_half> y media)?)|(?P<minutes>\d{1,3}|diez|quince|veinte|treinta) ?min(?:utos?)?\b)"
)


def find_time(text: str, which: Which = "any") -> Found | None:
    """
    The time of day that a folded text asks for, else the first that it names; a bare number is none.

    Args:
        which: `asked`, only one that is asked for.
    """
    text = _BETWEEN.sub(lambda match: " " * len(match[0]), text)
    apart = {match[1] or match[2] for match in _SAID_APART.finditer(text)}
    part = apart.pop() if len(apart) == 1 else None
    clear = [match for match in _single(text) if not _bound(text, match)]
    clear.sort(key=lambda match: (_rank(text, match), match.start()))
    for match in clear:
        if which == "asked" and _rank(text, match) == NOT_ASKED:
            continue
        if time := _clock(match, part):
            return Found(time, match.span())
    noon = next((match for match in _NOON.finditer(text) if not before(_BOUND, text, match.start())), None)
    return Found("12:00", noon.span()) if noon else None


def later(text: str, said_at: datetime) -> datetime | None:
    """The moment that `en dos horas` names, told from the one at which it was said; None where there is none."""
    if (match := _LATER.search(text)) is None:
        return None
    if match["minutes"]:
        minutes = number(match["minutes"]) or 0
    else:
        minutes = 30 if match["half"] else 60 * (number(match["hours"]) or 0) + (30 if match["and_half"] else 0)
    return datetime.fromtimestamp(said_at.timestamp() + 60 * minutes, said_at.tzinfo)


def _single(text: str) -> list[re.Match[str]]:
    """What is told as a time, without those between which the person leaves the choice."""
    numbers = list(_CLOCK.finditer(text))
    told = [_told(match) for match in numbers]
    for place in range(len(numbers) - 1):
        between = (numbers[place].end(), numbers[place + 1].start())
        either = _EITHER.fullmatch(text, *between) and (_told(numbers[place]) or _told(numbers[place + 1]))
        if either or (_told(numbers[place]) and _THROUGH.fullmatch(text, *between)):
            told[place] = told[place + 1] = False
    return [match for match, is_told in zip(numbers, told, strict=True) if is_told]


def _told(match: re.Match[str]) -> bool:
    return any(match[name] for name in ("at", "before", "minute", "half", "quarter", "mark", "half_day"))


def _bound(text: str, match: re.Match[str]) -> bool:
    """`después de las 4` is no time, nor is `cada 8 horas`."""
    if before(_BOUND, text, match.start()):
        return True
    return not (match["at"] or match["minute"] or match["half_day"]) and bool(before(_LASTING, text, match.start()))


def _rank(text: str, match: re.Match[str]) -> int:
    """First what is said with `mejor`, then with `para`; last `mi cita de las 10` and `no puedo a las 10`."""
    if before(_RATHER, text, match.start()):
        return 0
    at = match["at"] or ""
    if at.startswith("de ") or _DENIED_AFTER.match(text, match.end()):
        return NOT_ASKED
    if any(before(marks, text, match.start()) for marks in (_DENIED, _HELD, _ELSEWHERE)):
        return NOT_ASKED
    towards = at.startswith("pa") or before(_TO, text, match.start()) or before(_MOVED, text, match.start())
    return 1 if towards else 2


def _clock(match: re.Match[str], part: str | None) -> str | None:
    """`part` is the part of the day, where it is said apart from the hour: `por la noche, a las 8`."""
    hour = number(match["hour"])
    if hour is None or hour > 23:
        return None
    hour = _half_day(hour, match["half_day"] or (f"de la {part}" if part else None))
    total = hour * 60 + _past(match) - _to(match["to"] or match["before"])
    return f"{total // 60 % 24:02}:{total % 60:02}"


def _past(match: re.Match[str]) -> int:
    if match["half"]:
        return 30
    if match["quarter"]:
        return 15
    return number(match["minute"] or match["glued"] or match["past"] or "0") or 0


def _to(words: str | None) -> int:
    return 15 if words == "cuarto" else number(words or "0") or 0


def _half_day(hour: int, words: str | None) -> int:
    words = (words or "").replace(".", "").replace(" ", "")
    if not words or words.endswith(("ldia", "edia")):
        return hour + 12 if hour in _AFTERNOON else hour
    if words == "am" or words.endswith(("lamanana", "lamnn", "madrugada")):
        return 0 if hour == 12 else hour
    if words.endswith("noche") and hour == 12:
        return 0
    return hour + 12 if hour < 12 else hour
