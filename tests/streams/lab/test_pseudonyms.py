"""Pseudonyms: nobody is found in what was made, and who is who is kept."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streams.lab.pseudonyms import Pseudonyms

ANA = "+59171234567"
WAMID = "wamid." + base64.b64encode(b"\x0a\x0f59171234567\x15\x02\x00\x12").decode()


@pytest.fixture
def they() -> Pseudonyms:
    return Pseudonyms(b"a secret")


def done(they: Pseudonyms, key: str = ANA, **body: Any) -> dict[str, Any]:
    fields = they.fields({"key": key.encode(), "body": json.dumps(body).encode()})
    return {"key": fields["key"].decode(), **json.loads(fields["body"])}


def test_a_person_is_the_same_invented_one_in_every_spelling(they) -> None:
    made = they.person(ANA)
    assert re.fullmatch(r"\+999\d{12}", made)
    assert they.person("59171234567") == made[1:]
    assert they.person("+591 7-123.4567") == made
    assert they.text("llámame al (591) 7123-4567 o al +59171234567.", "") == f"llámame al {made[1:]} o al {made}."
    assert they.text(f"conv_{ANA}_1728123456", "") == f"conv_{made}_1728123456"


def test_another_secret_makes_another_of_them() -> None:
    assert Pseudonyms().person(ANA) != Pseudonyms().person(ANA)


def test_everywhere_in_a_message_and_its_reply(they) -> None:
    said = done(
        they, user_id=ANA, wa_id="59171234567", name="Ana Pérez", message_id=WAMID, text="Soy Ana, 71234567",
        context={"id": WAMID, "from": "59171234567"}, metadata={"phone_number_id": "106540352242922"},
    )  # fmt: skip
    told = done(
        they, user_id=ANA, name="Ana Pérez", in_reply_to=[WAMID], message="¡Hola, ANA!", id="reply_1728123456789-0"
    )
    assert said["key"] == said["user_id"] == told["user_id"] == f"+{said['wa_id']}" == f"+{said['context']['from']}"
    assert told["in_reply_to"] == [said["message_id"]] == [said["context"]["id"]]
    assert said["message_id"].startswith("wamid.")
    assert told["id"] == "reply_1728123456789-0"
    assert said["name"] == told["name"]
    first = said["name"].split()[0]
    assert said["text"].startswith(f"Soy {first}, 999")
    assert told["message"] == f"¡Hola, {first}!"
    whole = json.dumps([said, told], ensure_ascii=False)
    for gone in ("59171234567", "71234567", "Ana", "Pérez", "ANA", WAMID, "106540352242922"):
        assert gone not in whole


def test_a_full_name_is_found_in_everybodys_texts_in_capitals_and_without_accents(they) -> None:
    # Given a contact card of Petronila, and a sender José Núñez, both learnt before what is said
    card = {"user_id": ANA, "name": "Ana", "content": {"contacts": [{"name": {"formatted_name": "Petronila Mamani"}}]}}
    jose = {"user_id": "+59172222222", "name": "José Núñez"}
    for body in (card, jose):
        they.learn({"key": body["user_id"].encode(), "body": json.dumps(body).encode()})
    shown = done(they, **card)["content"]["contacts"][0]["name"]["formatted_name"]
    # Then their names are the same invented ones in a reply and in somebody else's text
    assert done(they, user_id=ANA, message="[contacto: Petronila Mamani]")["message"] == f"[contacto: {shown}]"
    said = "te paso el contacto de *PETRONILA*  mamani, o de Jose Nun\u0303ez"
    other = done(they, key="+59173333333", text=said)["text"]
    called = done(they, **jose)["name"]
    assert other.endswith(f", o de {called}")
    assert "mamani" not in other.lower()
    # And a single word of them in somebody else's text stays, as do two that are no name
    for kept in ("San José queda lejos, mamani", "José y Núñez", "Petronila. Adiós, Mamani"):
        assert done(they, key="+59173333333", text=kept)["text"] == kept


def test_what_everybody_says_is_no_name_though_somebody_is_called_so(they) -> None:
    they.learn({"key": b"+1", "body": json.dumps({"name": "Muy Bien"}).encode()})
    assert they.text("muy bien, gracias", "") == "muy bien, gracias"


def test_what_is_nobodys_stays(they) -> None:
    for text in (
        "el 2025-10-07 a las 15:00",
        "el 15/10/2025",
        "10.1.2026",
        "cuesta 150000 Bs",
        "reply_1728123456789-0.s1.2",
    ):
        assert they.text(text, "") == text
    kept = {"sent_at": 1749416383.0, "type": "text", "action": "book", "slots": {"date": "2025-10-07", "time": "15:00"}}
    assert done(they, **kept) == {"key": they.person(ANA), **kept}


def test_other_ids_are_others_too(they) -> None:
    scoped = they.person("US.13491208655302741918")
    assert re.fullmatch(r"US\.\d{20}", scoped)
    assert they.text("US.13491208655302741918 escribió", "") == f"{scoped} escribió"
    assert they.person("ana@example.com").startswith("id-")
    assert "ana@" not in they.text("mi correo es ana@example.com", "")
    assert done(they, latitude=-16.489689, longitude=-68.1192936)["latitude"] == -16.5
    assert they.message_id("HBgLNTkxNzEyMzQ1NjcVAgAS").startswith("m-")


def test_a_body_that_is_no_json_is_text(they) -> None:
    fields = they.fields({"key": ANA.encode(), "body": b"llama al 71234567 \xff"})
    assert b"71234567" not in fields["body"]


TEXTS = st.text(st.sampled_from("0123456789+-(). añxz@/_:\n"), max_size=60)


def test_a_trace_stays_one_though_some_of_it_looks_like_a_number(they) -> None:
    trace = b"00-01a22d5a814ecf999051454655870c69-b8ec0e43ac77b4cd-01"
    assert they.fields({"key": b"+59171111111", "trace": trace})["trace"] == trace


@example(around="1000000000000-", number="20000000000")
@given(TEXTS, st.from_regex(r"[2-8]\d{10}", fullmatch=True))
def test_no_number_survives_whatever_stands_around_it(around, number) -> None:
    they = Pseudonyms(b"a secret")
    for text in (f"{around}{number}", f"{number}{around}", f"{around} {number[:3]} {number[3:7]}-{number[7:]} x"):
        assert number not in re.sub(r"[ ()/.-]", "", they.text(text, ""))


@given(st.lists(st.from_regex(r"[1-8]\d{6,14}", fullmatch=True), unique=True))
def test_two_people_never_become_one(numbers) -> None:
    they = Pseudonyms(b"a secret")
    assert len({they.number(number) for number in numbers}) == len(numbers)


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10))
def test_any_json_keeps_its_shape(body) -> None:
    made = json.loads(Pseudonyms().fields({"key": b"+1", "body": json.dumps(body).encode()})["body"])
    assert type(made) is type(body) or isinstance(body, (int, float))
    if isinstance(body, dict):
        assert made.keys() == body.keys()
