"""Each story of the archive is told to both databases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from processors.archive import opening
from processors.archive.session import Session
from streams.settings import Secret, Settings

DATABASES = ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)]


@pytest.fixture(params=DATABASES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings that name an empty database."""
    if request.param == "sqlite":
        return Settings(data_dir=tmp_path)
    return Settings(data_dir=tmp_path, database_url=Secret(request.getfixturevalue("postgres").empty()))


@pytest.fixture
def session(place: Settings) -> Iterator[Session]:
    """One with this release's tables."""
    opened = opening.opened(place)
    yield opened
    opened.close()
