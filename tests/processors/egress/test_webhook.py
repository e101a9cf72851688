"""The POST: what it carries, and what each answer means.  Receivers are real servers in this process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from standardwebhooks import Webhook as Independent

from processors.egress import webhook
from processors.egress.webhook import shown
from streams.errors import ConfigurationError
from streams.settings import Secret, Settings
from streams.tables import Egress, Seconds
from tests.processors.egress.stories import NOW, OLDER_SECRET, SECRET, reply, settings
from tests.sink import Received, Sink


@asynccontextmanager
async def destination(
    where: Settings, *, patience: float = 10, clock: float = NOW, monotonic: Callable[[], float] | None = None
) -> AsyncIterator[webhook.Webhook]:
    egress = Egress(timeout=Seconds(patience))
    async with webhook.opened(where, egress, clock=lambda: clock, monotonic=monotonic) as opened:
        yield opened


def body(**fields: object) -> webhook.Payload:
    whole = reply(**fields)
    return webhook.payload(whole, [whole.message], 1)


def independent(received: Received) -> dict[str, str]:
    """The headers as the `standardwebhooks` package wants them."""
    return {name: received.headers[name] for name in received.headers if name.startswith("webhook-")}


async def test_the_body_is_flat_compact_json_with_the_contracts_fields_in_order():
    async with Sink() as sink, destination(settings(sink.url)) as to:
        assert (await to.post(body())).kind == "delivered"
        [got] = sink.requests
        assert got.method == "POST"
        assert list(got.json) == [
            "id", "type", "source", "user_id", "wa_id", "name", "message", "action", "slots", "conversation_id",
            "in_reply_to", "created_at", "part", "parts", "metadata",
        ]  # fmt: skip
        assert got.json["part"] == got.json["parts"] == 1
        assert ": " not in got.body
        assert "¡Hola!" in got.body
        assert got.headers["content-type"] == "application/json"
        assert got.headers["user-agent"].startswith("cauce")
        assert got.headers["webhook-id"] == got.json["id"]


async def test_all_three_proofs_verify_while_a_secret_is_being_rotated():
    where = {"outbound_secret": (Secret(SECRET), Secret(OLDER_SECRET)), "outbound_header": Secret("X-Own: a: b ")}
    async with Sink() as sink, destination(settings(sink.url, **where), clock=time.time()) as to:
        await to.post(body(), trace="00-" + "a" * 32 + "-" + "b" * 16 + "-01")
        [got] = sink.requests
        for secret in (SECRET, OLDER_SECRET):
            Independent(secret).verify(got.body, independent(got))
        by_hand = hmac.new(SECRET.encode(), got.raw, hashlib.sha256).hexdigest()
        assert got.headers["x-cauce-signature-256"] == f"sha256={by_hand}"
        assert got.headers["x-own"] == "a: b"
        assert got.headers["traceparent"] == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"


async def test_n8n_can_make_the_standard_signature_from_the_printable_half_of_the_secret():
    async with Sink() as sink, destination(settings(sink.url)) as to:
        await to.post(body())
        [got] = sink.requests
        typed = base64.b64decode(SECRET.removeprefix("whsec_")).decode("ascii")
        signed = f"{got.headers['webhook-id']}.{got.headers['webhook-timestamp']}.{got.body}"
        by_hand = base64.b64encode(hmac.new(typed.encode(), signed.encode(), hashlib.sha256).digest()).decode()
        assert got.headers["webhook-signature"] == f"v1,{by_hand}"


async def test_without_a_secret_there_is_no_signature_but_an_id():
    async with Sink() as sink, destination(settings(sink.url, outbound_secret=())) as to:
        await to.post(body())
        [got] = sink.requests
        assert got.headers["webhook-id"] == "reply_1728123456789-0"
        assert not {"webhook-signature", "x-cauce-signature-256", "traceparent"} & got.headers.keys()


async def test_user_and_password_of_the_address_become_basic_auth():
    async with Sink() as sink:
        address = sink.url.replace("http://", "http://n8n:a%2Fb@")
        async with destination(settings(address)) as to:
            await to.post(body())
        expected = base64.b64encode(b"n8n:a/b").decode()
        assert sink.requests[0].headers["authorization"] == f"Basic {expected}"


async def test_a_receiver_that_echoes_our_request_learns_nothing_to_our_logs():
    async with Sink() as sink:
        address = sink.url.replace("http://", "http://ana:pa55word@") + "/tok-1234567890?key=q1w2e3"
        where = settings(address, outbound_header=Secret("X-Token: Bearer hunter2hunter2"))
        async with destination(where) as to:
            sink.plan(status=400, body=f"{address} {SECRET} Bearer hunter2hunter2 hunter2hunter2 Tengo fiebre")
            outcome = await to.post(body(message="Tengo fiebre"))
    assert outcome.kind == "bury"
    for secret in ("pa55word", "tok-1234567890", "q1w2e3", SECRET, "hunter2", "fiebre"):
        assert secret not in outcome.why + outcome.quoted


@pytest.mark.parametrize(
    ("url", "log"),
    [
        ("http://localhost:5678/webhook/cauce", "http://localhost:5678/webhook/…"),
        ("https://u:p@n8n.example.org/webhook/a/b?token=x#y", "https://n8n.example.org/webhook/…"),
        ("https://hooks.example.org/5b0c7a2e", "https://hooks.example.org/…"),
        ("https://hooks.example.org/?token=x", "https://hooks.example.org/"),
        ("https://hooks.example.org:443", "https://hooks.example.org/"),
    ],
)
def test_an_address_is_logged_without_what_may_be_secret(url, log):
    assert shown(url) == log


async def test_a_connection_closed_while_idle_costs_one_more_post_with_the_same_id():
    async with Sink() as sink, destination(settings(sink.url)) as to:
        # Given two idle connections, of which one turns out to be closed
        sink.plan(delay=0.05, count=2)
        await asyncio.gather(to.post(body()), to.post(body()))
        sink.plan(drop=True)
        assert (await to.post(body())).kind == "delivered"
        # Then it goes over neither of them, for the other may be as old
        first, second, dropped, again = sink.requests
        assert dropped.connection in (first.connection, second.connection)
        assert again.connection not in (first.connection, second.connection)
        assert dropped.headers["webhook-id"] == again.headers["webhook-id"]
        assert dropped.raw == again.raw


async def test_a_receiver_that_always_hangs_up_is_tried_twice_and_no_more():
    async with Sink() as sink, destination(settings(sink.url)) as to:
        sink.plan(drop=True, count=None)
        outcome = await to.post(body())
        assert (outcome.kind, outcome.status) == ("retry", None)
        assert len(sink.requests) == 2


async def test_connections_are_reused_but_not_after_four_idle_seconds():
    now = 1000.0
    async with Sink() as sink, destination(settings(sink.url), monotonic=lambda: now) as to:
        await to.post(body())
        now += 3.9
        await to.post(body())
        now += 4.1
        await to.post(body())
        first, soon, late = sink.requests
        assert first.connection == soon.connection != late.connection


async def test_a_redirect_is_not_followed():
    async with Sink() as sink, Sink() as elsewhere, destination(settings(sink.url)) as to:
        sink.plan(status=307, headers={"Location": elsewhere.url + "/secret-token"}, body="")
        outcome = await to.post(body())
        assert outcome.kind == "bury"
        assert "secret-token" not in outcome.why + outcome.quoted
        assert elsewhere.requests == []


async def test_cookies_are_not_kept():
    async with Sink() as sink, destination(settings(sink.url.replace("127.0.0.1", "localhost"))) as to:
        sink.plan(headers={"Set-Cookie": "session=1; Path=/"})
        await to.post(body())
        await to.post(body())
        assert "cookie" not in sink.requests[1].headers


async def test_a_receiver_that_hangs_is_left_after_the_timeout():
    async with Sink() as sink, destination(settings(sink.url), patience=0.05) as to:
        sink.plan(hang=True)
        outcome = await to.post(body())
        assert (outcome.kind, outcome.status) == ("retry", None)
        assert outcome.why.endswith("in time")


async def test_where_nobody_listens_the_reason_says_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, and not listening
        async with destination(settings(f"http://127.0.0.1:{taken.getsockname()[1]}/webhook/token")) as to:
            outcome = await to.post(body())
    assert (outcome.kind, outcome.status) == ("retry", None)
    assert outcome.why.startswith("cannot connect")
    assert "token" not in outcome.why


@asynccontextmanager
async def raw_server(answer: bytes) -> AsyncIterator[str]:
    """Says these bytes to whoever has sent a request."""

    async def say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(say, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhook/secret-token"


async def test_an_answer_that_is_no_http_is_retried_and_does_not_put_the_address_into_the_reason():
    async with raw_server(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url, destination(settings(url)) as to:
        outcome = await to.post(body())
        assert (outcome.kind, outcome.status) == ("retry", None)
        assert "secret-token" not in outcome.why


async def test_a_200_whose_body_breaks_off_is_delivered():
    answer = b'HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"half":'
    async with raw_server(answer) as url, destination(settings(url)) as to:
        assert (await to.post(body())).kind == "delivered"


async def test_an_answer_without_end_is_left_after_its_first_bytes():
    sent = 0

    async def babble(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while sent < 100_000_000:
                writer.write(b"y" * 100_000)
                sent += 100_000
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/webhook/x"
        async with destination(settings(url)) as to:
            assert (await to.post(body())).quoted == "y" * 200
    assert sent < 20_000_000


async def test_an_https_address_of_a_plain_server_is_a_tls_failure():
    async with Sink() as sink, destination(settings(sink.url.replace("http://", "https://"))) as to:
        outcome = await to.post(body())
        assert outcome.kind == "retry"
        assert outcome.why.startswith("TLS")


@pytest.fixture
def self_signed(tmp_path: Path) -> ssl.SSLContext:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    return tls


async def test_a_certificate_nobody_vouches_for_is_named_as_the_reason(self_signed):
    async with Sink(tls=self_signed) as sink, destination(settings(sink.url)) as to:
        outcome = await to.post(body())
        assert outcome.kind == "retry"
        assert "certificate does not hold: self-signed" in outcome.why.replace("self signed", "self-signed")
        assert sink.requests == []


REFUSED: list[tuple[dict[str, object], str]] = [
    ({"outbound_secret": (Secret("hunter2-plain"),)}, "whsec_"),
    ({"outbound_secret": (Secret(SECRET), Secret("whsec_hunter2%"))}, "base64"),
    ({"outbound_header": Secret("Webhook-Id: hunter2")}, "webhook-id"),
    ({"outbound_header": Secret("Content-Type: hunter2")}, "content-type"),
    ({"outbound_header": Secret("Authorization: hunter2")}, "keep one"),
    ({"outbound_url": Secret("http://hunter2:99999999/")}, "no valid address"),
]


@pytest.mark.parametrize(("wrong", "says"), REFUSED)
async def test_settings_that_cannot_work_are_refused_at_the_start_without_repeating_them(wrong, says):
    url = "https://user:hunter2@n8n.example.org/webhook/x"
    where = {"outbound_url": Secret(url), "outbound_secret": (Secret(SECRET),)} | wrong
    with pytest.raises(ConfigurationError, match=says) as caught:
        async with destination(Settings(**where)):
            pass
    assert "hunter2" not in str(caught.value)
