"""What is measured: Cauce, its peers, and how their processes are started."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "bench" / "peers"
PEERS_BIN = ROOT / ".venv-bench" / "bin"


@dataclass(frozen=True)
class System:
    """One of them."""

    name: str
    processes: dict[str, list[str]]
    """By role, `ingress` first; `{port}`, `{python}`, `{bin}` and `{folder}` are filled in."""
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)
    """More of it; `{redis}`, `{sink}`, `{port}` and `{latency}` are filled in."""
    answers: bool = False
    """Its HTTP answer is the reply; nothing is delivered."""

    @property
    def workers(self) -> list[str]:
        return [role for role in self.processes if role != "ingress"]


OURS = System(
    name="cauce",
    processes={
        "ingress": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "ingress"],
        "inference": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "work", "inference"],
        "egress": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "work", "egress"],
    },
    cwd=ROOT,
    environment={
        "REDIS_URL": "{redis}", "OUTBOUND_URL": "{sink}", "INGRESS_PORT": "{port}", "MODEL": "echo?latency={latency}",
        "DEBOUNCE": "0", "RATE_LIMIT_PER_MINUTE": "1000000", "TIMEZONE": "America/La_Paz",
        "OUTBOUND_SECRET": "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2g=",
    },
)  # fmt: skip


BARE = System(
    name="bare",
    processes={"ingress": ["{own}/python", "-m", "bench.sink", "--port", "{port}"]},
    cwd=ROOT,
    answers=True,
)
"""Nobody but the receiver, which answers 200 at once: what the load generator itself can do, and costs."""


def peers() -> list[System]:
    """Those of bench/peers/peers.toml."""
    told = tomllib.loads((PEERS / "peers.toml").read_text(encoding="utf-8"))
    environment = {"REDIS_URL": "{redis}", "SINK_URL": "{sink}", "PORT": "{port}", "LATENCY": "{latency}"}
    return [
        System(name, each["processes"], PEERS, environment, answers=each.get("answers", False))
        for name, each in told.items()
    ]


def chosen(names: str | None) -> list[System]:
    """Those of these names, with commas between them; all without.  Raises SystemExit: there is no such."""
    known = {system.name: system for system in [BARE, *peers(), OURS]}
    if names is None:
        return list(known.values())
    unknown = set(names.split(",")) - known.keys()
    if unknown:
        raise SystemExit(f"bench: no system {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def ours_as_configured(folder: Path, **changed: Any) -> None:
    """
    The shipped streams.toml with what the comparison needs: no debounce, one reply to each message, 100 at once, and no
    actions, for which peers do not look.
    """
    text = (ROOT / "streams.toml").read_text(encoding="utf-8").partition("# What people ask for.")[0]
    for old, new in {
        "debounce = 2.0 ": "debounce = 0.0 ",
        "turn_max = 50 ": f"turn_max = {changed.get('turn_max', 1)} ",
        "concurrency = 16": "concurrency = 100",
        "concurrency = 64": "concurrency = 100",
        "max_len = 1_000_000 ": "max_len = 10_000_000 ",
    }.items():
        if text.count(old) != 1:
            raise SystemExit(f"bench: streams.toml no longer holds {old!r} once")
        text = text.replace(old, new)
    (folder / "streams.toml").write_text(
        f"shards = {changed.get('shards', 1)}\n{text}\n"
        f"[history]\nmax_messages = {changed.get('max_messages', 20)}\n{changed.get('more', '')}",
        encoding="utf-8",
    )
