"""Who may come in."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

import pytest

from ingress import access
from ingress.app import create_app
from streams.connection import Store
from streams.errors import ConfigurationError
from streams.settings import Secret, Settings
from streams.stores import Stores
from tests.ingress.front import ANA, OPERATOR, RECORDINGS, TOKEN, a_topology, entries, front, secret

ROOT = Path(__file__).parents[2]
CHAT = {"user_id": ANA, "message": "Hola"}
BODY = (RECORDINGS / "01_text.json").read_bytes()
APP_SECRET = "meta-app-secret"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def signed(body: bytes = BODY, key: str = APP_SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": "sha256=" + hmac.new(key.encode(), body, hashlib.sha256).hexdigest()}


OPEN = ["/health/live", "/health/ready"]
SENDERS = [("POST", "/chat"), ("POST", "/whatsapp"), ("POST", f"/chat/{ANA}/messages")]
OPERATORS = [
    ("GET", "/"), ("GET", "/health"), ("GET", "/metrics"), ("GET", "/model/info"), ("GET", f"/chat/history/{ANA}"),
    ("POST", f"/chat/{ANA}/pause"), ("POST", f"/chat/{ANA}/resume"), ("GET", "/redis/test"), ("GET", "/redis/stats"),
    ("GET", "/redis/conversations"), ("DELETE", "/redis/clear"),
]  # fmt: skip


async def test_every_route_asks_for_its_token(store: Store) -> None:
    async with front(store, ingress_tokens=secret("old" * 9, TOKEN), operator_tokens=secret(OPERATOR)) as door:
        for path in OPEN:
            assert (await door.get(path))[0] == 200
        for routes, good in ((SENDERS, (TOKEN, "old" * 9, OPERATOR)), (OPERATORS, (OPERATOR,))):
            for method, path in routes:
                for headers in ({}, bearer("wrong"), bearer(""), {"X-API-Key": "wrong"}, {"Authorization": TOKEN}):
                    status, answer, told = await door.ask(method, path, headers=headers)
                    assert (status, answer["error"], told["www-authenticate"]) == (401, "unauthorized", "Bearer")
                for token in good:
                    for headers in (bearer(token), {"X-API-Key": token}, {"Authorization": f"bearer  {token}"}):
                        assert (await door.ask(method, path, headers=headers))[0] not in (401, 403), (method, path)
        for method, path in OPERATORS:
            status, answer, _ = await door.ask(method, path, headers=bearer(TOKEN))
            assert (status, answer["error"]) == (403, "operator_only")


async def test_without_operator_tokens_the_others_open_everything(store: Store) -> None:
    async with front(store, ingress_tokens=secret(TOKEN)) as door:
        for method, path in OPERATORS:
            assert (await door.ask(method, path))[0] == 401
            assert (await door.ask(method, path, headers=bearer(TOKEN)))[0] not in (401, 403)


async def test_a_token_in_another_alphabet_is_compared_and_not_choked_on(store: Store) -> None:
    async with front(store, ingress_tokens=secret("contraseña-muy-larga-y-secreta")) as door:
        good = "contraseña-muy-larga-y-secreta".encode().decode("latin-1")
        # aiohttp writes headers as UTF-8; curl sends the bytes of the terminal: the same
        assert (await door.post("/chat", CHAT, **bearer("contraseña-muy-larga-y-secreta")))[0] == 202
        assert (await door.post("/chat", CHAT, **bearer(good)))[0] == 401


async def test_meta_s_signature_opens_the_webhook_and_nothing_else(store: Store) -> None:
    how = {"ingress_tokens": secret(TOKEN), "whatsapp_app_secret": Secret(APP_SECRET)}
    async with front(store, **how) as door:
        assert (await door.post("/whatsapp", BODY, **signed()))[0] == 200
        assert (await door.post("/whatsapp", BODY, **bearer(TOKEN)))[0] == 200
        assert (await door.post("/whatsapp", BODY))[0] == 401
        assert (await door.post("/chat", CHAT, **signed()))[0] == 401
        for wrong in (signed(key="other"), signed(BODY + b" "), {"X-Hub-Signature-256": ""}):
            for token in ({}, bearer(TOKEN)):
                status, answer = await door.post("/whatsapp", BODY, **wrong, **token)
                assert (status, answer["error"]) == (401, "bad_signature")
        assert len(await entries(store)) == 1


async def test_with_an_app_secret_alone_the_webhook_wants_the_signature(store: Store) -> None:
    async with front(store, whatsapp_app_secret=Secret(APP_SECRET)) as door:
        assert (await door.post("/whatsapp", BODY))[1]["error"] == "unauthorized"
        # also by the public name of a tunnel, which nothing else is answered by
        assert (await door.post("/whatsapp", BODY, Host="clinic.example.com", **signed()))[0] == 200
        assert (await door.post("/chat", CHAT, Host="clinic.example.com"))[1]["error"] == "foreign_host"


@pytest.mark.parametrize(
    ("host", "error"),
    [
        ("localhost:8000", None),
        ("127.0.0.1", None),
        ("[::1]:8000", None),
        ("host.docker.internal:8000", None),
        ("ingress:8000", None),
        ("evil.example", "foreign_host"),
        ("127.0.0.1.evil.example", "foreign_host"),
        ("[broken", "foreign_host"),
    ],
)
async def test_without_tokens_only_names_of_this_machine_are_answered_by(store: Store, host, error) -> None:
    async with front(store) as door:
        assert (await door.get("/health", Host=host))[1].get("error") == error


async def test_a_browser_on_another_site_cannot_write_here(store: Store) -> None:
    async with front(store) as door:
        here = door.url
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "http://[broken", here + "@evil.example"):
            status, answer = await door.post("/chat", CHAT, Origin=origin)
            assert (status, answer["error"]) == (403, "foreign_origin")
        assert (await door.post("/chat", CHAT, Origin=here))[0] == 202
        assert (await door.get("/health", Origin="https://evil.example"))[0] == 200
        _, _, headers = await door.ask("OPTIONS", "/chat", headers={"Origin": "https://evil.example"})
        assert not [name for name in headers if name.startswith("access-control")]


async def test_meta_s_challenge_is_answered_to_who_knows_the_verify_token(store: Store) -> None:
    query = "/whatsapp?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token="
    async with front(store, ingress_tokens=secret(TOKEN), whatsapp_verify_token=Secret("verify+me")) as door:
        status, text, headers = await door.ask("GET", query + "verify%2Bme")
        assert (status, text) == (200, "1158201444")
        assert headers["content-type"].startswith("text/plain")
        assert (await door.get(query + "wrong"))[1]["error"] == "not_verified"
        assert (await door.get("/whatsapp"))[1]["error"] == "invalid_field"
    async with front(store) as door:
        assert (await door.get(query))[1]["error"] == "not_verified"


EVERYWHERE = "0.0.0.0"  # noqa: S104 - that it is refused is the point


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.168.1.7", "clinic.example"])
def test_without_tokens_nobody_else_s_machine_is_listened_to(store: Store, host) -> None:
    with pytest.raises(ConfigurationError, match=r"cauce secrets >> \.env"):
        create_app(a_topology(), Settings(ingress_host=host), Stores.alone(store))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_without_tokens_this_machine_is(store: Store, host) -> None:
    create_app(a_topology(), Settings(ingress_host=host), Stores.alone(store))


@pytest.mark.parametrize("tokens", [(), ("short",), (TOKEN, "x" * 23), (next(iter(access.PRINTED)),)])
def test_production_does_not_start_with_tokens_that_are_none(store: Store, tokens) -> None:
    told = Settings(environment="production", ingress_tokens=secret(*tokens))
    with pytest.raises(ConfigurationError, match=r"cauce secrets >> \.env") as refused:
        create_app(a_topology(), told, Stores.alone(store))
    assert not any(token in str(refused.value) for token in tokens)


def test_production_starts_with_good_ones_and_has_no_redis_pages(store: Store) -> None:
    settings = Settings(environment="production", ingress_host=EVERYWHERE, ingress_tokens=secret(TOKEN))
    app = create_app(a_topology(), settings, Stores.alone(store))
    assert not [route.path for route in app.routes if route.path.startswith("/redis")]


def test_tokens_that_our_docs_print_are_known_as_such() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*.yaml"), *ROOT.glob("n8n/*.json")]
    shown = set()
    for page in pages:
        for found in re.findall(
            r"(?:INGRESS_TOKENS|OPERATOR_TOKENS|X-API-Key|Bearer)[=: ]+[\"']?([\w.~+/-]{24,})", page.read_text("utf-8")
        ):
            shown.add(found)
    assert shown <= access.PRINTED


async def test_nothing_secret_is_ever_answered(store: Store) -> None:
    how = {
        "ingress_tokens": secret(TOKEN),
        "operator_tokens": secret(OPERATOR),
        "whatsapp_app_secret": Secret(APP_SECRET),
    }
    async with front(store, **how) as door:
        pages, guess = ("/", "/health", "/metrics", "/model/info", "/redis/stats"), bearer("guess-of-mine")
        told = [str(await door.ask("GET", path, headers=bearer(OPERATOR))) for path in pages]
        told += [str(await door.ask("POST", path, headers=guess, data=b"{")) for path in ("/chat", "/whatsapp")]
    assert not any(word in text for text in told for word in (TOKEN, OPERATOR, APP_SECRET, "guess-of-mine"))
