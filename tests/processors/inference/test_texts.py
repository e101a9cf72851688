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


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("Assistant: ¡Claro!", "¡Claro!"),
        ("asistente : ¿Para qué día?\nUser: para el martes\nAsistente: Bien.", "¿Para qué día?"),
        ("<|im_start|>assistant\n¡Claro!<|im_end|>\n<|im_start|>user", "¡Claro!"),
        ("Atendemos de 9 a 13.\n\nHuman: ¿y el sábado?", "Atendemos de 9 a 13."),
        ("Sí, mañana.</s> [INST] otra", "Sí, mañana."),
        ("Hola<end_of_turn>", "Hola"),
        ("User: hola\nAssistant: hola", ""),
    ],
)
def test_another_s_part_and_the_template_s_marks_are_not_sent(written: str, said: str) -> None:
    assert tidy(written, cut=False) == said
    assert tidy(written, cut=True) == said, "what stands before another's part is whole"


@pytest.mark.parametrize(
    "text",
    [
        "Sus datos:\nUsuario: ana\nPaciente: Ana López",
        "El asistente: una ayuda.",
        "¿De 8 a 9? Dígame: User: no.",
        "a < b | c > d",
        "<b>Hola</b>",
    ],
)
def test_what_only_looks_like_it_is_sent(text: str) -> None:
    assert tidy(text, cut=False) == text


def test_what_a_model_says_to_itself_is_not_sent() -> None:
    assert tidy("<think>\nPide una cita.\n</think>\n\n¡Claro!", cut=False) == "¡Claro!"
    assert degenerate(tidy("<think>\nPide una cita. Entonces", cut=True))
