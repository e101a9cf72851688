"""
compose.yaml, the Dockerfile and the GitHub workflows: what they promise, as far as reading can show it.

Knows no container engine; `docker compose config` runs where there is one, in CI.
"""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]  # its stubs are not worth a dependency

from streams.settings import Settings, load

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("setup", "ingress", "inference", "egress")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def default(value: str) -> str:
    """A value as it is where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def stages() -> dict[str, str]:
    """Every stage of the Dockerfile with its own lines."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def test_it_is_redis_the_three_groups_of_processes_and_n8n() -> None:
    assert set(SERVICES) == {"setup", "redis", "ingress", "inference", "egress", "n8n"}


def test_nothing_has_to_be_set_or_edited() -> None:
    assert not re.findall(r"\$\{\w+[}:?](?!-)", TEXT.replace("$$", "")), "a variable without a default"
    for name in OURS:
        assert all(not file["required"] for file in SERVICES[name]["env_file"]), name


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_read_only_without_rights_and_limited(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    limits = service["deploy"]["resources"]["limits"]
    assert {"memory", "pids"} <= set(limits)
    assert service["logging"]["options"]["max-size"]


def test_no_container_runs_as_root() -> None:
    assert SERVICES["redis"]["user"] == "redis"
    assert SERVICES["n8n"]["user"] == "node"
    for target in ("ingress", "inference"):
        assert re.search(r"^USER 10001:10001$", stages()[target], re.MULTILINE), target
        # Files are copied before the change of user: the process cannot change its own code.
        assert "COPY" not in stages()[target].partition("USER")[2]


def test_everything_that_keeps_running_is_watched() -> None:
    for name, service in SERVICES.items():
        if name != "setup":
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["interval"]
    for name in ("inference", "egress"):
        assert SERVICES[name]["environment"]["WORKER_PORT"] == "9100"
        assert "127.0.0.1:9100/health/ready" in SERVICES[name]["healthcheck"]["test"][-1]
    assert "127.0.0.1:8000/health/ready" in SERVICES["ingress"]["healthcheck"]["test"][-1]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_keeps_everything_it_was_given() -> None:
    command = SERVICES["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"
    assert default(given["--appendfsync"]) == "everysec"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_there_is_time_to_stop_cleanly() -> None:
    for name in ("ingress", "inference", "egress"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings().shutdown_grace


@pytest.mark.parametrize("name", ["ingress", "inference", "egress"])
def test_the_settings_of_every_service_are_accepted(name: str, tmp_path: Path) -> None:
    environment = {key: default(value) for key, value in SERVICES[name]["environment"].items()}
    secrets = tmp_path / "env"
    secrets.write_text(f"INGRESS_TOKENS={'t' * 32}\n")
    settings = load(environment, secrets)
    assert not settings.embedded
    for variable in environment:
        assert variable.lower() in Settings.__struct_fields__, variable
    if name == "ingress":
        assert settings.ingress_host == "0.0.0.0"  # noqa: S104 - a container's own network
    if name == "inference":
        assert settings.model == "demo"
    if name == "egress":
        assert settings.outbound_url
        assert settings.outbound_url.reveal() == "http://n8n:5678/webhook/cauce-out"


def test_secrets_are_there_before_anyone_needs_them() -> None:
    for name in ("ingress", "inference", "egress", "n8n"):
        assert SERVICES[name]["depends_on"]["setup"] == {"condition": "service_completed_successfully"}
    for name in ("ingress", "inference", "egress"):
        assert "secrets:/cauce/secrets:ro" in SERVICES[name]["volumes"]
        assert SERVICES[name]["depends_on"]["redis"] == {"condition": "service_healthy"}
    assert "ln -s /cauce/secrets/env .env" in stages()["base"], "where settings.py looks for them"
    assert not [volume for volume in SERVICES["n8n"]["volumes"] if volume.startswith("secrets:")]


def test_n8n_gets_workflows_that_point_at_the_ingress_and_publishes_those_that_need_no_whatsapp() -> None:
    [script] = SERVICES["n8n"]["command"]
    assert "s#http://127.0.0.1:8000#http://ingress:8000#g" in script
    assert "./n8n:/workflows:ro" in SERVICES["n8n"]["volumes"]
    for name in re.findall(r"cauce-(plain-\w+)", script):
        assert (ROOT / "n8n" / f"{name}.json").exists()
    # A lone $ would be taken by compose itself.
    assert "$" not in script.replace("$$", "")


def test_volumes_are_declared_and_used() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_ingress_image_has_no_torch() -> None:
    assert "torch" not in stages()["build-ingress"] + stages()["ingress"]
    assert "--from=build-ingress" in stages()["ingress"]
    assert {default(SERVICES[name]["image"]) for name in ("setup", "ingress", "egress")} == {"cauce-ingress:local"}
    built = {name: service["build"]["target"] for name, service in SERVICES.items() if "build" in service}
    assert built == {"setup": "ingress", "inference": "inference"}


def test_the_dockerfile_installs_the_projects_own_requirements() -> None:
    def printed(part: str) -> list[str]:
        command = [sys.executable, "deploy/requirements.py", part]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    assert printed("base") == PROJECT["dependencies"]
    [torch] = printed("torch")
    assert re.fullmatch(r"torch==[\d.]+", torch), "one version, so that the index decides about the build alone"
    assert sorted([torch, *printed("inference")]) == sorted(PROJECT["optional-dependencies"]["inference"])
    assert set(re.findall(r"python deploy/requirements\.py (\w+)", DOCKERFILE)) == {"base", "torch", "inference"}


def test_what_the_dockerfile_copies_is_there_and_is_let_through() -> None:
    let_through = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")
    ]
    copied = {
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE)
        for source in line.split()[:-1]
    }
    assert copied == set(let_through)
    assert all((ROOT / source).exists() for source in copied)


def test_the_index_of_torch_has_one_default() -> None:
    [in_compose] = re.findall(r"TORCH_INDEX: \$\{TORCH_INDEX:-([^}]+)\}", TEXT)
    [in_dockerfile] = re.findall(r"^ARG TORCH_INDEX=(\S+)$", DOCKERFILE, re.MULTILINE)
    [on_this_machine] = re.findall(r"^CPU_INDEX=(\S+)$", (ROOT / "deploy" / "venv.sh").read_text(), re.MULTILINE)
    assert in_compose == in_dockerfile == on_this_machine


def first_start(shared: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the one-shot service as its container does, on a folder of ours."""
    for folder in ("secrets", "n8n"):
        (shared / folder).mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "first_start.py"],
        cwd=shared,
        env={"PATH": path, "CAUCE_SHARED": str(shared), **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_the_first_start_makes_secrets_and_the_second_keeps_them(tmp_path: Path) -> None:
    # When it starts twice
    told = first_start(tmp_path).stdout
    made = (tmp_path / "secrets" / "env").read_text()
    first_start(tmp_path)

    # Then the secrets are those of the first time, whole, and for one user only
    secrets = tmp_path / "secrets" / "env"
    assert secrets.read_text() == made
    assert re.findall(r"^(\w+)=", made, re.MULTILINE) == ["INGRESS_TOKENS", "OPERATOR_TOKENS", "OUTBOUND_SECRET"]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o600
    # And n8n has the same ones
    settings = load({}, secrets)
    given = {one["id"]: one["data"] for one in json.loads((tmp_path / "n8n" / "credentials.json").read_text())}
    assert given["cauce-ingress-token"]["value"] == f"Bearer {settings.ingress_tokens[0].reveal()}"
    assert given["cauce-outbound-secret"]["hmacSecret"] == settings.outbound_secret[0].reveal()
    assert "cauce-outbound-key" in given
    # And none of them is in the log
    assert not [value for value in re.findall(r"=(\S+)", made) if value in told]


def test_what_the_user_set_wins_for_n8n_as_for_cauce(tmp_path: Path) -> None:
    first_start(tmp_path, INGRESS_TOKENS="chosen-by-the-user-0123456789")
    [token, *_] = json.loads((tmp_path / "n8n" / "credentials.json").read_text())
    assert token["data"]["value"] == "Bearer chosen-by-the-user-0123456789"


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_a_github_workflow_may_read_and_little_else(file: Path) -> None:
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert job.get("permissions", {}).get("contents", "read") == "read"
        for step in job.get("steps", []):
            # A tag can be moved to other code; a commit cannot.
            assert "uses" not in step or re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", step["uses"]), step
            assert "${{" not in step.get("run", ""), "an expression in a script is a way to inject one"


def test_every_push_is_checked_and_tested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    assert workflow[True]["push"] == {"branches": ["**"]}  # YAML reads the key `on` as true
    steps = [step.get("run") for step in workflow["jobs"]["tests"]["steps"]]
    assert {"make check", "make test"} <= set(steps)
    assert workflow["env"]["CAUCE_REQUIRE_SERVERS"] == "1"


def test_an_image_is_tested_and_scanned_before_it_is_pushed_and_deployed_only_where_a_server_is() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["images"]["needs"] == "tests"
    names = [step.get("name", "") for step in jobs["images"]["steps"]]
    assert names.index("Build") < names.index("Scan") < names.index("Push what was scanned")
    assert jobs["images"]["strategy"]["matrix"]["target"] == ["ingress", "inference"]
    assert "images" in jobs["deploy"]["needs"]
    assert jobs["deploy"]["if"] == "needs.server.outputs.ready == 'true'"


def test_the_licence_is_mit_and_in_the_package() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The Cauce authors\n")
    assert PROJECT["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]
