"""Log lines: the original's texts, people and secrets masked wherever they hide, nothing of what was said."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import pytest

from streams import log, settings
from streams.masking import Mask

NUMBER = "+59112345678"
WAMID = "wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQzQTdCNjE="
TOKEN = "zebra-token-of-somebody-0123456789"
PASSWORD = "pa/ss@w0rd"


class Lines(io.StringIO):
    """What was logged, line by line."""

    @property
    def lines(self) -> list[str]:
        return self.getvalue().splitlines()

    @property
    def said(self) -> list[str]:
        """Without time, level and logger."""
        return [line.split(": ", 1)[1] for line in self.lines]


@pytest.fixture
def configured() -> Iterator[Callable[..., Lines]]:
    """Configure logging for one test, and put back pytest's own handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def configure(**environ: str) -> Lines:
        lines = Lines()
        environ = {"INGRESS_TOKENS": TOKEN, **environ}
        log.configure(settings.load(environ, "/nowhere/.env"), lines)
        return lines

    yield configure
    root.handlers[:] = handlers
    root.setLevel(level)
    log._Quiet.production = False
    logging.captureWarnings(capture=False)


def test_the_console_prints_the_texts_of_the_original(configured) -> None:
    lines = configured()
    say = log.get("inference")
    conversation = f"conv_{NUMBER}_1728123456"
    say.info("redis.connected", url="redis://localhost:6379/0")
    say.info("service.ready")
    say.info("conversation.created", conversation_id=conversation, user_id=NUMBER)
    say.info("conversation.saved", user_id=NUMBER, messages=5, ttl_s=3600)
    say.info("conversation.recalled", conversation_id=conversation)
    say.info("conversation.ttl_extended", user_id=NUMBER, ttl_s=3600)
    say.info("rate_limit.ok", user_id=NUMBER, count=5, limit=20)
    say.warning("rate_limit.exceeded", user_id=NUMBER, count=21, limit=20)
    say.info("redis.disconnected")
    assert lines.said == [
        "✅ Conectado a Redis: redis://localhost:6379/0",
        "✅ ConversationService inicializado con Redis",
        "📝 Nueva conversación creada en Redis: conv_+591…678_1728123456",
        "💾 Conversación guardada: +591…678 (5 mensajes, TTL=3600s)",
        "📖 Conversación recuperada de Redis: conv_+591…678_1728123456",
        "⏰ TTL extendido: +591…678 -> 3600s",
        "✅ Rate limit OK para +591…678: 5/20",
        "⚠️ Rate limit excedido para +591…678: 21 requests/min",
        "✅ Redis desconectado",
    ]


