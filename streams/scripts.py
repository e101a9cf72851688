"""
Lua scripts as Redis is told of them: their text, and the SHA-1 by which it knows them.

They lie beside the modules that call them.  What several of them need, or one of them has too much of, lies in files of
its own here: `boxes.lua`, `clock.lua`, `erased.lua`, `index.lua`, `metering.lua`, `named.lua`, `slices.lua`,
`superseding.lua`, `tallies.lua`, `utf8.lua`.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec

_WITH = re.compile(r"^-- with (\w+\.lua)$", re.MULTILINE)


class Script(msgspec.Struct, frozen=True):
    """A Lua script and its SHA-1."""

    name: str
    """As metrics and log call it: `take`."""
    text: str
    sha: str


def script(module_file: str, name: str) -> Script:
    """
    The script `name` that lies beside the module: `script(__file__, "take.lua")`.

    In place of a line `-- with boxes.lua` it has the text of that file of streams/.
    """
    text = (Path(module_file).parent / name).read_text(encoding="utf-8")
    text = _WITH.sub(lambda line: Path(__file__).with_name(line[1]).read_text(encoding="utf-8").strip(), text)
    sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis names scripts by SHA-1
    return Script(name=name.removesuffix(".lua"), text=text, sha=sha)
