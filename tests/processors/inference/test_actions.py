"""What the person asks for, found in their words."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.inference.actions import Detected, Detector, Words
from streams.errors import ConfigurationError
from streams.tables import Action, Slot

SUNDAY = datetime(2025, 10, 5, 10, 0, tzinfo=UTC).timestamp()
SPECIALITIES = Slot(
    kind="values",
    values={"cardiología": ["cardiólogo", "cardióloga", "corazón"], "pediatría": ["pediatra"]},
)
BOOK = Action(
    name="book",
    patterns=[r"cita (con|en|para) (el |la )?(?P<speciality>\w+)", r"\bcita\b"],
    slots={"speciality": SPECIALITIES, "date": Slot(kind="date"), "time": Slot(kind="time")},
)


def detect(words: str, *actions: Action, said_at: float = SUNDAY, zone: Any = UTC) -> Detected | None:
    return Detector.of(actions or [BOOK]).detect([Words(words, said_at)], zone=zone)


def slots(words: str, *actions: Action) -> dict[str, Any]:
    found = detect(words, *actions)
    assert found is not None
    return found.slots


def test_an_action_is_found_whatever_its_accents_and_capitals() -> None:
    action = Action(name="hours", patterns=["¿?a qué hora"])
    assert detect("A QUE HORA abren", action) == Detected("hours")
    assert detect("¿A qué hora abren?", action) == Detected("hours")
    assert detect("gracias", action) is None


def test_accents_written_as_two_characters_are_accents() -> None:
    assert slots("una cita con el cardio\u0301logo") == {"speciality": "cardiología"}


def test_a_listed_value_is_carried_in_its_canonical_form() -> None:
    for words in ("cita con el cardiólogo", "CITA CON LA CARDIOLOGA", "una cita, es por el corazon"):
        assert slots(words) == {"speciality": "cardiología"}


def test_an_unlisted_value_is_copied_as_it_was_said() -> None:
    assert slots("cita en Podología") == {"speciality": "Podología"}


def test_day_and_time_are_found_anywhere_and_told_from_the_message() -> None:
    assert slots("Necesito una cita en cardiología el martes a las 3 de la tarde") == {
        "speciality": "cardiología",
        "date": "2025-10-07",
        "time": "15:00",
    }
    assert slots("cita el 15 a las 4") == {"date": "2025-10-15", "time": "16:00"}


def test_today_is_the_clinics_day() -> None:
    late = datetime(2025, 10, 6, 2, 30, tzinfo=UTC).timestamp()  # still Sunday in La Paz
    found = detect("una cita mañana", said_at=late, zone=ZoneInfo("America/La_Paz"))
    assert found is not None
    assert found.slots["date"] == "2025-10-06"


def test_a_day_is_told_from_the_message_that_names_it() -> None:
    # Given "tomorrow", said on Sunday, and a question that came the next day; both are answered in one turn
    monday = SUNDAY + 86_400
    found = Detector.of([BOOK]).detect([Words("una cita mañana", SUNDAY), Words("¿hola?", monday)], zone=UTC)
    assert found is not None
    assert found.slots["date"] == "2025-10-06"
    # And what is asked for in two messages is still one thing
    found = Detector.of([BOOK]).detect([Words("una cita", SUNDAY), Words("mañana a las 10", monday)], zone=UTC)
    assert found is not None
    assert found.slots == {"date": "2025-10-07", "time": "10:00"}


def test_a_pattern_that_is_none_is_refused_before_anybody_writes() -> None:
    with pytest.raises(ConfigurationError, match=r"actions.book.patterns = '\(unclosed' is no regular expression"):
        Detector.of([Action(name="book", patterns=["(unclosed"])])
    # What is one before accents are taken away, and none after, is taken as it stands
    assert Detector.of([Action(name="any", patterns=["[¡-ÿ]+"])]).detect([Words("¿qué?", SUNDAY)], zone=UTC)


WORDS = {"thing": "citas?|turnos?", "mine": r"mis?\s+{thing}", "not_wanted": r"\bno\s+quiero\s+"}


def with_words(words: str, pattern: str, vocabulary: dict[str, str]) -> Detected | None:
    detector = Detector.of([Action(name="own", patterns=[pattern])], vocabulary)
    return detector.detect([Words(words, SUNDAY)], zone=UTC)


def test_a_pattern_names_words_of_the_vocabulary() -> None:
    # Alternatives stay within their word, wherever it stands
    assert with_words("mover turnos", r"mover\s+{thing}$", WORDS)
    assert with_words("turnos", r"mover\s+{thing}$", WORDS) is None
    assert with_words("citas turno cita.", r"^({thing}\W){3}$", WORDS)
    assert with_words("quiero ver mis turnos", r"(?<!{not_wanted})ver\s+{mine}", WORDS)
    assert with_words("no quiero ver mis turnos", r"(?<!{not_wanted})ver\s+{mine}", WORDS) is None
    # And accents in it do not matter
    assert with_words("cardiologia", "{heart}", {"heart": "cardiología"})


def test_braces_that_name_nothing_are_what_they_always_were() -> None:
    assert with_words("citaaa", "^cita{2,5}$", WORDS)
    assert with_words("{thing}", r"^\{thing\}$", WORDS)
    assert with_words("cita", r"^\{thing\}$", WORDS) is None
    assert with_words("\\cita", r"^\\{thing}$", WORDS)  # a backslash, and the word
    assert with_words("a", r"^\p{Letter}$", WORDS)


@pytest.mark.parametrize(
    ("pattern", "vocabulary", "why"),
    [
        ("a {thinq} b", WORDS,
         "actions.own.patterns = 'a {thinq} b' names 'thinq', which is no word of [vocabulary]; did you mean 'thing'?"),
        ("{thing}", {}, "names 'thing', which is no word of [vocabulary]; a brace itself is"),
        ("x", {"word": "{wird}"}, "vocabulary.word = '{wird}' names 'wird', which is no word of [vocabulary]; did"),
        ("x", {"one": "a{two}", "two": "b{one}"},
         "vocabulary.two = 'b{one}' has a word that names itself: one → two → one"),
        ("x", {"one": "{one}"}, "vocabulary.one = '{one}' has a word that names itself: one → one"),
        ("{thing}", {"thing": "a)(b"}, "vocabulary.thing = 'a)(b' is no regular expression: "),
        ("x", {"thing": "(a"}, "vocabulary.thing = '(a' is no regular expression: "),
        (r"({any}|\w)+$", {"any": r"\w\w"}, "actions.own.patterns = '({any}|\\\\w)+$' can take for ever"),
    ],
)  # fmt: skip
def test_a_word_that_is_none_is_refused_before_anybody_writes(
    pattern: str, vocabulary: dict[str, str], why: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        with_words("", pattern, vocabulary)


def test_what_no_day_can_be_read_from_is_copied() -> None:
    action = Action(name="move", patterns=[r"mover a (?P<date>.+)"], slots={"date": Slot(kind="date")})
    assert slots("mover a la próxima semana", action) == {"date": "la próxima semana"}
    assert slots("mover a pasado mañana", action) == {"date": "2025-10-07"}


def test_numbers_are_numbers_where_they_can_be_read() -> None:
    action = Action(name="people", patterns=[r"somos (?P<count>[\w,.]+)"], slots={"count": Slot(kind="number")})
    assert slots("somos 4", action) == {"count": 4}
    assert slots("somos tres", action) == {"count": 3}
    assert slots("somos 2,5", action) == {"count": 2.5}
    assert slots("somos muchos", action) == {"count": "muchos"}
    # One that JSON cannot carry as it is stays text
    assert slots("somos nan", action) == {"count": "nan"}
    assert slots(f"somos {'9' * 30}", action) == {"count": "9" * 30}


def test_a_group_that_no_slot_declares_is_text() -> None:
    action = Action(name="name", patterns=[r"me llamo (?P<name>\w+)( (?P<second>\w+))?"])
    assert slots("Me llamo Íñigo", action) == {"name": "Íñigo"}


def test_the_first_action_of_the_file_wins() -> None:
    cancel = Action(name="cancel", patterns=["cancelar"])
    found = detect("cancelar mi cita", cancel, BOOK)
    assert found is not None
    assert found.name == "cancel"


def test_only_the_first_4096_characters_are_searched() -> None:
    assert detect("x" * 4092 + " cita") is None
    assert detect("x" * 4091 + " cita") is not None


def test_a_pattern_that_runs_away_is_stopped_and_the_rest_goes_without() -> None:
    runaway = Action(name="runaway", patterns=[r"(\p{L}|\p{L}\p{L})+$"])
    assert detect("a" * 4000 + "!", runaway) is None


def test_one_of_which_that_can_be_told_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"actions.runaway.patterns = .* can take for ever"):
        Detector.of([Action(name="runaway", patterns=["hola", r"(\w|\w\w)+$"])])


@pytest.mark.parametrize("kind", ["text", "date", "time", "number", "values"])
@given(words=st.text(max_size=60))
def test_nothing_that_anybody_writes_raises(kind: Any, words: str) -> None:
    action = Action(name="any", patterns=[r"(?P<slot>.+)"], slots={"slot": Slot(kind=kind, values={"á": ["b"]})})
    detect(words, action)
