"""One spelling for each person."""

from __future__ import annotations

import pytest

from streams import people


@pytest.mark.parametrize(
    "written",
    [
        "+59112345678",
        "59112345678",
        "591 123 45678",
        "+591 (123) 45-678",
        "591.123.45678",
        "+591-12345678",
        "591()12345678",
    ],
)
def test_a_telephone_number_is_a_plus_and_its_digits_however_it_is_written(written) -> None:
    assert people.person(written) == "+59112345678"


@pytest.mark.parametrize(
    "kept",
    [
        "web-42",
        "US.13491208655302741918",
        "123456",  # six digits are no number of anybody
        "1234567890123456",
        "+59112345678x",
        "++59112345678",
        "591+12345678",
        "\uff15\uff19\uff11\uff11\uff12\uff13\uff14\uff15",  # digits, but not those of a keypad
        "niño 7",
        "x" * 160,
    ],
)
def test_anything_else_is_kept_byte_for_byte(kept) -> None:
    assert people.person(kept) == kept


def test_where_numbers_are_switched_off_they_stay_as_they_came() -> None:
    assert people.person("591 12345678", phone_numbers=False) == "591 12345678"


@pytest.mark.parametrize(
    "bad", ["", "x" * 161, "a/b", " 59112345678", "59112345678 ", "a\0b", "a\nb", "\x7f", "\ud83d"]
)
def test_what_cannot_be_an_id_is_refused(bad) -> None:
    with pytest.raises(people.Unusable, match="must"):
        people.person(bad)


def test_a_message_id_may_hold_what_a_person_s_may_not() -> None:
    assert people.message_id("wamid.HBgL/+=") == "wamid.HBgL/+="
    with pytest.raises(people.Unusable):
        people.message_id("a\rb")
