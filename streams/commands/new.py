"""
`cauce new group`: a handler to begin with, its test, and the table that makes it a group.

Writes beside streams.toml, where handlers are imported from, and never over a file that is there.
"""

from __future__ import annotations

import importlib.util
import keyword
import sys
import tomllib
from pathlib import Path

from streams import topology
from streams.errors import ConfigurationError
from streams.topology import Topology, suggest

_STARTERS = Path(__file__).with_name("starters")
_WORDS = {"outbound": "message", "statuses": "status"}
"""Where an entry of these streams has what a handler looks at first; elsewhere it is `text`."""


def group(pipeline: Topology, name: str, *, reads: str, batch: bool, write: bool) -> None:
    """
    Write the files and say what comes next.

    Args:
        write: add the table to streams.toml; else print it.

    Raises:
        ConfigurationError: the name cannot be one, or something of it is there already; nothing was written then.
    """
    config, module = pipeline.path, name.replace("-", "_")
    folder = config.resolve().parent
    if reads not in pipeline.streams:
        raise ConfigurationError(f"{config.name}: there is no stream {reads!r}{suggest(reads, pipeline.streams)}")
    if not topology.NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} is no name; use lower-case letters, digits, - and _, a letter first")
    if name in pipeline.groups:
        raise ConfigurationError(f"{config.name}: there is a group {name!r} already; choose another name")
    _refuse_what_is_there(folder, module)
    table = _table(name, module, reads, batch=batch)
    content = config.read_text(encoding="utf-8-sig")
    content += ("" if content.endswith("\n") or not content else "\n") + ("\n" if content else "") + table
    topology.parse(tomllib.loads(content), config)
    kind = "batch" if batch else "single"
    files = {f"{module}.py": f"{kind}.txt", f"test_{module}.py": f"{kind}_test.txt"}
    for file, starter in files.items():
        text = (_STARTERS / starter).read_text(encoding="utf-8")
        for place, word in (("NAME", name), ("MODULE", module), ("READS", reads), ("FIELD", _WORDS.get(reads, "text"))):
            text = text.replace(f"@{place}@", word)
        with (folder / file).open("x", encoding="utf-8") as new:
            new.write(text)
    if write:
        config.write_text(content, encoding="utf-8")
    _tell(list(files), config, name, module, "" if write else table)


def _refuse_what_is_there(folder: Path, module: str) -> None:
    if keyword.iskeyword(module):
        raise ConfigurationError(f"{module!r} is a word of Python; choose another name")
    for file in (f"{module}.py", f"test_{module}.py"):
        if (folder / file).exists():
            raise ConfigurationError(f"{folder / file} is there already, and stays as it is; choose another name")
    if module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        raise ConfigurationError(f"there is a module {module!r} in Python or installed already; choose another name")


def _table(name: str, module: str, reads: str, *, batch: bool) -> str:
    lines = [f"[groups.{name}]", f'reads = "{reads}"', f'handler = "{module}:handle"']
    if batch:
        lines += ['order = "none"', "batch = 100         # entries in one call at most", "concurrency = 1     # calls"]
    return "\n".join([*lines, '# from = "now"      # else it begins at the start of what the stream still has', ""])


def _tell(files: list[str], config: Path, name: str, module: str, table: str) -> None:
    say = sys.stdout.write
    say(f"wrote {' and '.join(files)}\n")
    say(f"add this to {config.name}:\n\n{table}\n" if table else f"added [groups.{name}] to {config.name}\n")
    say(f"\npython -m unittest test_{module}   # its test\n")
    say("cauce check                      # would it start?\n")
    say("cauce reload                     # `cauce up` starts a worker for it\n")
