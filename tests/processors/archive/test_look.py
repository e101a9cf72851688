"""What `cauce check` says of the archive."""

from __future__ import annotations

from pathlib import Path

from bench.ports import free_port
from processors.archive import opening
from processors.archive.look import look
from streams import topology
from streams.commands import check
from streams.settings import Secret, Settings
from tests.pipeline import ROOT
from tests.postgres import PASSWORD, Postgres


def test_one_that_is_there_is_good_before_and_after_its_tables_are_made(place: Settings) -> None:
    verdict, text = look(place)
    assert verdict == "good"
    assert "a worker will make" in text
    assert not opening.path(place).exists()
    opening.opened(place).close()
    assert look(place)[0] == "good"
    assert look(place)[1].endswith("schema 1")
    assert PASSWORD not in text + look(place)[1]


def test_a_newer_schema_is_wrong(place: Settings) -> None:
    session = opening.opened(place)
    session.run("INSERT INTO archive_versions VALUES (?, ?)", (999, "2099"))
    session.close()
    assert look(place)[0] == "wrong"


def test_one_that_cannot_be_reached_is_a_warning(tmp_path: Path) -> None:
    verdict, text = look(
        Settings(data_dir=tmp_path, database_url=Secret(f"postgresql://me:{PASSWORD}@127.0.0.1:{free_port()}/x"))
    )
    assert verdict == "warning"
    assert "waits in Redis" in text
    assert PASSWORD not in text


def test_missing_rights_and_tables_of_somebody_else_are_wrong(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.empty()
    opening.opened(Settings(data_dir=tmp_path, database_url=Secret(url))).close()
    postgres.sql("DROP ROLE IF EXISTS other")
    postgres.sql("CREATE ROLE other LOGIN PASSWORD 'other-other'")
    other = Settings(data_dir=tmp_path, database_url=Secret(postgres.address("cauce", "other", "other-other")))
    verdict, text = look(other)
    assert (verdict, "lacks CREATE on the schema" in text) == ("wrong", True)
    postgres.sql("GRANT CREATE ON SCHEMA public TO other", "cauce")
    verdict, text = look(other)
    assert (verdict, "tables are another user's" in text) == ("wrong", True)
    postgres.empty()
    postgres.sql("DROP ROLE other")


def test_nobody_is_asked_where_nothing_is_archived(tmp_path: Path) -> None:
    shipped = topology.load(ROOT / "streams.toml")
    assert list(check.archive(Settings(data_dir=tmp_path), shipped)) == []
    reading = topology.parse({"history": {"from_archive": True}})
    assert [finding.subject for finding in check.archive(Settings(data_dir=tmp_path), reading)] == ["archive"]
