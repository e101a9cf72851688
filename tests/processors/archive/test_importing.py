"""From SQLite to PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from processors.archive import importing, keeping, opening
from streams.errors import ConfigurationError
from streams.settings import Secret, Settings
from streams.tables import Archive
from tests.postgres import Postgres
from tests.processors.archive.stories import asked, count, replied, said, table, told


def test_an_archive_moves_to_postgresql_whole_and_only_once(postgres: Postgres, tmp_path: Path) -> None:
    lite, real = Settings(data_dir=tmp_path), Settings(data_dir=tmp_path, database_url=Secret(postgres.empty()))
    before = opening.opened(lite)
    for batch in (said("hola", 0, name="Ana", metadata={"a": [1]}), replied("¡hola!", 1), asked("book", 2, "m1"),
                  told(3, "n1", status="confirmed", date="2099-10-07")):  # fmt: skip
        keeping.keep(before, batch, Archive())
    file = opening.path(lite)
    assert importing.total(file) == 4
    steps: list[int] = []
    assert importing.bring(file, real, Archive(), steps.append) == 4
    assert importing.bring(file, real, Archive(), steps.append) == 0
    assert sum(steps) == 8

    after = opening.opened(real)
    for name in ("messages", "replies", "people", "conversations", "appointments", "appointment_events"):
        assert count(after, name) == count(before, name), name
    what = ("status", "requested_by", "confirmed_by", "slots")
    [(*one, slots)], [(*other, lite_slots)] = (table(each, "appointments", *what) for each in (after, before))
    assert one == other == ["confirmed", "m1", "n1"]
    assert keeping._parsed(slots) == keeping._parsed(lite_slots)
    before.close()
    after.close()


def test_what_is_no_archive_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        importing.total(tmp_path / "archive.db")
    (tmp_path / "other.db").write_text("text")
    with pytest.raises(ConfigurationError, match="is no archive of Cauce"):
        importing.total(tmp_path / "other.db")
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
        importing.bring(tmp_path / "x", Settings(data_dir=tmp_path), Archive(), lambda _count: None)
