"""
What `cauce check` wants to know of the archive: can it be reached, may tables be made there, and whose are they?

Looks, and changes nothing.
"""

from __future__ import annotations

import os
from typing import Literal

from processors.archive import migrations, opening
from processors.archive.session import Away, Wrong
from streams.errors import ConfigurationError
from streams.masking import bare
from streams.settings import Settings

Verdict = tuple[Literal["good", "warning", "wrong"], str]


def look(settings: Settings) -> Verdict:
    """The verdict, and a sentence that shows no password."""
    place = opening.path(settings)
    if settings.database_url is None and not place.exists():
        return _to_be_made(settings)
    where = str(place) if settings.database_url is None else bare(settings.database_url.reveal())
    try:
        session = opening.connected(settings)
        try:
            session.rights()
            version, ours = migrations.found(session), migrations.newest(session.dialect)
        finally:
            session.close()
    except Away as error:
        return "warning", f"{where} cannot be used now: {error}; what is to be archived waits in Redis until it can"
    except (Wrong, ConfigurationError) as error:
        return "wrong", str(error)
    told = f"schema {version}" if version == ours else f"schema {version}, and a worker will bring it to {ours}"
    return "good", f"{where}, {told if version else 'empty, and a worker will make the tables'}"


def _to_be_made(settings: Settings) -> Verdict:
    folder = settings.data_dir
    if folder.exists() and not os.access(folder, os.W_OK):
        return "wrong", f"no archive.db can be made in DATA_DIR = {folder}, which is not writable; change its rights"
    return "good", f"a worker will make {opening.path(settings)}"
