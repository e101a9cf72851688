"""streams.toml: what is accepted, and how it is said that something is not."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from streams import topology
from streams.errors import ConfigurationError

BASE = '[streams.inbound]\n[streams.outbound]\n[groups.g]\nreads = "inbound"\nhandler = "a:b"\n'


def parse(text: str) -> topology.Topology:
    return topology.parse(tomllib.loads(text))


def test_the_file_that_ships_is_accepted() -> None:
    top = topology.load(Path(__file__).parents[2] / "streams.toml")
    assert list(top.groups) == ["inference", "egress"]
    assert top.groups["inference"].debounce == 2.0
    assert top.groups["egress"].backoff[-1] == 5 * 3600


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (BASE.replace('"inbound"', '"inbond"'), "groups.g.reads = 'inbond' is not a stream; did you mean 'inbound'?"),
        (BASE + "reeds = 1", "[groups.g] has no key 'reeds'; did you mean 'reads'?"),
        (BASE + 'order = "kye"', "groups.g.order = 'kye' is not accepted; write one of 'key', 'none'"),
        (BASE + 'deadline = "soon"', "groups.g.deadline = 'soon' is no duration"),
        (BASE + 'backoff = ["1s", "x"]', "groups.g.backoff[1] = 'x' is no duration"),
        (BASE + "concurrency = 0", "groups.g.concurrency = 0 should be at least 1"),
        (BASE + 'attempts = "5"', "groups.g.attempts = '5' should be a whole number"),
        (BASE + "debounce = 11", "groups.g.debounce = 11.0 is longer than debounce_max (10)"),
        (BASE + 'from = "monday"', "groups.g.from = 'monday' is not \"start\", \"now\" or an entry id"),
        (BASE + 'writes = ["outbund"]', "groups.g.writes = 'outbund' is not a stream; did you mean 'outbound'?"),
        (BASE.replace('"a:b"', '"a.b"'), "groups.g.handler = 'a.b' is not of the form 'module:function'"),
        (BASE.replace("groups.g", "groups.G!").replace("[groups.G!]", '[groups."G!"]'), "groups.G! = 'G!' is no name"),
        ("[streems.inbound]", "there is no table 'streems'; did you mean 'streams'?"),
        ('[[actions]]\nname = "x"\npatterns = ["("]', "actions[0].patterns = '(' is no regular expression"),
        ('[[actions]]\npatterns = []', "actions[0].name is missing"),
        ("streams = 3", "streams = 3"),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_the_nearest_spelling(text: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(text)
    assert complaint in str(caught.value)
    assert str(caught.value).startswith("streams.toml: ")


def test_the_environments_debounce_is_for_groups_that_answer() -> None:
    top = topology.load(Path(__file__).parents[2] / "streams.toml").debounced(20)
    assert (top.groups["inference"].debounce, top.groups["inference"].debounce_max) == (20, 20)
    assert top.groups["egress"].debounce == 0


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        topology.load(tmp_path / "streams.toml")


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "streams.toml"
    path.write_text("[groups.g\n")
    with pytest.raises(ConfigurationError, match="line 1"):
        topology.load(path)


@pytest.mark.parametrize(("text", "expected"), [("500ms", 0.5), ("1.5s", 1.5), ("7d", 604800), (2, 2), ("2 h", 7200)])
def test_a_duration_is_a_number_of_seconds_or_has_a_unit(text: object, expected: float) -> None:
    assert topology.seconds(text) == expected


@pytest.mark.parametrize("wrong", ["", "5 parsecs", "-1s", -1, True, None, float("inf"), float("nan")])
def test_anything_else_is_no_duration(wrong: object) -> None:
    with pytest.raises(ValueError, match="no duration"):
        topology.seconds(wrong)
