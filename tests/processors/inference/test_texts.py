"""Whether a model's output can be sent."""

from __future__ import annotations

import pytest

from processors.inference.texts import degenerate, tidy


@pytest.mark.parametrize("text", ["", "  \n", "...", "¿?", "la la " * 30, "Sí. " * 40, "Hola. " + "ab" * 60])
def test_nothing_and_one_thing_over_and_over_are_degenerate(text: str) -> None:
    assert degenerate(text)


@pytest.mark.parametrize(
    "text", ["Sí", "👍", "1", "jajajajaja", "¿Qué día? ¿Qué hora?", "De 8:00 a 19:00, de 9:00 a 13:00."]
)
def test_short_replies_are_replies(text: str) -> None:
    assert not degenerate(text)


def test_a_reply_that_was_cut_ends_with_its_last_whole_sentence() -> None:
    assert tidy("Claro que sí. ¿Para qué día la qu", cut=True) == "Claro que sí."
    assert tidy("Claro que sí. ¿Para qué día la qu", cut=False) == "Claro que sí. ¿Para qué día la qu"
    assert tidy("Sí. Y ahora una frase muy larga que no se acaba nunca de", cut=True).endswith("de")


def test_half_a_character_and_what_json_or_redis_dislike_are_dropped() -> None:
    assert tidy(" Hola\x00 \ud83d\ufffd", cut=False) == "Hola"


def test_what_a_model_says_to_itself_is_not_sent() -> None:
    assert tidy("<think>\nPide una cita.\n</think>\n\n¡Claro!", cut=False) == "¡Claro!"
    assert degenerate(tidy("<think>\nPide una cita. Entonces", cut=True))
