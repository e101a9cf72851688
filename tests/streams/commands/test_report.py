"""What is shown of a replay: masked, escaped, and nothing that a terminal or a browser would take for its own."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from clinic import ANA, LUIS, Clinic
from conftest import Server

from streams.commands import lab
from streams.commands.lab import Asked
from streams.commands.report import Form
from streams.connection import Store
from streams.lab import compare
from streams.lab.changes import Changes
from streams.lab.compare import Piece, Said

MARKUP = "<script>alert(1)</script> & [bold]llámame al +59177777777[/bold] \x1b[31m"


@pytest.fixture
def clinic(store: Store, any_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    return Clinic(store, any_server, tmp_path, monkeypatch)


async def shown(clinic: Clinic, capsys: pytest.CaptureFixture[str], **form: object) -> tuple[int, str]:
    """Of a replay in which Ana's reply has changed and Luis's has not."""
    async with clinic.open():
        await clinic.say(ANA, f"una cita {MARKUP}")
        await clinic.say(LUIS, "Hola")
    clinic.handler("return answer(' '.join(said).replace('cita', 'hora'))")
    capsys.readouterr()
    asked = Asked(changes=Changes(handler="mine:handle"))
    status = await lab.replay(clinic.place, asked, Form(**form), anew=True)  # type: ignore[arg-type]
    return status, capsys.readouterr().out


@pytest.mark.slow
async def test_on_a_terminal_what_has_changed_is_a_table(clinic: Clinic, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    status, out = await shown(clinic, capsys)
    assert status == 1
    [row] = [line for line in out.splitlines() if "changed" in line and "hora" in line]
    assert "+591…111" in row
    assert "[bold]llámame al +591…777[/bold]" in row
    assert "2 turns of 2 people replayed through inference with --handler mine:handle" in out
    assert "1 same, 1 changed" in out
    assert "actions: book → none 1×" in out
    assert "\x1b" not in out
    assert ANA not in out


async def test_a_long_reply_is_one_line_cut_at_the_terminals_edge_that_shows_what_has_changed(
    clinic: Clinic, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    long = " ".join(f"pera{n}" for n in range(30)) + " rojo\ny azul " + " ".join(f"uva{n}" for n in range(30))
    async with clinic.open():
        await clinic.say(ANA, long)
        await clinic.say(LUIS, "sí")
    clinic.handler("return answer(' '.join(said).replace('rojo', 'verde').replace('sí', 'no'))")
    changes = Changes(handler="mine:handle")
    capsys.readouterr()
    page = clinic.folder / "report.html"
    await lab.replay(clinic.place, Asked(changes=changes), Form(html=page), anew=True)
    [_, first, second, *_] = lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 100 for line in lines[:3])
    assert re.search(r"\+591…111 +pera0 pera1 .*… +….*pera29 rojo .*… +….*pera29 verde .*… +changed$", first.rstrip())
    assert re.search(r"\+591…222 +sí +sí +no +changed$", second.rstrip())
    # Whole in a page and for machines
    assert page.read_text().count("uva29") == 3
    await lab.replay(clinic.place, Asked(changes=changes), Form(as_json=True), anew=True)
    assert capsys.readouterr().out.count("uva29") >= 3


async def test_of_a_turn_that_failed_the_reason_stands_there_whatever_is_said_beside_its_burial(
    clinic: Clinic, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    async with clinic.open():
        await clinic.say(ANA, "piso segundo")
    clinic.handler("raise Bury('no number: segundo')", buried="lambda turn, why: sorry(turn)")
    sorry = """
def sorry(turn):
    body = Reply(id="reply_" + turn.id, user_id=turn.key, message="Disculpa", created_at="")
    return Effects(outputs=[Output(stream="outbound", type="reply", body=body)])
"""
    with (clinic.folder / "mine.py").open("a") as code:
        code.write(sorry)
    capsys.readouterr()
    page = clinic.folder / "report.html"
    await lab.replay(clinic.place, Asked(changes=Changes(handler="mine:handle")), Form(html=page), anew=True)
    [row] = [line for line in capsys.readouterr().out.splitlines() if "failed" in line and "+591…111" in line]
    for shown in (row, page.read_text()):
        assert "no number: segundo" in shown
        assert "Disculpa" not in shown


async def test_a_page_needs_nothing_else_and_escapes_what_was_said(clinic: Clinic, capsys) -> None:
    page = clinic.folder / "report.html"
    await shown(clinic, capsys, html=page)
    html = page.read_text()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp;" in html
    assert "una <del>cita</del>" in html
    assert "una <ins>hora</ins>" in html
    assert not re.search(r"(src|href)=|url\(|@import|https?:", html)
    assert "77777777" not in html
    assert page.stat().st_mode & 0o777 == 0o600


async def test_in_full_where_that_is_asked_for(clinic: Clinic, capsys) -> None:
    _, out = await shown(clinic, capsys, as_json=True, full=True)
    assert ANA in out
    assert "+59177777777" in out


async def test_no_more_rows_than_asked_for_and_how_many_there_are(clinic: Clinic, capsys) -> None:
    _, out = await shown(clinic, capsys, rows=0)
    assert "… and 1 more" in out


def test_two_texts_beside_each_other_word_by_word() -> None:
    assert compare.words("Hola, ¿qué tal?", "Hola, ¿cómo está?") == [
        Piece("same", "Hola, ¿"), Piece("gone", "qué"), Piece("come", "cómo"), Piece("same", " "),
        Piece("gone", "tal"), Piece("come", "está"), Piece("same", "?"),
    ]  # fmt: skip
    for then, now in (("", ""), ("", "a b"), ("a b", ""), ("a  b", "a b"), ("uno dos", "dos uno")):
        pieces = compare.words(then, now)
        assert "".join(piece.text for piece in pieces if piece.kind != "come") == then
        assert "".join(piece.text for piece in pieces if piece.kind != "gone") == now


def test_what_a_turn_came_to_in_a_word() -> None:
    one, two = Said("outbound", "reply", "Hola"), Said("outbound", "reply", "Hola", "book")
    assert compare.verdict([one], [one]) == compare.verdict([], []) == "same"
    assert compare.verdict([one], [two]) == compare.verdict([one], [one, one]) == "changed"
    assert compare.verdict([], [one]) == "new"
    assert compare.verdict([one], []) == "missing"
    assert compare.verdict([one], [one], "ValueError") == "failed"
    assert compare.verdict([one], [one], "ValueError", buried=True) == "failed"
    assert compare.verdict([one], [two], buried=True) == compare.verdict([], [], buried=True) == "mended"
