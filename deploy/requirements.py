"""
Prints a part of pyproject.toml's requirements, so that it can be installed by itself: in the Dockerfile before the code
changes, in venv.sh where it cannot be had everywhere.

    python deploy/requirements.py base | torch | inference | embedded | archive
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def requirements(part: str, project: dict[str, object]) -> list[str]:
    """
    Args:
        part: `base`; `torch`, alone, because its index is chosen; `inference`, the rest of what the model needs;
            `embedded`, the redis-server in a wheel; or `archive`, what PostgreSQL needs.
    """
    if part == "base":
        return list(project["dependencies"])  # type: ignore[call-overload, no-any-return]
    if part in ("embedded", "archive"):
        return list(project["optional-dependencies"][part])  # type: ignore[index]
    model = project["optional-dependencies"]["inference"]  # type: ignore[index]
    return [line for line in model if line.startswith("torch==") == (part == "torch")]


if __name__ == "__main__":
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    print("\n".join(requirements(sys.argv[1], tomllib.loads(text)["project"])))  # noqa: T201 - its output is its purpose