def test_json_lines_carry_time_level_event_and_fields(configured) -> None:
    lines = configured(LOG_FORMAT="json")
    log.get("egress").warning("turn.parked", turn="1728123456789-0", attempt=2, wait_s=30.5, why="503 from n8n")
    line = json.loads(lines.lines[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "warning", "logger": "egress", "event": "turn.parked",
        "turn": "1728123456789-0", "attempt": 2, "wait_s": 30.5, "why": "503 from n8n",
    }  # fmt: skip


def test_a_field_cannot_take_the_place_of_the_events_name(configured) -> None:
    lines = configured(LOG_FORMAT="json")
    log.get("x").info("real.event", level="fake", time="fake")
    line = json.loads(lines.lines[0])
    assert (line["event"], line["level"]) == ("real.event", "info")


@pytest.mark.parametrize("form", ["console", "json"])
@pytest.mark.parametrize("environment", ["development", "production"])
@pytest.mark.parametrize(
    "hiding_place",
    [
        {"user_id": NUMBER},
        {"user_id": "59112345678"},
        {"user_id": 59112345678},
        {"wa_id": "59112345678"},
        {"conversation_id": f"conv_{NUMBER}_1728123456"},
        {"conversation_id": "conv_59112345678_1728123456"},
        {"redis_key": f"bot2:group:{{3}}:inference:box:{NUMBER}"},
        {"path": "/chat/history/%2B59112345678?x=1"},
        {"path": "/chat/59112345678/pause"},
        {"path": "/chat/591%20123%2045678/pause"},
        {"path": "/chat/tel-59112345678/pause"},
        {"conversation_id": "conv_tel-59112345678_1728123456"},
        {"conversation_id": "conv_Ana (591) 123-45678_1728123456"},
        {"why": f"WRONGTYPE at conversation:{NUMBER}"},
        {"why": "no answer for 59112345678, giving up"},
        {"why": "called +591 123 45678"},
        {"keys": [f"conversation:{NUMBER}", f"rate_limit:{NUMBER}"]},
        {"row": {"key": "59112345678", NUMBER: 1}},
        {"body": f"my number is {NUMBER}"},
        {"id": WAMID},
        {"ids": [WAMID, WAMID]},
        {"why": f"seen {WAMID} before"},
        {"url": f"redis://default:{PASSWORD}@redis.example:12345"},
        {"url": f"redis://:{PASSWORD}@redis.example:12345"},
        {"url": f"redis://o'hara:'{PASSWORD}\"@redis.example:12345"},
        {"url": f"https://ana:{PASSWORD.replace('/', '')}@n8n.example/webhook/x"},
        {"why": f"GET /whatsapp?hub.mode=subscribe&hub.verify_token={PASSWORD}"},
        {"header": f"Bearer {TOKEN}"},
        {"why": f"refused {TOKEN} for a reason"},
        {"why": "whsec_" + "c2VjcmV0" * 4},
    ],
    ids=str,
)
def test_people_and_secrets_are_masked_wherever_they_hide(configured, form, environment, hiding_place) -> None:
    lines = configured(LOG_FORMAT=form, LOG_LEVEL="debug", ENVIRONMENT=environment)
    say = log.get("x")
    say.info("something.happened", **hiding_place)
    say.debug("something.happened", **hiding_place)
    logging.getLogger("uvicorn.access").info("%s", next(iter(hiding_place.values())))
    try:
        raise RuntimeError(*hiding_place.values())
    except RuntimeError:
        say.exception("something.broke")
    text = lines.getvalue()
    digits = re.sub(r"\D", "", re.sub(r"%[0-9A-F]{2}", "", text))
    assert "12345678" not in digits
    assert WAMID[6:] not in text
    assert "pa/ss" not in text
    assert "w0rd" not in text
    assert TOKEN not in text
    assert "c2VjcmV0" not in text


@pytest.mark.parametrize("number", ["591 123-45678", "+591 (12) 345 678", "59112345678", "+59112345678"])
def test_a_field_that_names_a_person_masks_a_number_in_any_notation(number) -> None:
    assert Mask().field("user_id", number) == "+591…678"


@pytest.mark.parametrize(
    ("id", "masked"),
    [
        ("tel-59112345678", "tel-+591…678"),
        ("59112345678-ventas", "+591…678-ventas"),
        ("u59112345678", "u+591…678"),
        ("wa.59112345678", "wa.+591…678"),
        ("Ana (591) 123-45678", "Ana +591…678"),
        ("591_123_45678@lid", "+591…678@lid"),
        ("5511987654321-17", "+551…117"),
        ("20241005-59112345678", "+202…678"),
        ("tel_59112345678", "tel_+591…678"),
        ("US.13491208655302741918", "US.13491208655302741918"),
        ("web-42", "web-42"),
    ],
)
def test_a_number_within_a_person_s_id_is_masked_whatever_stands_beside_it(id, masked) -> None:
    mask = Mask()
    assert mask.field("user_id", id) == masked
    assert mask.text(f"x conv_{id}_1728123456 y") == f"x conv_{masked}_1728123456 y"
    shown = masked if "…" in masked else quote(id)
    assert mask.text(f"GET /chat/{quote(id)}/pause") == f"GET /chat/{shown}/pause"


@pytest.mark.parametrize(
    ("id", "masked"),
    [
        ("59112345678-1728123456", "+591…456"),
        ("5511987654321-17", "+551…117"),
        ("n8n_59112345678_7", "n8n_+591…678_7"),
        (59112345678, "+591…678"),
        ("m1", "m1"),
        ("reply_1728123456789-0", "reply_1728123456789-0"),
        ("reply_1728123456789-0.2", "reply_1728123456789-0.2"),
        ("msg_012345678901234567abcdef", "msg_012345678901234567abcdef"),
        ("made-0123456789abcdef01234567", "made-0123456789abcdef01234567"),
    ],
)
def test_a_message_s_id_that_its_sender_made_of_a_number_is_masked_and_ours_are_not(id, masked) -> None:
    assert Mask().field("message_id", id) == masked


def test_a_wamid_in_a_message_s_id_is_its_hash(configured) -> None:
    assert re.fullmatch(r"wamid…[0-9a-f]{8}", str(Mask().field("message_id", WAMID)))


@pytest.mark.parametrize(
    ("variable", "scheme"), [("REDIS_URL", "redis"), ("OUTBOUND_URL", "https"), ("DATABASE_URL", "postgresql")]
)
@pytest.mark.parametrize("password", ["pa'ss-secret", 'pa"ss-secret', "pa ss-secret", "pa%27ss-secret"])
def test_a_password_with_quotes_or_spaces_is_hidden_in_its_address_and_alone(
    configured, variable, scheme, password
) -> None:
    address = f"{scheme}://us'er:{password}@db.example:1234/0"
    lines = configured(**{variable: address})
    say = log.get("x")
    say.info("redis.connected", url=address)
    say.info("something.happened", why=f"AUTH failed with {password} ({unquote(password)})")
    text = lines.getvalue()
    assert "ss-secret" not in text
    assert "db.example:1234" in text


def test_an_address_without_a_password_stays_readable(configured) -> None:
    lines = configured(REDIS_URL="redis://localhost:6379/0", OUTBOUND_URL="https://n8n.example:5678/webhook/chat")
    log.get("x").info("x.y", a="redis://localhost:6379/0", b="https://n8n.example:5678/webhook/chat")
    assert lines.said == ["x.y a=redis://localhost:6379/0 b=https://n8n.example:5678/webhook/chat"]


@pytest.mark.parametrize(
    "harmless",
    ["conv_web-42_1728123456", "reply_1728123456789-0", "1728123456789-0", "web-42", "US.13491208655302741918", "5/20"],
)
def test_what_is_nobodys_number_stays_readable(harmless) -> None:
    assert Mask().text(harmless) == harmless


def test_one_wamid_has_one_hash_under_one_key_and_another_under_another() -> None:
    first, again, other = Mask(b"key").text(WAMID), Mask(b"key").text(f"x {WAMID}"), Mask(b"other").text(WAMID)
    assert re.fullmatch(r"wamid…[0-9a-f]{8}", first)
    assert again == f"x {first}"
    assert other != first


def test_what_people_write_is_shown_in_development_by_one_event_only(configured) -> None:
    lines = configured()
    say = log.get("egress")
    say.info("reply.shown", user_id=NUMBER, message="¿Para qué día?")
    say.info("delivery.sent", user_id=NUMBER, message="¿Para qué día?")
    assert lines.said == ["💬 +591…678 ← ¿Para qué día?", "delivery.sent user_id=+591…678 message_chars=14"]


def test_production_never_shows_what_people_write(configured) -> None:
    lines = configured(ENVIRONMENT="production", LOG_LEVEL="debug")
    log.get("egress").info("reply.shown", user_id=NUMBER, message="Tengo dolor")
    assert "dolor" not in lines.getvalue()
    assert "message_chars=11" in lines.getvalue()


@pytest.mark.parametrize("form", ["console", "json"])
def test_a_traceback_in_production_leaves_out_what_its_errors_quote(configured, form: str) -> None:
    def fail() -> None:
        try:
            int("tengo diabetes")
        except ValueError as error:
            raise KeyError("tengo diabetes") from error

    for environment, told in (("development", True), ("production", False)):
        lines = configured(ENVIRONMENT=environment, LOG_FORMAT=form)
        try:
            fail()
        except KeyError:
            log.get("g").exception("apology.failed", turn="1-0")
        shown = lines.getvalue()
        assert ("KeyError: 'tengo diabetes'" in shown, "base 10: 'tengo" in shown) == (told, told)
        assert "in fail" in shown
        assert (f"KeyError at {Path(__file__).name}:" in shown, "ValueError at" in shown) == (not told, not told)


def test_lines_about_each_message_are_info_in_development_and_debug_in_production(configured) -> None:
    for environment, shown in (("development", 2), ("production", 1)):
        lines = configured(ENVIRONMENT=environment)
        log.get("inference").info("conversation.saved", user_id=NUMBER, messages=1, ttl_s=1)
        log.get("inference").info("worker.draining", turns=1)
        assert len(lines.lines) == shown


@pytest.mark.parametrize(("level", "shown"), [("info", 52), ("debug", 301)])
def test_lines_about_each_message_are_thinned_where_nobody_could_read_them(
    configured, monkeypatch: pytest.MonkeyPatch, level: str, shown: int
) -> None:
    at = 1000.0
    monkeypatch.setattr("streams.log.time.monotonic", lambda: at)
    lines = configured(LOG_LEVEL=level)
    for _ in range(300):
        log.get("ingress").info("message.accepted")
    log.get("ingress").info("worker.reading")
    assert len(lines.lines) == shown
    assert (lines.said[50] == 'log.thinned most_per_s=50 hint="LOG_LEVEL=debug shows every line"') is (level == "info")
    at += 1
    log.get("ingress").info("message.accepted")
    assert lines.said[-1] == "message.accepted"


def test_the_log_level_is_obeyed(configured) -> None:
    lines = configured(LOG_LEVEL="error")
    log.get("x").warning("not.this")
    log.get("x").error("but.this")
    assert lines.said == ["but.this"]


def test_a_value_cannot_forge_a_line_or_move_the_cursor(configured) -> None:
    lines = configured()
    log.get("x").info("message.refused", why="bad\n12:00:00 info x: forged\x1b[2J")
    assert len(lines.lines) == 1
    assert "\x1b" not in lines.getvalue()


def test_library_records_and_warnings_pass_the_same_formatter(configured) -> None:
    lines = configured(LOG_FORMAT="json")
    logging.getLogger("some.library").warning("lost %s", NUMBER)
    line = json.loads(lines.lines[0])
    assert (line["event"], line["logger"], line["message"]) == ("log", "some.library", "lost +591…678")
