"""Long replies become parts that end where a reader expects it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from processors.egress.split import split


def test_a_text_that_fits_stays_whole():
    assert split("Hola.\nAdiós.", 12) == ["Hola.\nAdiós."]
    assert split("", 4096) == [""]


def test_a_long_text_is_cut_at_the_last_sentence_that_fits():
    text = "Primera frase. ¿Segunda frase? ¡Tercera frase! Cuarta."
    assert split(text, 31) == ["Primera frase. ¿Segunda frase?", "¡Tercera frase! Cuarta."]


def test_a_line_ends_a_sentence_too():
    assert split("Horario:\nlunes a viernes\nde 8 a 18", 25) == ["Horario:\nlunes a viernes", "de 8 a 18"]


def test_closing_marks_stay_with_their_sentence():
    assert split('Dijo: "Ven." (Y vino.) Fin.', 13) == ['Dijo: "Ven."', "(Y vino.)", "Fin."]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Le atiende hoy el Dr. Rojas Paz", ["Le atiende hoy el Dr.", "Rojas Paz"]),
        ("Hola. Le atiende la Dra. Rojas", ["Hola.", "Le atiende la Dra.", "Rojas"]),
        ("Sí. Hoy a las 3 p. m. en punto", ["Sí.", "Hoy a las 3 p. m. en", "punto"]),
        ("Hay dos.\n1. Ana\n2. Luis", ["Hay dos.\n1. Ana", "2. Luis"]),
    ],
)
def test_a_dot_that_ends_no_sentence_is_not_preferred(text, parts):
    # "Hola." and "Sí." are chosen although a later dot would fit; only where there is no other end is a blank taken.
    assert split(text, 21) == parts


def test_a_sentence_longer_than_a_part_is_cut_between_words():
    assert split("uno dos tres cuatro cinco", 9) == ["uno dos", "tres", "cuatro", "cinco"]


def test_a_word_longer_than_a_part_is_cut_inside():
    assert split("abcdefghij", 4) == ["abcd", "efgh", "ij"]


@pytest.mark.parametrize(
    ("whole", "limit"),
    [("👨‍👩‍👧‍👦", 9), ("🇧🇴", 3), ("👍🏽", 3), ("e\u0301", 3), ("1\ufe0f\u20e3", 5)],
)
def test_what_shows_as_one_character_is_not_cut(whole, limit):
    assert split(whole * 3, limit) == [whole] * 3


def test_thousands_of_dots_take_no_time():
    # A pattern that tries each of them anew would need 10^10 steps here.
    assert "".join(split("." * 100_000, 4096)) == "." * 100_000


def test_a_limit_under_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        split("a", 0)


@settings(max_examples=300)
@given(st.text(alphabet="ab .!?\n…ñ👍🏽\u200d🇧🇴1", max_size=200), st.integers(1, 40))
def test_nothing_but_blanks_is_lost_and_no_part_is_too_long(text, limit):
    parts = split(text, limit)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part) <= limit for part in parts)
    assert all(parts) or not text.strip() or len(text) <= limit
