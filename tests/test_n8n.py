"""
The workflows in n8n/ and the two guides: importable, wired to the end, and saying the same as each other.

Knows what n8n's node descriptions demand (types, versions, parameters), read from n8n-nodes-base 2.9 and 2.41.  Knows
no n8n: that n8n evaluates the expressions as meant is seen by importing the workflows into one.
"""

from __future__ import annotations

import base64
import json
import re
import runpy
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ingress.chat import Told
from processors.egress.webhook import Payload
from streams.settings import Secret, Settings
from streams.signature import new_secret
from streams.tables import Egress

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "n8n").glob("*.json"))
OUT = [file for file in FILES if "-out" in file.stem]
GUIDES = [ROOT / "docs" / "n8n.md", ROOT / "docs" / "n8n.es.md"]

# What n8n 2.9 and 2.41 both have.  A newer version here would keep people with an older n8n from importing.
VERSIONS = {
    "crypto": 2, "extractFromFile": 1.1, "filter": 2.3, "httpRequest": 4.3, "if": 2.3, "noOp": 1, "set": 3.4,
    "splitOut": 1, "stickyNote": 1, "stopAndError": 1, "switch": 3.4, "webhook": 2.1, "whatsApp": 1.1,
    "whatsAppTrigger": 1,
}  # fmt: skip


