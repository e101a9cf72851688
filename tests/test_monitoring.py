"""
What deploy/ says to Prometheus, Grafana and KEDA: readable by them, and about metrics that there are.

promtool is of Debian's package `prometheus`.  No Grafana runs here: its dashboards are held against what their JSON has
to be as far as that goes without one; test_scraped.py puts their questions to a real Prometheus.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]  # its stubs are not worth a dependency
from prometheus_client import REGISTRY

from streams import metrics, topology

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "alerts.yml"
RULES: list[dict[str, Any]] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"][0]["rules"]
STORIES: dict[str, Any] = yaml.safe_load((ROOT / "tests" / "alerts.yml").read_text(encoding="utf-8"))
DASHBOARDS = sorted((DEPLOY / "grafana").glob("*.json"))
KEDA: dict[str, Any] = yaml.safe_load((DEPLOY / "keda.yaml").read_text(encoding="utf-8"))


IN_THE_BACKGROUND = ("processors.archive.", "processors.analytics:")


def tool(name: str) -> str:
    if path := shutil.which(name):
        return path
    if os.environ.get("CAUCE_REQUIRE_SERVERS"):
        pytest.fail(f"{name} is missing, and CAUCE_REQUIRE_SERVERS is set")
    pytest.skip(f"{name} is not installed: apt-get install prometheus")


def promtool(*arguments: str | Path) -> str:
    """What it says, where it finds nothing wrong."""
    done = subprocess.run([tool("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dashboard(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def panels(path: Path) -> Iterator[dict[str, Any]]:
    return (panel for panel in dashboard(path)["panels"] if panel["type"] != "row")


def asked(path: Path) -> Iterator[str]:
    """Every question of a dashboard, as Grafana puts it to Prometheus."""
    for panel in panels(path):
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m")


QUESTIONS = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((path.stem, question) for path in DASHBOARDS for question in asked(path)),
    *((trigger["metadata"]["serverAddress"], trigger["metadata"]["query"]) for trigger in KEDA["spec"]["triggers"]),
]


def series() -> set[str]:
    """Every name under which streams/metrics.py is found in Prometheus."""
    suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {
        metric._name + suffix
        for metric in vars(metrics).values()
        if hasattr(metric, "_labelnames") and metric in REGISTRY._collector_to_names
        for suffix in suffixes[metric._type]
    }


def test_prometheus_takes_its_configuration_as_it_is_shipped() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "config", DEPLOY / "prometheus.yml")


def test_each_alarm_is_raised_when_it_should_be_and_only_then(tmp_path: Path) -> None:
    # Its texts are the templates' business, which `check config` reads; here they would have to be repeated
    for rule in (quiet := yaml.safe_load(ALERTS.read_text(encoding="utf-8")))["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(quiet))
    (tmp_path / "stories.yml").write_text(yaml.safe_dump(STORIES | {"rule_files": ["alerts.yml"]}))
    promtool("test", "rules", tmp_path / "stories.yml")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alarm_says_what_it_means_and_what_to_do_and_is_tried(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    tried = [bool(one["exp_alerts"]) for story in STORIES["tests"] for one in story["alert_rule_test"]
             if one["alertname"] == rule["alert"]]  # fmt: skip
    assert True in tried, "it is never raised"
    if rule["alert"] != "CauceNoWorker":  # whose story holds a second group that raises none
        assert False in tried, "it is never held back"


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alarm_says_where_and_its_runbook_names_a_command(rule: dict[str, Any]) -> None:
    told = " ".join(rule["annotations"].values())
    assert re.search(r"`(cauce|docker compose|redis-cli|top|dmesg)\b[^`]*`", rule["annotations"]["runbook"])
    for by in re.findall(r"\bby \(([a-z, ]+)\)", rule["expr"]):
        for label in set(by.split(", ")) - {"le"}:
            assert f"$labels.{label}" in told, f"it does not say which {label}"


def test_nobody_is_woken_for_a_group_for_which_nobody_waits() -> None:
    shipped = re.sub(r"(?m)^# (?=\[|\w+ = )", "", (ROOT / "streams.toml").read_text(encoding="utf-8"))
    groups = topology.parse(tomllib.loads(shipped)).groups.values()
    waited_for = "|".join(each.name for each in groups if not each.handler.startswith(IN_THE_BACKGROUND))
    assert len(groups) == 9
    named = {name for _, question in QUESTIONS for name in re.findall(r'group[!=]~"([^"]+)"', question)}
    assert named == {waited_for}
    for rule in RULES:
        if "cauce_group_workers" in rule["expr"] or "cauce_group_oldest" in rule["expr"]:
            assert (f'group=~"{waited_for}"' in rule["expr"]) == (rule["labels"]["severity"] == "page")


@pytest.mark.parametrize("where", dict(QUESTIONS))
def test_what_is_asked_for_is_counted(where: str) -> None:
    for question in [each for place, each in QUESTIONS if place == where]:
        named = set(re.findall(r"\bcauce_[a-z_]+", question))
        assert named - series() == set(), question
        assert named or re.search(r"\b(up|ALERTS)\b", question), question


def test_every_question_can_be_read(tmp_path: Path) -> None:
    rules = [{"record": f"question:{number}", "expr": expr} for number, (_, expr) in enumerate(QUESTIONS)]
    (tmp_path / "questions.yml").write_text(yaml.safe_dump({"groups": [{"name": "all", "rules": rules}]}))
    assert f"{len(QUESTIONS)} rules found" in promtool("check", "rules", tmp_path / "questions.yml")


def test_a_question_that_cannot_be_read_would_be_seen(tmp_path: Path) -> None:
    wrong = {"groups": [{"name": "all", "rules": [{"record": "a:b", "expr": "sum(rate(x[5m])"}]}]}
    (tmp_path / "questions.yml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(AssertionError, match="parse"):
        promtool("check", "rules", tmp_path / "questions.yml")
    assert "cauce_group_lags" not in series()


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_laid_out_and_each_panel_says_what_it_shows(path: Path) -> None:
    board = dashboard(path)
    assert board["uid"] == f"cauce-{path.stem}"
    everything = board["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in panels(path):
        assert panel["title"]
        assert panel["description"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in itertools.combinations([panel["gridPos"] for panel in everything], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert beside or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)
    assert all(panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24 for panel in everything)
    assert [variable["type"] for variable in board["templating"]["list"]] == ["datasource"]


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "cauce.yml").read_text())["providers"]
    [source] = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    assert mounted["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    assert mounted["./deploy/grafana"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090"
    assert {path.stem for path in DASHBOARDS} == {"operator", "engineer"}
