"""What a receiver's answer means, and that the words for it give nothing away."""

from __future__ import annotations

import pytest

from processors.egress.answers import Answer, judge
from tests.processors.egress.stories import NOW

URL = "https://n8n.example.org/webhook/cauce"


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status):
    assert judge(Answer(status), url=URL, now=NOW).kind == "delivered"


@pytest.mark.parametrize(
    "page", [b"n8n is starting up. Please wait", b"<html><title>n8n is starting up</title></html>"]
)
def test_a_200_that_is_only_n8ns_starting_page_is_not_delivered(page):
    outcome = judge(Answer(200, body=page), url=URL, now=NOW)
    assert outcome.kind == "retry"
    assert "starts" in outcome.why


def test_a_workflow_that_answers_with_those_words_has_taken_the_reply():
    assert judge(Answer(200, body=b'{"echo":"n8n is starting up"}'), url=URL, now=NOW).kind == "delivered"


@pytest.mark.parametrize("status", [404, 408, 425, 429, 500, 502, 503, 504, 599])
def test_answers_that_may_change_are_retried(status):
    assert judge(Answer(status), url=URL, now=NOW).kind == "retry"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 400, 401, 403, 405, 409, 413, 415, 422])
def test_answers_that_will_not_change_are_buried_at_once(status):
    outcome = judge(Answer(status, body=b"no\x00 such\n thing"), url=URL, now=NOW)
    assert outcome.kind == "bury"
    assert outcome.why.startswith(str(status))
    assert outcome.quoted == "no such thing"
    assert "such" not in outcome.why


def test_410_means_stop():
    assert judge(Answer(410), url=URL, now=NOW).kind == "gone"


def test_a_404_from_a_test_address_says_what_to_do():
    why = judge(Answer(404), url="http://localhost:5678/webhook-test/cauce", now=NOW).why
    assert "publish the workflow and use /webhook/" in why
    assert "test" not in judge(Answer(404), url="http://localhost:5678/webhook/cauce", now=NOW).why


@pytest.mark.parametrize(
    ("header", "after"),
    [
        ("120", 120),
        (" 7 ", 7),
        ("0", 1),
        ("999999999", 86400),
        ("Sat, 05 Oct 2024 10:19:36 GMT", 2 * 60),
        ("Sat, 05 Oct 2024 10:00:00 GMT", 1),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
        (None, None),
        ("Sat, 99 Oct 99999 10:00:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_from_a_second_to_a_day(header, after):
    assert judge(Answer(503, header), url=URL, now=NOW).after == after


def test_the_first_words_of_a_refusal_repeat_neither_secrets_nor_what_was_said():
    said = b'{"got":"Bearer s3cret-token","for":"Tengo fiebre"} ' + b"x" * 1000
    told = judge(Answer(400, body=said), url=URL, now=NOW, hidden=["Bearer s3cret-token", "Tengo fiebre", ""]).quoted
    assert "s3cret" not in told
    assert "fiebre" not in told
    assert len(told) == 200
