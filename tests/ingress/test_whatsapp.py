"""Meta's JSON, as Meta and n8n send it, becomes the right entries; nothing of its shape is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress import whatsapp
from ingress.whatsapp import Webhook, read
from streams import wire
from streams.wire import Inbound

RECORDINGS = Path(__file__).parents[1] / "recordings"
SHEENA = "+16505551234"
OURS = {"display_phone_number": "15550783881", "phone_number_id": "106540352242922"}


def recording(name: str) -> Any:
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


def only(name: str) -> Inbound:
    found = read(recording(name))
    assert (len(found.messages), found.statuses, found.ignored) == (1, [], [])
    return found.messages[0]


def test_a_text_keeps_all_that_the_sender_gave() -> None:
    assert only("01_text") == Inbound(
        user_id=SHEENA,
        message_id="wamid.HQQLMTY1MDU1NTEyMzQVAhIYFFRFWFQwMTAwMDAwMDAwMDA=",
        text="Does it come in another color? 🙂",
        sent_at=1749416383,
        name="Sheena Nelson",
        wa_id="16505551234",
        metadata=OURS,
    )


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("02_text_reply_context", "text", None),
        ("03_audio_voice", "audio", ""),
        ("04_image_caption", "image", "Is this the right size?"),
        ("05_interactive_button_reply", "interactive", "Cancel"),
        ("06_interactive_list_reply", "interactive", "Priority Mail Express"),
        ("08_location", "location", ""),
        ("09_reaction", "reaction", ""),
        ("17_unsupported", "unsupported", ""),
        ("document_with_caption", "document", "La orden médica"),
        ("video", "video", ""),
        ("sticker", "sticker", ""),
        ("contacts", "contacts", ""),
        ("template_button", "button", "Confirmar"),
        ("flow_reply", "interactive", "Sent"),
        ("order", "order", "Para el martes"),
        ("number_changed", "system", ""),
        ("type_of_the_future", "hologram", "¿Me ves?"),
        ("from_an_advertisement", "text", "Quiero la promoción"),
        ("n8n_trigger_item", "text", "Desde n8n"),
    ],
)
def test_each_type_is_a_message_with_the_words_in_it(name, kind, text) -> None:
    message = only(name)
    assert (message.user_id, message.kind) == (SHEENA, kind)
    assert message.metadata == OURS
    assert text is None or message.text == text


def test_media_places_buttons_and_cards_keep_their_content() -> None:
    assert only("03_audio_voice").content["id"] == "1908647269898587"
    assert only("08_location").content["latitude"] == 38.9806263495
    assert only("05_interactive_button_reply").content["button_reply"]["id"] == "cancel-button"
    assert only("contacts").content["contacts"][0]["name"]["formatted_name"] == "Dra. Rojas"
    assert only("flow_reply").content["nfm_reply"]["response_json"] == '{"fecha":"2025-10-07"}'
    assert only("09_reaction").content["emoji"] == "👍"
    assert only("17_unsupported").content["errors"][0]["code"] == 131051
    assert only("number_changed").content["wa_id"] == "16505559999"


def test_what_is_answered_and_the_advertisement_are_the_context() -> None:
    assert only("02_text_reply_context").context["from"] == "15550783881"
    assert only("template_button").context == {"from": "15550783881", "id": "wamid.gBG"}
    assert only("from_an_advertisement").context["referral"]["source_type"] == "ad"


def test_several_messages_stay_in_their_order() -> None:
    found = read(recording("15_several_messages_one_user"))
    assert [each.text for each in found.messages] == ["Hi", "I have a question", "about my order 1234"]
    assert len({each.message_id for each in found.messages}) == 3


def test_a_batch_of_entries_and_people_gives_each_their_own_name() -> None:
    found = read(recording("batch_of_entries_and_users"))
    assert [(each.user_id, each.name, each.text) for each in found.messages] == [
        (SHEENA, "Sheena Nelson", "Hola"),
        ("+59171234567", "Ana Quispe", "¿Atienden hoy?"),
        ("+5491155551234", "Luis", "Buenas"),
    ]
    assert [each.status for each in found.statuses] == ["read"]


@pytest.mark.parametrize("name", ["username_without_number", "username_with_empty_from"])
def test_who_hides_their_number_is_known_by_the_scoped_id(name) -> None:
    message = only(name)
    assert (message.user_id, message.wa_id, message.name) == ("US.13491208655302741918", None, "Pablo M.")


def test_a_number_wins_over_the_scoped_id() -> None:
    assert (only("number_and_scoped_id").user_id, only("number_and_scoped_id").wa_id) == (SHEENA, "16505551234")


def test_items_of_n8n_s_trigger_may_come_as_a_list() -> None:
    found = read(recording("n8n_trigger_items"))
    assert [each.user_id for each in found.messages] == [SHEENA, "+59171234567"]
    assert [each.status for each in found.statuses] == ["sent"]


@pytest.mark.parametrize(
    ("name", "status"), [("12_status_delivered", "delivered"), ("14_status_failed_131047", "failed")]
)
def test_statuses_are_told_apart_from_messages(name, status) -> None:
    found = read(recording(name))
    [told] = found.statuses
    assert (found.messages, found.ignored) == ([], [])
    assert (told.status, told.recipient_id, told.metadata) == (status, SHEENA, OURS)
    assert told.message_id.startswith("wamid.")
    assert told.content["status"] == status


@pytest.mark.parametrize(
    ("name", "ignored"),
    [
        ("template_status_update", ["message_template_status_update"]),
        ("errors_of_the_account", ["errors"]),
        ("known_and_unknown_together", ["malformed", "malformed", "calls"]),
    ],
)
def test_what_is_no_message_is_ignored_and_named(name, ignored) -> None:
    assert read(recording(name)).ignored == ignored


def a_text(**told: Any) -> dict[str, Any]:
    return {"type": "text", "text": {"body": "Hola"}, "id": "m1", **told}


def people(contacts: list[dict[str, Any]], *messages: dict[str, Any]) -> list[tuple[str, str | None, str | None]]:
    """Who each message is from: person, name and number to answer to."""
    found = read({"messaging_product": "whatsapp", "contacts": contacts, "messages": list(messages)})
    return [(each.user_id, each.name, each.wa_id) for each in found.messages]


ANA = {"profile": {"name": "Ana"}, "wa_id": "59171234567"}


def test_the_only_contact_is_not_taken_for_another_sender() -> None:
    assert people([ANA], a_text(**{"from": "59171234567"}), a_text(**{"from": "59176543210"})) == [
        ("+59171234567", "Ana", "59171234567"),
        ("+59176543210", None, "59176543210"),
    ]
    assert people([ANA], a_text(**{"from": "59171234567"}), a_text(from_user_id="US.1349")) == [
        ("+59171234567", "Ana", "59171234567"),
        ("US.1349", None, None),
    ]


def test_the_only_contact_of_the_only_sender_is_right_however_meta_writes_the_number() -> None:
    luis = {"profile": {"name": "Luis"}, "wa_id": "5215512345678"}
    message = a_text(**{"from": "525512345678"})
    assert people([luis], message, message) == [("+525512345678", "Luis", "5215512345678")] * 2


def test_ids_that_came_as_numbers_are_ids() -> None:
    found = read({
        "contacts": [{"profile": {"name": "Ana"}, "wa_id": 59171234567}],
        "messages": [a_text(**{"from": 59171234567, "id": 17}), a_text(from_user_id=1349, id="m2"),
                     a_text(**{"from": True})],
        "statuses": [{"id": 18, "status": "sent", "recipient_id": 59171234567}],
    })  # fmt: skip
    assert [(each.user_id, each.message_id, each.name, each.wa_id) for each in found.messages] == [
        ("+59171234567", "17", "Ana", "59171234567"),
        ("1349", "m2", None, None),
    ]
    assert [(each.message_id, each.recipient_id) for each in found.statuses] == [("18", "+59171234567")]
    assert found.ignored == ["text"]


def test_a_text_that_does_not_say_what_it_is_is_a_text() -> None:
    [message] = read({"messages": [{"from": "59171234567", "text": {"body": "Hola"}}]}).messages
    assert (message.kind, message.text, message.content) == ("text", "Hola", None)


def test_siblings_of_what_cannot_be_used_are_taken() -> None:
    found = read(recording("known_and_unknown_together"))
    # One of them says neither who nor what, yet its change has one contact only
    assert [each.text for each in found.messages] == ["Uno", "", "Dos"]


def test_a_message_without_an_id_gets_the_same_one_when_it_is_repeated() -> None:
    payload = {"messages": [{"from": "16505551234", "type": "text", "text": {"body": "Hola"}}]}
    [first], [second] = read(payload).messages, read(payload).messages
    assert first.message_id == second.message_id != ""


def test_a_message_of_nobody_is_ignored() -> None:
    assert read({"messages": [{"id": "m1", "type": "text", "text": {"body": "Hola"}}]}).ignored == ["text"]


def test_content_nested_beyond_reading_is_left_out_and_the_message_is_not() -> None:
    deep: Any = {}
    for _ in range(whatsapp.DEEPEST + 1):
        deep = {"inner": deep}
    [message] = read({"messages": [{"from": "16505551234", "id": "m1", "type": "hologram", "hologram": deep}]}).messages
    assert (message.kind, message.content) == ("hologram", None)


@pytest.mark.parametrize(
    "payload", [{}, [], 0, "hola", None, True, {"user_id": "1", "message": "x"}, [1], [{}], {"object": 1}]
)
def test_what_is_not_of_meta_s_shape_is_not_taken_for_it(payload) -> None:
    if payload == []:
        assert read(payload) == Webhook()  # no items are no mistake
    else:
        with pytest.raises(whatsapp.NotWhatsApp):
            read(payload)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["from", "from_user_id", "id", "timestamp", "type", "text", "interactive", "context", "button", "wa_id", "status"]
)
things = st.dictionaries(keys, json_values | st.dictionaries(keys, json_values, max_size=3), max_size=6) | json_values


@pytest.mark.slow
@given(messages=st.lists(things, max_size=4) | json_values, contacts=st.lists(things, max_size=2) | json_values,
       statuses=st.lists(things, max_size=2) | json_values, metadata=things)  # fmt: skip
@settings(max_examples=200)
def test_whatever_meta_puts_into_its_fields_is_read_and_can_be_written(messages, contacts, statuses, metadata) -> None:
    value = {"messaging_product": "whatsapp", "metadata": metadata, "contacts": contacts, "messages": messages,
             "statuses": statuses}  # fmt: skip
    changes = [{"value": value, "field": "messages"}]
    found = read({"object": "whatsapp_business_account", "entry": [{"changes": changes}]})
    given = [each for each in (messages, statuses) if isinstance(each, list)]
    taken = len(found.messages) + len(found.statuses) + len([each for each in found.ignored if each != "empty"])
    assert taken == sum(map(len, given))
    for inbound in found.messages:
        assert wire.decode(wire.encode(inbound), Inbound) == inbound
