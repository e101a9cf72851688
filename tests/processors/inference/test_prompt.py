"""Which lines the model gets to read, and which go first where not all fit."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from processors.inference.generation import Line, Refused
from processors.inference.history import Said
from processors.inference.prompt import PromptFile, alternate, compose, fit, system_prompt
from streams.errors import ConfigurationError


def said(role: str, content: str, **metadata: str) -> Said:
    return Said(message_id=content, role=role, content=content, timestamp="2025-10-05T10:00:00", metadata=metadata)  # type: ignore[arg-type]


def words(lines: Sequence[Line]) -> list[int]:
    """An encoder for which a word is a token, and every line costs one more."""
    return [len(word) for line in lines for word in ["|", *line.content.split()]]


def test_what_no_model_said_is_not_read_by_one() -> None:
    before = [said("user", "hola"), said("assistant", "Espera un minuto", source="notice"), said("user", "¿sí?")]
    assert [line.content for line in compose("reglas", before, "cita")] == ["reglas", "hola", "¿sí?", "cita"]


def test_lines_alternate_and_the_system_line_is_one() -> None:
    lines = [Line("system", "a"), Line("user", "b"), Line("user", "c"), Line("system", "d"), Line("assistant", "e"),
             Line("user", "f")]  # fmt: skip
    assert alternate(lines) == [
        Line("system", "a\n\nd"),
        Line("user", "b\nc"),
        Line("assistant", "e"),
        Line("user", "f"),
    ]
    assert alternate(lines, system=False)[0] == Line("user", "a\n\nd\n\nb\nc")


def test_an_assistant_that_may_not_begin_loses_its_opening() -> None:
    lines = [Line("system", "a"), Line("assistant", "hola"), Line("user", "b")]
    assert alternate(lines, opening=False) == [Line("system", "a"), Line("user", "b")]
    assert alternate(lines, system=False) == [Line("assistant", "hola"), Line("user", "a\n\nb")]


def test_the_oldest_whole_turns_go_first() -> None:
    lines = [Line("system", "reglas"), Line("user", "1 1"), Line("assistant", "2 2"), Line("user", "3 3"),
             Line("assistant", "4 4"), Line("user", "5 5")]  # fmt: skip
    assert fit(lines, words, 17) == words(lines)
    assert fit(lines, words, 16) == words([lines[0], *lines[3:]])
    assert fit(lines, words, 11) == words([lines[0], *lines[3:]])
    assert fit(lines, words, 10) == words([lines[0], lines[5]])


def test_what_the_person_says_now_keeps_its_end() -> None:
    lines = [Line("system", "reglas"), Line("user", "x"), Line("user", "uno dos tres cuatro cinco")]
    assert fit(lines, words, 6) == words([Line("system", "reglas"), Line("user", "tres cuatro cinco")])


def test_a_system_prompt_that_leaves_no_room_loses_its_end() -> None:
    lines = [Line("system", "a b c d e f g h i j k l"), Line("user", "uno dos")]
    assert fit(lines, words, 10) == words([Line("system", "a b c"), Line("user", "uno dos")])


def test_no_room_at_all_is_refused() -> None:
    with pytest.raises(Refused):
        fit([Line("user", "hola")], words, 1)


def test_the_shipped_prompt_never_lets_the_model_confirm_an_appointment() -> None:
    assert "Nunca digas que una cita está reservada" in system_prompt(None)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00"])
def test_a_prompt_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "prompt.md"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="SYSTEM_PROMPT_FILE"):
        system_prompt(file)


def test_a_prompt_file_that_has_changed_is_read_again(tmp_path: Path, caplog) -> None:
    file = tmp_path / "prompt.md"
    file.write_text("Eres la recepción.", encoding="utf-8")
    prompt = PromptFile(file, clock=itertools.count(step=2).__next__)
    assert prompt.text() == "Eres la recepción."
    file.write_text("Eres la recepción de la clínica.", encoding="utf-8")
    # Not before it has been the same for two looks: it may just be being written
    assert prompt.text() == "Eres la recepción."
    assert prompt.text() == prompt.text() == "Eres la recepción de la clínica."
    # But at the first look where nobody has touched it for a second
    file.write_text("Eres otra.", encoding="utf-8")
    with pytest.MonkeyPatch.context() as later:
        later.setattr(time, "time_ns", lambda: file.stat().st_ctime_ns + 1_500_000_000)
        assert prompt.text() == "Eres otra."
    file.write_text("Eres la recepción de la clínica.", encoding="utf-8")
    assert [prompt.text() for _ in range(3)][-1] == "Eres la recepción de la clínica."
    # What cannot be read leaves the last one in force, and is said once
    file.write_bytes(b"\xff\xfe\xfd")
    for _ in range(5):
        assert prompt.text() == "Eres la recepción de la clínica."
    assert caplog.text.count("prompt.unreadable") == 1
    file.unlink()
    for _ in range(3):
        assert prompt.text() == "Eres la recepción de la clínica."
    file.write_text("Otra vez.", encoding="utf-8")
    assert [prompt.text() for _ in range(3)][-1] == "Otra vez."