def workflow(file: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def kind(node: dict[str, Any]) -> str:
    return str(node["type"]).removeprefix("n8n-nodes-base.")


def nodes(file: Path, wanted: str = "") -> list[dict[str, Any]]:
    """All nodes but the notes, or those of one kind."""
    everything = workflow(file)["nodes"]
    return [node for node in everything if (kind(node) == wanted if wanted else kind(node) != "stickyNote")]


def named(file: Path, name: str) -> dict[str, Any]:
    [node] = [node for node in nodes(file) if node["name"] == name]
    return node


def after(file: Path, name: str) -> list[list[str]]:
    """The names behind each output of a node."""
    outputs = workflow(file)["connections"].get(name, {"main": []})["main"]
    return [[wire["node"] for wire in output] for output in outputs]


def expressions(value: Any) -> list[str]:
    """Every parameter n8n evaluates."""
    if isinstance(value, str):
        return [value.removeprefix("=")] if value.startswith("=") else []
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [found for child in children for found in expressions(child)]


def credentials(settings: Settings) -> list[dict[str, Any]]:
    """What the script of that name makes of these settings."""
    made: list[dict[str, Any]] = runpy.run_path(str(ROOT / "deploy" / "n8n_credentials.py"))["credentials"](settings)
    return made


def test_every_flow_comes_with_whatsapp_and_without() -> None:
    names = {file.stem for file in FILES}
    assert {f"{form}-{flow}" for form in ("whatsapp", "plain") for flow in ("in", "out", "chat")} <= names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_imports_under_an_id_of_its_own_and_unpublished(file: Path) -> None:
    assert workflow(file)["id"] == f"cauce-{file.stem}"
    assert len(workflow(file)["id"]) <= 36
    assert workflow(file)["active"] is False
    assert workflow(file)["settings"] == {"executionOrder": "v1"}


def test_names_ids_and_webhook_ids_are_unique() -> None:
    assert not [name for name, times in Counter(workflow(file)["name"] for file in FILES).items() if times > 1]
    for file in FILES:
        for key in ("id", "name"):
            assert max(Counter(node[key] for node in workflow(file)["nodes"]).values()) == 1, (file.stem, key)
    triggers = [node["webhookId"] for file in FILES for node in nodes(file, "whatsAppTrigger")]
    assert len(set(triggers)) == len(triggers) == 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_only_node_versions_that_every_supported_n8n_has(file: Path) -> None:
    for node in workflow(file)["nodes"]:
        assert node["type"].startswith("n8n-nodes-base."), node["name"]
        assert node["typeVersion"] == VERSIONS[kind(node)], node["name"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_node_is_reached_from_the_one_trigger(file: Path) -> None:
    [trigger] = nodes(file, "webhook") + nodes(file, "whatsAppTrigger")
    reached, todo = set(), [trigger["name"]]
    while todo:
        name = todo.pop()
        if name not in reached:
            reached.add(name)
            todo += [following for output in after(file, name) for following in output]
    assert reached == {node["name"] for node in nodes(file)}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_both_ways_out_of_a_question_lead_somewhere(file: Path) -> None:
    for node in nodes(file, "if"):
        assert [bool(output) for output in after(file, node["name"])] == [True, True], node["name"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_secret_travels_in_a_workflow(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert "whsec_" not in text.replace("`whsec_`", "")
    assert "$env" not in text, "n8n 2 keeps the environment from expressions"
    for node in nodes(file):
        assert all(set(credential) == {"id", "name"} for credential in node.get("credentials", {}).values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_fails_on_the_way_to_cauce_is_tried_again(file: Path) -> None:
    for node in nodes(file, "httpRequest"):
        if node["name"].startswith("POST /"):
            assert node["parameters"]["url"] == "http://127.0.0.1:8000" + node["name"].removeprefix("POST ")
            assert node["retryOnFail"]
            # n8n takes no more than 5 tries and 5,000 ms.
            assert 2 <= node["maxTries"] <= 5
            assert node["waitBetweenTries"] <= 5000


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_names_in_expressions_are_nodes(file: Path) -> None:
    there = {node["name"] for node in nodes(file)}
    for expression in expressions(workflow(file)["nodes"]):
        assert set(re.findall(r"\$\('([^']+)'\)", expression)) <= there, expression


def test_whole_items_go_in_one_request_each() -> None:
    [request] = nodes(ROOT / "n8n" / "whatsapp-in.json", "httpRequest")
    assert request["parameters"]["jsonBody"] == "={{ JSON.stringify($json) }}"
    [request] = nodes(ROOT / "n8n" / "plain-in.json", "httpRequest")
    assert request["parameters"]["jsonBody"] == "={{ JSON.stringify($json.body) }}"


@pytest.mark.parametrize("file", OUT, ids=lambda file: file.stem)
def test_a_reply_is_answered_when_it_has_been_sent(file: Path) -> None:
    [webhook] = nodes(file, "webhook")
    assert webhook["parameters"]["responseMode"] == "lastNode"
    assert webhook["parameters"]["path"] == "cauce-out"


@pytest.mark.parametrize("file", OUT, ids=lambda file: file.stem)
def test_nothing_is_looked_at_before_it_is_verified(file: Path) -> None:
    [webhook] = nodes(file, "webhook")
    if webhook["parameters"].get("authentication") == "headerAuth":
        assert after(file, webhook["name"]) == [["By type"]]
    else:
        assert webhook["parameters"]["options"]["rawBody"] is True
        assert after(file, "Is it from Cauce?") == [["By type"], ["Refuse"]]
        assert not after(file, "Refuse")


@pytest.mark.parametrize("file", OUT, ids=lambda file: file.stem)
def test_only_a_reply_goes_on(file: Path) -> None:
    switch = named(file, "By type")["parameters"]
    rules = switch["rules"]["values"]
    assert [rule["outputKey"] for rule in rules] == ["reply", "handover"]
    assert [rule["conditions"]["conditions"][0]["rightValue"] for rule in rules] == ["reply", "handover"]
    assert switch["options"]["fallbackOutput"] == "extra"
    reply, handover, unknown = after(file, "By type")
    assert (handover, unknown) == (["For your staff"], ["Unknown type"])
    assert len(reply) == 1
    for end in ("For your staff", "Unknown type"):
        assert not after(file, end)


@pytest.mark.parametrize("file", OUT, ids=lambda file: file.stem)
def test_the_fields_it_reads_are_fields_of_the_webhook(file: Path) -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(Payload)}
    read = {name for text in expressions(workflow(file)["nodes"]) for name in re.findall(r"\$json\.body\.(\w+)", text)}
    assert read
    assert read <= fields


@pytest.mark.parametrize("file", [file for file in FILES if "-chat" in file.stem], ids=lambda file: file.stem)
def test_the_one_that_waits_sends_only_what_was_replied(file: Path) -> None:
    request = named(file, "POST /chat")["parameters"]
    assert request["headerParameters"]["parameters"] == [{"name": "Prefer", "value": "wait=60"}]
    # n8n must wait longer than Cauce, or it would hang up on a reply that is on its way.
    assert request["options"]["timeout"] > 60_000
    [condition] = named(file, "Replied?")["parameters"]["conditions"]["conditions"]
    assert (condition["leftValue"], condition["rightValue"]) == ("={{ $json.status }}", "replied")
    assert after(file, "Replied?")[1] == ["Nothing to send"]
    given = {one["name"] for one in named(file, "Process Message")["parameters"]["assignments"]["assignments"]}
    assert {"user_id", "message", "message_id"} <= given


def test_what_was_replied_reaches_people_who_hide_their_number_too() -> None:
    # Given the two workflows that send to WhatsApp, of which one gets the number from Cauce, the other from Meta
    for name, number in (("out", "$json.body.wa_id"), ("chat", "$('Process Message').item.json.wa_id")):
        file = ROOT / "n8n" / f"whatsapp-{name}.json"
        # When somebody has no number
        [condition] = named(file, "Has a number?")["parameters"]["conditions"]["conditions"]
        assert (condition["leftValue"], condition["operator"]["operation"]) == (f"={{{{ {number} }}}}", "notEmpty")
        assert after(file, "Has a number?") == [["Send to WhatsApp"], ["Send by user id"]]
        # Then the node that takes numbers only is not asked
        assert named(file, "Send to WhatsApp")["parameters"]["recipientPhoneNumber"] == f"={{{{ {number} }}}}"
        sent = named(file, "Send by user id")["parameters"]["jsonBody"]
        assert f"recipient: {number.removesuffix('wa_id')}user_id," in sent
    process = named(ROOT / "n8n" / "whatsapp-chat.json", "Process Message")["parameters"]
    given = {one["name"]: one["value"] for one in process["assignments"]["assignments"]}
    assert given["wa_id"] == "={{ $json.messages.from || '' }}"
    assert given["user_id"] == "={{ $json.messages.from || $json.messages.from_user_id }}"


def test_where_cauce_does_not_deliver_again_n8n_sends_again() -> None:
    for name in ("Send to WhatsApp", "Send by user id"):
        waiting = named(ROOT / "n8n" / "whatsapp-chat.json", name)
        assert (waiting["retryOnFail"], waiting["maxTries"], waiting["waitBetweenTries"]) == (True, 3, 5000)
        # Here Cauce repeats, and n8n must answer within [egress] timeout.
        assert "retryOnFail" not in named(ROOT / "n8n" / "whatsapp-out.json", name)


def test_the_credentials_made_for_n8n_are_those_the_workflows_name() -> None:
    settings = Settings(
        ingress_tokens=(Secret("t" * 32),),
        outbound_secret=(Secret(new_secret()),),
        outbound_header=Secret("X-Cauce-Token: v"),
    )
    made = {one["id"]: one for one in credentials(settings)}
    used = {
        (type_, credential["id"], credential["name"])
        for file in FILES
        for node in nodes(file)
        for type_, credential in node.get("credentials", {}).items()
    }
    assert {(one["type"], one["id"], one["name"]) for one in made.values()} == used
    assert made["cauce-outbound-header"]["data"] == {"name": "X-Cauce-Token", "value": "v"}
    secret = made["cauce-outbound-secret"]["data"]["hmacSecret"]
    key = made["cauce-outbound-key"]["data"]["hmacSecret"]
    assert base64.b64encode(key.encode()).decode() == secret.removeprefix("whsec_")


def test_a_key_that_cannot_be_typed_is_left_out() -> None:
    secret = "whsec_" + base64.b64encode(bytes(range(200, 232))).decode()
    made = [one["id"] for one in credentials(Settings(outbound_secret=(Secret(secret),)))]
    assert made == ["cauce-ingress-token", "cauce-outbound-secret"]


def headings(guide: Path) -> list[int]:
    text = re.sub(r"```.*?```", "", guide.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def code(guide: Path) -> list[str]:
    """Everything in backticks: what must read the same in every language, but for placeholders in <…>."""
    found = re.findall(r"```\n(.*?)```|`([^`\n]+)`", guide.read_text(encoding="utf-8"), re.DOTALL)
    return [re.sub(r"<[^>]*>", "<…>", block or span) for block, span in found]


def test_the_guides_have_the_same_headings_in_the_same_order() -> None:
    assert headings(GUIDES[0]) == headings(GUIDES[1])


def test_the_guides_show_the_same_code_and_name_the_same_nodes() -> None:
    english, spanish = map(code, GUIDES)
    assert sorted(english) == sorted(spanish)  # sorted: a sentence may name the same things in another order
    bold = [re.findall(r"\*\*([^*]+)\*\*", guide.read_text(encoding="utf-8")) for guide in GUIDES]
    assert sorted(bold[0]) == sorted(bold[1])


def test_the_guide_begins_with_the_table_of_addresses() -> None:
    for guide in GUIDES:
        before_sections = guide.read_text(encoding="utf-8").partition("\n## ")[0]
        rows = [row for row in before_sections.splitlines() if row.startswith("|")][2:]
        assert len(rows) == 4
        for address in (
            "http://127.0.0.1:8000/whatsapp",
            "http://host.docker.internal:8000/chat",
            "http://ingress:8000/",
        ):
            assert address in before_sections
        assert all("/webhook/cauce-out" in row for row in rows)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_every_node_and_file_the_guide_names_exists(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    # n8n 2.41: menuActions.import and menuActions.importFromFile.
    menu = {"⋯", "Import", "From file", "Publish."}
    there = {node["name"] for file in FILES for node in nodes(file)} | menu | {"Crypto"}
    assert set(re.findall(r"\*\*([^*]+)\*\*", text)) <= there
    assert {name for name in re.findall(r"`([a-z-]+\.json)`", text)} == {file.name for file in FILES}
    titles = {workflow(file)["name"] for file in FILES}
    assert set(re.findall(r"(?<!\*)\*(Cauce: [^*]+)\*", text)) <= titles


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_expressions_the_guide_explains_are_those_the_workflows_use(guide: Path) -> None:
    used = {re.sub(r"\s+", " ", text) for file in FILES for text in expressions(workflow(file)["nodes"])}
    # Said to be typed by the reader, or not to be.
    yours = ("$input.all()", "$json.body.id", "$json.body.action", "$json.body.slots", "role: 'assistant'")
    explained = [span for span in code(guide) if span.startswith("{{") and not any(word in span for word in yours)]
    assert len(explained) > 8
    for expression in explained:
        assert expression in used, expression


def test_the_paths_to_try_are_those_the_workflows_listen_at() -> None:
    paths = {node["parameters"]["path"] for file in FILES for node in nodes(file, "webhook")}
    assert paths == {"cauce-in", "cauce-out", "cauce-chat"}
    for guide in GUIDES:
        assert set(re.findall(r"/webhook(?:-test)?/([a-z-]+)", guide.read_text(encoding="utf-8"))) == paths


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_the_confirmation_is_one_that_cauce_takes_once_and_sends_from_the_right_number(guide: Path) -> None:
    [body] = [span for span in code(guide) if "role: 'assistant'" in span]
    [webhook] = nodes(ROOT / "n8n" / "whatsapp-out.json", "webhook")
    fields = dict(re.findall(r"[{,] (\w+): ((?:'[^']*'|[^,{}])+?)(?=, \w+: | \})", body))
    assert fields.keys() <= {field.encode_name for field in msgspec.structs.fields(Told)}
    # From the webhook itself: behind a calendar's node, $json is what the calendar said.
    reply = f"$('{webhook['name']}').first().json.body"
    assert fields["message_id"] == f"{reply}.id + '-confirmed'", "the same in every repetition of the run"
    assert fields["metadata"] == f"{reply}.metadata", "so that phone_number_id is there"
    assert fields["send"] == "true"
    text = guide.read_text(encoding="utf-8")
    around = text[text.index(body) - 600 : text.index(body)]
    assert f"{reply}.user_id" in around
    assert "*Cauce ingress token*" in around
    assert "*Header Auth*" in around


@pytest.mark.slow
@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_what_the_guide_says_of_egress_is_so(guide: Path) -> None:
    text = guide.read_text(encoding="utf-8")
    [types] = [span for span in code(guide) if span.startswith("types = ")]
    file = ROOT / "n8n" / "whatsapp-out.json"
    rules = named(file, "By type")["parameters"]["rules"]["values"]
    assert tomllib.loads(types)["types"] == [rule["outputKey"] for rule in rules]
    assert Egress().types == ("reply",), "or the sentence about For your staff is out of date"
    assert f"`[egress] timeout` ({Egress().timeout:g} s)" in text
