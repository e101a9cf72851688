"""Proofs of origin, checked against the `standardwebhooks` package and against HMAC by hand."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from streams import signature

BODY = '{"message":"¡Hola!"}'.encode()


def now() -> int:
    return int(datetime.now(UTC).timestamp())


def test_a_new_secret_decodes_to_text_that_can_be_typed():
    secrets = {signature.new_secret() for _ in range(50)}
    assert len(secrets) == 50
    for secret in secrets:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        assert key == signature.key_of(secret)
        assert len(key) == 36
        assert key.decode("ascii").isprintable()


def test_the_package_accepts_what_we_sign():
    secret, at = signature.new_secret(), now()
    header = signature.standard([signature.key_of(secret)], "reply_1-0", at, BODY)
    headers = {"webhook-id": "reply_1-0", "webhook-timestamp": str(at), "webhook-signature": header}
    assert Webhook(secret).verify(BODY, headers) == {"message": "¡Hola!"}
    with pytest.raises(WebhookVerificationError):
        Webhook(secret).verify(BODY + b" ", headers)


def test_we_accept_what_the_package_signs():
    secret, at = signature.new_secret(), now()
    header = Webhook(secret).sign("msg_1", datetime.fromtimestamp(at, UTC), BODY.decode())
    keys = [signature.key_of(secret)]
    assert signature.standard_holds(header, keys, "msg_1", str(at), BODY, now=at)
    assert not signature.standard_holds(header, keys, "msg_2", str(at), BODY, now=at)
    assert not signature.standard_holds(header, keys, "msg_1", str(at), BODY + b"\n", now=at)


def test_while_rotating_the_old_and_the_new_secret_both_verify():
    old, new, at = signature.new_secret(), signature.new_secret(), now()
    header = signature.standard([signature.key_of(new), signature.key_of(old)], "id", at, BODY)
    headers = {"webhook-id": "id", "webhook-timestamp": str(at), "webhook-signature": header}
    for secret in (old, new):
        Webhook(secret).verify(BODY, headers)
        assert signature.standard_holds(header, [signature.key_of(secret)], "id", str(at), BODY, now=at)


@pytest.mark.parametrize("off", [-301, 301])
def test_a_signature_far_from_the_clock_does_not_hold(off):
    key = signature.key_of(signature.new_secret())
    header = signature.standard([key], "id", 1_000_000, BODY)
    assert signature.standard_holds(header, [key], "id", "1000000", BODY, now=1_000_000 + off * 0.99)
    assert not signature.standard_holds(header, [key], "id", "1000000", BODY, now=1_000_000 + off)


@pytest.mark.parametrize("timestamp", ["", "soon", "-5", "1e6", "١٢٣", "9" * 400])
def test_a_timestamp_that_is_none_does_not_hold(timestamp):
    key = signature.key_of(signature.new_secret())
    assert not signature.standard_holds("v1,aaaa", [key], "id", timestamp, BODY, now=0)


def test_the_hexadecimal_form_is_hmac_sha256_keyed_with_the_whole_text():
    by_hand = "sha256=" + hmac.new(b"whsec_abc", BODY, hashlib.sha256).hexdigest()
    assert signature.hexadecimal("whsec_abc", BODY) == by_hand
    assert signature.hexadecimal_holds(by_hand, ["another", "whsec_abc"], BODY)
    assert not signature.hexadecimal_holds(by_hand, ["another"], BODY)
    assert not signature.hexadecimal_holds(by_hand, ["whsec_abc"], BODY + b" ")


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 1000])
def test_a_key_of_any_length_signs_as_the_standard_library_has_it(length):
    key = bytes(range(256)) * 4
    for body in (b"", BODY, BODY * 100):
        expected = hmac.digest(key[:length], body, "sha256").hex()
        assert signature.hexadecimal(key[:length], body) == f"sha256={expected}"
        assert signature.hexadecimal(key[:length], body) == f"sha256={expected}", "the key is kept as it was"


@pytest.mark.parametrize("header", ["", "sha256=", "sha256=zz", "sha1=00", "señal", "sha256=\udcff", "x" * 100_000])
def test_a_header_that_is_no_signature_is_refused_without_an_error(header):
    assert not signature.hexadecimal_holds(header, ["key"], BODY)


@pytest.mark.parametrize("secret", ["", "hunter2hunter2", "whsec_", "whsec_%%%hunter2", "whsec_hunter2ñ"])
def test_a_secret_in_no_known_form_is_refused_and_not_repeated(secret):
    with pytest.raises(ValueError, match="cauce secrets") as caught:
        signature.key_of(secret)
    assert "hunter2" not in str(caught.value)


def test_a_secret_may_lack_its_padding_as_the_package_allows():
    assert signature.key_of("whsec_YWJjZA") == signature.key_of("whsec_YWJjZA==") == b"abcd"


def test_a_token_is_looked_for_among_all_that_are_accepted():
    assert signature.among("niño", ["other", "niño"])
    assert signature.among(b"ni\xc3\xb1o", ["niño"])
    assert not signature.among("", ["other"])
    assert not signature.among("other ", ["other"])
