"""Docs name everything there is, with its default, and nothing that is not."""

from __future__ import annotations

import ast
import re
import tomllib
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sources
from prometheus_client import REGISTRY

from streams import cli, keys, log, metrics, settings, tables, topology
from streams.commands import check

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LEVELS = {"debug", "info", "warning", "error", "exception", "level"}


def rows(text: str) -> dict[str, list[str]]:
    """Rows of all tables whose first cell is code: name → the other cells."""
    found = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) > 1 and (match := re.fullmatch(r"`([^`]+)`", cells[0])):
            assert match[1] not in found, f"{match[1]} has two rows"
            found[match[1]] = cells[1:]
    return found


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """From a heading to the next of any level."""
    assert heading in text, heading
    return re.split(r"\n##+ ", text[text.index(heading) + len(heading) :])[0]


def test_every_setting_has_a_row_with_its_default() -> None:
    table = rows(section(page("configuration.md"), "\n## Environment\n"))
    fields = {field.name.upper(): field.default for field in msgspec.structs.fields(settings.Settings)}
    assert table.keys() == fields.keys()
    for name, default in fields.items():
        shown = f"{default:g}" if isinstance(default, float) else str(default)
        assert table[name][0] == ("–" if default in (None, "", ()) else f"`{shown}`"), name


TABLES = {
    "Before the first table": tables.Placement,
    "[streams.NAME]": tables.Stream, "[groups.NAME]": tables.Group, "[[actions]]": tables.Action,
    "[actions.slots.NAME]": tables.Slot, "[texts]": tables.Texts,
    "[history]": tables.History, "[wait]": tables.Wait, "[handoff]": tables.Handoff, "[users]": tables.Users,
    "[inference]": tables.Inference, "[egress]": tables.Egress, "[dead]": tables.Dead,
    "[journal]": tables.Journal, "[tallies]": tables.Tallies, "[archive]": tables.Archive,
}  # fmt: skip


@pytest.mark.parametrize("heading", TABLES)
def test_every_key_of_streams_toml_has_a_row_with_its_default(heading) -> None:
    shape = TABLES[heading]
    table = rows(section(page("configuration.md"), f"\n### {heading}\n"))
    fields = {field.encode_name: field for field in msgspec.structs.fields(shape)}
    if shape is tables.Group:
        del fields["name"]  # the table's own
    assert table.keys() == fields.keys()
    hints = typing.get_type_hints(shape)
    for name, field in fields.items():
        shown = table[name][0]
        if field.required:
            assert shown == "required", name
        elif field.default is None:
            assert shown == "–", name
        else:
            default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
            told = tomllib.loads(f"told = {shown.strip('`')}")["told"]
            assert topology._convert(told, hints[field.name], name, "docs") == default, name


FREE = ["[vocabulary]"]
"""Tables whose keys are for whoever writes them."""


def test_every_table_of_streams_toml_is_described() -> None:
    placement = set(tables.Placement.__struct_fields__)
    top = {field.encode_name for field in msgspec.structs.fields(tables.File)} - placement
    assert top == {heading.strip("[]").partition(".")[0] for heading in (*TABLES, *FREE) if heading[0] == "["}
    assert all(section(page("configuration.md"), f"\n### {heading}\n").strip() for heading in FREE)


def test_every_key_in_redis_has_its_row() -> None:
    told = rows(page("keys.md"))
    table = {kind.pattern: [kind.type, kind.writer, kind.lifetime, "yes" if kind.personal else "no"]
             for kind in keys.TABLE.values()}  # fmt: skip
    assert told == table


def test_every_server_that_check_calls_tested_has_a_row() -> None:
    tested = {f"{name} {version}" for name, versions in check.TESTED.items() for version in versions}
    assert rows(page("servers.md")).keys() == tested


EVENT = re.compile(r"[a-z_]+\.[a-z_]+")


def said(node: ast.AST) -> list[ast.expr]:
    """Where an event's name may stand: first in a call of a log, or in what is assigned to `event`."""
    if isinstance(node, ast.Call) and node.args:
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        return node.args[:1] if name in LEVELS else []
    if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "event":
        return [inner for inner in ast.walk(node.value) if isinstance(inner, ast.Constant)]
    return []


def events() -> Iterator[tuple[str, str]]:
    """Every event that a source logs, and where."""
    for package in ("ingress", "processors", "streams"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(sources.parsed(path)):
                for name in said(node):
                    event = getattr(name, "value", None)
                    if isinstance(event, str) and EVENT.fullmatch(event):
                        yield event, f"{path.relative_to(ROOT)}:{name.lineno}"


def test_every_log_event_has_a_row_and_every_row_an_event() -> None:
    told, logged = rows(page("logs.md")).keys(), dict(events())
    assert {event: where for event, where in logged.items() if event not in told} == {}
    assert told - logged.keys() == set()


def test_every_event_with_a_text_or_a_rule_of_its_own_is_logged_somewhere() -> None:
    assert (log.TEXTS.keys() | log.EACH_MESSAGE) - dict(events()).keys() == set()


def test_events_of_each_message_are_marked_as_such() -> None:
    marked = {event for event, (level, *_) in rows(page("logs.md")).items() if "*each*" in level}
    assert marked == log.EACH_MESSAGE


def test_every_metric_has_a_row_with_its_labels_and_somebody_counts_it() -> None:
    told = rows(page("metrics.md"))
    suffix = {"counter": "_total"}
    known = {}
    for name, metric in vars(metrics).items():
        if hasattr(metric, "_labelnames") and metric in REGISTRY._collector_to_names:
            known[metric._name + suffix.get(metric._type, "")] = (name, metric)
    assert told.keys() == known.keys()
    sources = "\n".join(path.read_text(encoding="utf-8") for package in ("ingress", "processors", "streams")
                        for path in (ROOT / package).rglob("*.py"))  # fmt: skip
    for shown, (name, metric) in known.items():
        kind, labels = told[shown][:2]
        assert kind == metric._type, shown
        assert set(re.findall(r"`(\w+)`", labels)) == set(metric._labelnames), shown
        counting = rf"\b{name}\.(labels|inc|dec|set|observe|track_inprogress|time)\(|(Count|Times)\(metrics\.{name}\)"
        assert re.search(counting, sources), f"nobody counts {name}"


def commands(command: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield prefix, command
    else:
        for name in inner:
            yield from commands(inner[name], f"{prefix} {name}")


def test_every_command_has_a_row_a_sentence_and_an_example() -> None:
    there = dict(commands(sources.command(cli.app), "cauce"))
    assert rows(page("commands.md")).keys() == there.keys()
    for name, command in there.items():
        assert command.help, name
        assert name in (command.epilog or ""), name


@pytest.mark.parametrize("name", ["README", "docs/n8n"])
def test_the_spanish_page_has_the_same_headings(name) -> None:
    english, spanish = ROOT / f"{name}.md", ROOT / f"{name}.es.md"
    levels = [re.findall(r"^#+(?= )", re.sub(r"```.*?```", "", text.read_text(encoding="utf-8"), flags=re.S), re.M)
              for text in (english, spanish)]  # fmt: skip
    assert levels[0] == levels[1]
    assert levels[0]


def test_links_between_our_pages_lead_somewhere() -> None:
    for path in [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
            if "://" not in target and not target.startswith("mailto:"):
                assert (path.parent / target).exists(), f"{path.relative_to(ROOT)} → {target}"
