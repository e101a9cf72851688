"""The environment and .env."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams import settings
from streams.connection import Store
from streams.errors import ConfigurationError

ORIGINALS = {
    "development": (
        "# .env\nENVIRONMENT=development\nREDIS_URL=redis://localhost:6379/0\nSESSION_EXPIRE_TIME=3600\n",
        3600,
        20,
    ),
    "compose": (
        "# .env\nENVIRONMENT=development\nREDIS_URL=redis://redis:6379/0\nSESSION_EXPIRE_TIME=3600\n",
        3600,
        20,
    ),
    "production": (
        "# .env\nENVIRONMENT=production\nREDIS_URL=redis://default:password@redis-cloud.com:12345\n"
        "SESSION_EXPIRE_TIME=7200  # 2 horas\nRATE_LIMIT_PER_MINUTE=50\n",
        7200,
        50,
    ),
}


@pytest.mark.parametrize("name", ORIGINALS)
def test_the_originals_files_parse_as_written(tmp_path: Path, name: str) -> None:
    text, expire, limit = ORIGINALS[name]
    (tmp_path / ".env").write_text(text)
    found = settings.load({}, tmp_path / ".env")
    assert (found.session_expire_time, found.rate_limit_per_minute) == (expire, limit)
    assert found.production == (name == "production")
    assert found.redis_url is not None
    assert found.redis_url.reveal() in text


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("INGRESS_PORT=1\nMODEL=echo\n")
    found = settings.load({"INGRESS_PORT": "2"}, tmp_path / ".env")
    assert (found.ingress_port, found.model) == (2, "echo")


@pytest.mark.parametrize(
    ("variable", "text", "complaint"),
    [
        ("DEBOUNCE", "soon", "DEBOUNCE = 'soon' should be a number of seconds"),
        ("ENVIRONMENT", "prod", "ENVIRONMENT = 'prod' is not accepted; write one of development, production"),
        ("INGRESS_PORT", "99999", "INGRESS_PORT = '99999' should be a whole number from 0 to 65535"),
        ("INGRESS_WORKERS", "0", "INGRESS_WORKERS = '0' should be a whole number from 1 to 64"),
        ("RATE_LIMIT_PER_MINUTE", "-1", "RATE_LIMIT_PER_MINUTE = '-1'"),
        ("REDIS_URL", "http://x", "REDIS_URL starts with 'http'"),
        ("REDIS_URL", "reds://x", "starts with 'reds'; write redis://, rediss://, unix://, redis+sentinel://"),
        ("REDIS_URL", "embeded", "did you mean 'embedded'?"),
        ("DATABASE_URL", "mysql://x/y", "DATABASE_URL is no postgresql:// address; write postgresql://user:password@"),
        ("DATABASE_URL", "postgresql://me:geheim@db:x/y", "DATABASE_URL is no postgresql:// address"),
        ("DATABASE_URL", "postgresql://me:100%sure@db/y", "write a % in a password as %25"),
        ("REDIS_URL", "redis://localhost:port/0", "REDIS_URL has no port from 1 to 65535"),
        ("REDIS_URL", "redis://localhost:99999/0", "REDIS_URL has no port from 1 to 65535"),
        ("REDIS_URL", "redis://:pa/ss@localhost:6379/0", "in a password are written %2F"),
        ("REDIS_URL", "redis://:12#ss@localhost:6379/0", "in a password are written %2F"),
        ("REDIS_URL", "redis://localhost/messages", "REDIS_URL names no database; write redis://host:6379/0"),
        ("REDIS_URL", "redis://h/0?foo=bar", "REDIS_URL has an option that is not accepted; accepted: db"),
        ("REDIS_URL", "redis://h/0?socket_timeout=abc", "REDIS_URL has an option that is not accepted"),
        ("REDIS_URL", "redis://h/0?protocol=3", "REDIS_URL has an option that is not accepted"),
        ("REDIS_URL", "redis://h/0?ssl_cert_reqs=none", "REDIS_URL has an option that is not accepted"),
        ("REDIS_URL", "redis://h?db=abc", "REDIS_URL has an option that is not accepted"),
        ("REDIS_URL", "rediss://h?ssl_cert_req=none", "did you mean 'ssl_cert_reqs'?"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=maybe", "REDIS_URL has an option that is not accepted"),
        ("REDIS_URL", "unix://redis.sock", "REDIS_URL names no socket; write unix:///path/of/redis.sock"),
        ("TIMEZONE", "America/Nowhere", "TIMEZONE = 'America/Nowhere' is no IANA time zone"),
        ("TIMEZONE", "America/LaPaz", "did you mean 'America/La_Paz'?"),
        ("OUTBOUND_URL", "n8n.local/x", "OUTBOUND_URL is no http:// or https:// address"),
        ("OUTBOUND_URL", "http://n8n.local/a b", "OUTBOUND_URL is no http:// or https:// address"),
        ("OUTBOUND_URL", "http://n8n.local:99999/x", "OUTBOUND_URL is no http:// or https:// address"),
        ("OUTBOUND_URL", "http://:5678/x", "OUTBOUND_URL is no http:// or https:// address"),
        ("OUTBOUND_HEADER", "secret", "OUTBOUND_HEADER should be 'Name: value'"),
        ("OUTBOUND_HEADER", "X Key: secret", "OUTBOUND_HEADER should be 'Name: value'"),
        ("OUTBOUND_SECRET", "short", "OUTBOUND_SECRET cannot be used: a webhook secret starts with whsec_"),
        ("NAMESPACE", "a b", "NAMESPACE = 'a b'"),
        ("LOG_LEVEL", "verbose", "LOG_LEVEL = 'verbose' is not accepted"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(variable: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({variable: text}, "/nowhere/.env")
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("environment: ")


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost", "redis://localhost:6379/0", "redis://default:pa%2Fss%23@h.example:12345/", "redis://[::1]:6379/1",
        "rediss://:p@h:6380/0?ssl_cert_reqs=none", "rediss://h?db=2&ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false",
        "unix:///run/redis.sock", "unix://user:p@/run/redis.sock?db=1",
    ],
)  # fmt: skip
def test_an_address_that_is_accepted_is_one_that_redis_py_takes(url: str) -> None:
    found = settings.load({"REDIS_URL": url}, "/nowhere/.env")
    assert found.redis_url is not None
    Store.open(found.redis_url.reveal()).follower()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://cauce:p%40ss@db.example:5432/cauce?sslmode=require", "postgres:///cauce?host=/run/postgresql",
        "postgresql://one:5432,two:5433/cauce?target_session_attrs=read-write", "postgresql://[::1]:5432/cauce",
    ],
)  # fmt: skip
def test_an_address_of_postgresql_may_be_written_as_libpq_takes_it(url: str) -> None:
    found = settings.load({"DATABASE_URL": url}).database_url
    assert found is not None
    assert found.reveal() == url


def test_a_headers_name_may_be_any_token() -> None:
    found = settings.load({"OUTBOUND_HEADER": "X_Api_Key: abc"}, "/nowhere/.env")
    assert found.outbound_header is not None
    assert found.outbound_header.reveal() == "X_Api_Key: abc"


@pytest.mark.parametrize(
    ("variable", "text"),
    [("TIMEZONE", "Nowhere"), ("NAMESPACE", "a b"), ("REDIS_URL", "h"), ("OUTBOUND_URL", "h"), ("DEBOUNCE", "soon"),
     ("OUTBOUND_HEADER", "h"), ("OUTBOUND_SECRET", "h")],
)  # fmt: skip
def test_a_bad_value_is_said_to_be_where_it_stands(tmp_path: Path, variable: str, text: str) -> None:
    path = tmp_path / ".env"
    path.write_text(f"{variable}={text}\n")
    with pytest.raises(ConfigurationError) as caught:
        settings.load({}, path)
    assert str(caught.value).startswith(f"{path}: {variable} ")


def test_a_misspelt_setting_in_the_file_is_named_and_another_programs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("N8N_PORT=5678\n")
    settings.load({}, tmp_path / ".env")
    (tmp_path / ".env").write_text("OUTBOUND_ULR=http://x\n")
    with pytest.raises(ConfigurationError, match="OUTBOUND_ULR is no setting; did you mean 'OUTBOUND_URL'"):
        settings.load({}, tmp_path / ".env")


@pytest.mark.parametrize(
    "line",
    ["DEBOUNCE", "DEBOUNCE 5", "DEBOUNCE: 5", "DEBOUNCE:5", "export DEBOUNCE", "'DEBOUNCE' 5", 'DEBOUNCE="5'],
)
def test_a_line_that_would_set_nothing_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(f"# ours\n\nMODEL=echo\n\n{line}\nLOG_LEVEL=debug\n")
    with pytest.raises(ConfigurationError, match=r"\.env: line 5 does not set DEBOUNCE; write DEBOUNCE=value"):
        settings.load({}, tmp_path / ".env")


@pytest.mark.parametrize("line", ["DEBOUNSE 5", "DEBOUNSE", "debounce=5", "OUTBOUND-URL=http://x"])
def test_a_misspelt_name_is_one_however_its_line_is_written(tmp_path: Path, line: str) -> None:
    (tmp_path / ".env").write_text(line)
    with pytest.raises(ConfigurationError, match=r"\.env: line 1: .* is no setting; did you mean '(DEBO|OUTBOUND_URL)"):
        settings.load({}, tmp_path / ".env")


def test_lines_of_other_programs_may_be_written_as_they_like(tmp_path: Path, capfd) -> None:
    (tmp_path / ".env").write_text("# DEBOUNCE 5\nN8N_PORT\nN8N: 5\n<<<\nFOO='\nexport PATH=$PATH:/x\nDEBOUNCE=5 # s\n")
    assert settings.load({}, tmp_path / ".env").debounce == 5
    assert capfd.readouterr().err == ""


def test_one_variable_may_stand_in_another(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("HOST=n8n.local\nOUTBOUND_URL=http://${HOST}/x\n")
    url = settings.load({}, tmp_path / ".env").outbound_url
    assert url is not None
    assert url.reveal() == "http://n8n.local/x"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    latin = tmp_path / "latin.env"
    latin.write_bytes("MODEL=echo\n# mañana\n".encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"latin\.env: line 2 is no UTF-8"):
        settings.load({}, latin)
    with pytest.raises(ConfigurationError, match="cannot be read \\(Is a directory\\)"):
        settings.load({}, tmp_path)


def test_a_file_from_notepad_is_read_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MODEL=echo\n", encoding="utf-8-sig")
    assert settings.load({}, tmp_path / ".env").model == "echo"


def test_only_a_file_that_was_asked_for_must_be_there(tmp_path: Path) -> None:
    assert settings.load({}, tmp_path / ".env").model == "demo"
    with pytest.raises(ConfigurationError, match="no such file"):
        settings.load({}, tmp_path / ".env", required=True)


def test_a_near_miss_in_the_environment_is_told_where_nothing_else_is_meant() -> None:
    environ = {"DEBOUNSE": "5", "REDIS_URI": "x", "REDIS_URL": "x", "HOME": "/", "LANG": "C", "N8N_PORT": "1"}
    assert settings.near_misses(environ) == {"DEBOUNSE": "DEBOUNCE"}
    settings.load({"DEBOUNSE": "5"}, "/nowhere/.env")


def test_a_secret_shows_itself_nowhere() -> None:
    found = settings.load(
        {"REDIS_URL": "redis://u:hunter2@h", "INGRESS_TOKENS": "hunter2-a, hunter2-b", "HF_TOKEN": "hunter2"},
        "/nowhere/.env",
    )
    assert len(found.ingress_tokens) == 2
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found.redis_url)
    assert "hunter2" not in f"{found.hf_token}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("OUTBOUND_URL", "hunter2"), ("OUTBOUND_HEADER", "hunter2"), ("OUTBOUND_SECRET", "hunter2"),
        ("OUTBOUND_SECRET", "whsec_hunter2%"), ("REDIS_URL", "hunter2"), ("REDIS_URL", "default:hunter2@host:6379"),
        ("REDIS_URL", "default:hunter2@redis://host"), ("REDIS_URL", "redis://:hunter2#@host:6379"),
        ("REDIS_URL", "redis://:hunter2@host:port"), ("REDIS_URL", "redis://:hunter2@host/0?foo=bar"),
    ],
)  # fmt: skip
def test_a_secret_with_a_mistake_is_not_printed_either(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({variable: text}, "/nowhere/.env")
    assert variable in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("last", ["MODEL=demo", "DEBOUNCE=5", "HF_TOKEN=x", "OUTBOUND_URL=https://h/x"])
def test_a_line_that_was_glued_to_the_last_one_is_told_and_not_shown(tmp_path: Path, last: str) -> None:
    (tmp_path / ".env").write_text(last + "INGRESS_TOKENS=hunter2\n")
    with pytest.raises(ConfigurationError, match="runs on into INGRESS_TOKENS=…; give INGRESS_TOKENS a line") as caught:
        settings.load({}, tmp_path / ".env")
    assert "hunter2" not in str(caught.value)


def test_nor_is_a_secret_of_another_program(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEBOUNCE=5N8N_ENCRYPTION_KEY=hunter2\n")
    with pytest.raises(ConfigurationError, match="DEBOUNCE = '5N8N_ENCRYPTION_KEY=…' should be a number") as caught:
        settings.load({}, tmp_path / ".env")
    assert "hunter2" not in str(caught.value)
