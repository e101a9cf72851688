"""WhatsApp's message ids: whose number stands in them."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest

from streams import wamids

RECORDINGS = Path(__file__).parents[1] / "recordings"


def made(head: bytes, number: bytes) -> str:
    record = head + bytes([len(number)]) + number + b"\x15\x02\x00\x12\x18\x14" + b"3EB0C767D26A1B2C3D4E\x00"
    return "wamid." + base64.b64encode(record).decode()


def test_each_id_that_meta_sent_holds_the_number_of_whoever_wrote_or_was_written_to() -> None:
    seen = 0
    for path in sorted(RECORDINGS.glob("[0-9]*.json")):
        text = path.read_text(encoding="utf-8")
        numbers = set(re.findall(r'"(?:from|recipient_id|wa_id)": *"(\d+)"', text))
        for wamid in set(re.findall(r"wamid\.[\w+/=]+", text)):
            assert wamids.number(wamid) in numbers, (path.name, wamid)
            seen += 1
    assert seen > 10
    assert json.loads((RECORDINGS / "01_text.json").read_text("utf-8"))


@pytest.mark.parametrize("head", [b"\x1c\x18", b"\x1d\x04", b"\x1c\x18\x00\x02"])
def test_the_number_is_found_whatever_stands_before_it(head) -> None:
    assert wamids.number(made(head, b"59112345678")) == "59112345678"
    assert wamids.number(made(head, b"447700900123").rstrip("=")) == "447700900123"


@pytest.mark.parametrize("id", [
    "wamid.", "wamid.A", "wamid.%%%", "wamid.ñ", "wamid." + base64.b64encode(b"\x0b5911234567").decode(),
    made(b"\x1c", b"5911234567x"), made(b"\x1c" * 20, b"59112345678"), made(b"\x1c", b"123456"), "m1", "",
    "HBgLNTkxMTIzNDU2NzgVAgASGBQzQTVBAA==",
])  # fmt: skip
def test_an_id_of_another_form_holds_none(id) -> None:
    assert wamids.number(id) is None
