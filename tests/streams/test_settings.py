"""The environment and .env."""

from __future__ import annotations

from pathlib import Path

import pytest

from streams import settings
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
        ("RATE_LIMIT_PER_MINUTE", "-1", "RATE_LIMIT_PER_MINUTE = '-1'"),
        ("REDIS_URL", "http://x", "REDIS_URL starts with 'http'"),
        ("TIMEZONE", "America/Nowhere", "TIMEZONE = 'America/Nowhere' is no IANA time zone"),
        ("OUTBOUND_URL", "n8n.local/x", "OUTBOUND_URL is no http:// or https:// address"),
        ("OUTBOUND_HEADER", "secret", "OUTBOUND_HEADER should be 'Name: value'"),
        ("NAMESPACE", "a b", "NAMESPACE = 'a b'"),
        ("LOG_LEVEL", "verbose", "LOG_LEVEL = 'verbose' is not accepted"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(variable: str, text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({variable: text}, "/nowhere/.env")
    assert complaint in str(caught.value)


def test_a_misspelt_setting_in_the_file_is_named_and_another_programs_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("N8N_PORT=5678\n")
    settings.load({}, tmp_path / ".env")
    (tmp_path / ".env").write_text("OUTBOUND_ULR=http://x\n")
    with pytest.raises(ConfigurationError, match="OUTBOUND_ULR is no setting; did you mean 'OUTBOUND_URL'"):
        settings.load({}, tmp_path / ".env")


def test_a_secret_shows_itself_nowhere() -> None:
    found = settings.load(
        {"REDIS_URL": "redis://u:hunter2@h", "INGRESS_TOKENS": "hunter2-a, hunter2-b", "OUTBOUND_SECRET": "hunter2"},
        "/nowhere/.env",
    )
    assert len(found.ingress_tokens) == 2
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found.redis_url)
    assert "hunter2" not in f"{found.outbound_secret}"


@pytest.mark.parametrize("variable", ["OUTBOUND_URL", "OUTBOUND_HEADER"])
def test_a_secret_with_a_mistake_is_not_printed_either(variable: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        settings.load({variable: "hunter2"}, "/nowhere/.env")
    assert "hunter2" not in str(caught.value)
