"""streams.toml: what is accepted, and how it is said that something is not."""

from __future__ import annotations

import tomllib
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from streams import moments, topology
from streams.errors import ConfigurationError

BASE = '[streams.inbound]\n[streams.outbound]\n[groups.g]\nreads = "inbound"\nhandler = "a:b"\n'

SUPERSEDE = 'on_new_message = "supersede"\n'


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
        (BASE + 'processes = "two"', "groups.g.processes = 'two' should be a whole number"),
        (BASE + "proceses = 2", "[groups.g] has no key 'proceses'; did you mean 'processes'?"),
        (BASE + 'on_new_message = "superseed"', "groups.g.on_new_message = 'superseed' is not accepted; write one of"),
        (BASE + 'on_new_message = "superseed"', "'finish', 'supersede'; did you mean 'supersede'?"),
        (BASE + "on_new_mesage = 1", "[groups.g] has no key 'on_new_mesage'; did you mean 'on_new_message'?"),
        (BASE + SUPERSEDE + 'order = "none"', "groups.g.on_new_message = 'supersede' needs order = \"key\"; without"),
        (BASE + SUPERSEDE + "turn_max = 1", "groups.g.on_new_message = 'supersede' needs turn_max of 2 at least"),
        (BASE + 'supersede_max = "3"', "groups.g.supersede_max = '3' should be a whole number"),
        (BASE + 'attempts = "5"', "groups.g.attempts = '5' should be a whole number"),
        (BASE + "debounce = 11", "groups.g.debounce = 11.0 is longer than debounce_max (10)"),
        (BASE + 'from = "monday"', 'groups.g.from = \'monday\' is not "start", "now", a time ago ("2h")'),
        (BASE + 'from = "2025-13-05"', "groups.g.from = '2025-13-05' is not"),
        (BASE + "from = 20251005", "groups.g.from = 20251005 should be text"),
        (BASE + "batch = 0", "groups.g.batch = 0 should be at least 1"),
        (BASE + "batch_wait = 61", "groups.g.batch_wait = 61 should be at most 60"),
        (BASE + "batch = 1000", "groups.g.batch = 1000 times `concurrency` (16) is 16,000 turns at once; no more"),
        (BASE + SUPERSEDE + "batch = 2", "groups.g.on_new_message = 'supersede' is not for a group with `batch`"),
        (
            BASE + 'writes = ["inbound"]',
            "groups.g.writes = 'inbound' is what the group reads: all it writes would come",
        ),
        (BASE + 'writes = ["outbund"]', "groups.g.writes = 'outbund' is not a stream; did you mean 'outbound'?"),
        (BASE.replace('"a:b"', '"a.b"'), "groups.g.handler = 'a.b' is not of the form 'module:function'"),
        (BASE.replace("groups.g", "groups.G!").replace("[groups.G!]", '[groups."G!"]'), "groups.G! = 'G!' is no name"),
        ("[streems.inbound]", "there is no table 'streems'; did you mean 'streams'?"),
        ("[[actions]]\npatterns = []", "actions[0].name is missing"),
        ('[[actions]]\nname = "x"', "actions.x has neither `patterns` nor a `description`"),
        (
            '[[actions]]\nname = "pedir cita"\ndescription = "x"',
            "actions.name = 'pedir cita' is no name that a model can",
        ),
        (
            '[[actions]]\nname = "x"\ndescription = "x"\n[[actions]]\nname = "x"\ndescription = "y"',
            "actions.name = 'x' has a `description` twice",
        ),
        ("[vocabulary]\nword_2 = 'x'", "vocabulary.word_2 = 'x' has no name; use two letters or more, and _"),
        ("[vocabulary]\nw = 'x'", "vocabulary.w = 'x' has no name"),
        ("[vocabulary]\nword = 2", "vocabulary.word = 2 should be text"),
        ("[vocabulario]\nword = 'x'", "there is no table 'vocabulario'; did you mean 'vocabulary'?"),
        ("streams = 3", "streams = 3"),
        ('inference.temperature = "hot"', "inference.temperature = 'hot' should be a number"),
        ('inference.dtype = "float61"', "inference.dtype = 'float61' is not accepted; write one of 'auto', 'float32'"),
        ('inference.dtype = "float61"', "did you mean 'float16'?"),
        ('inference.device = "cudda:0"', "inference.device = 'cudda:0' is no device; write auto, cpu, cuda or cuda:0"),
        ('inference.device = "cudda:0"', "did you mean 'cuda'?"),
        ('egress.types = ["replies"]', "egress.types[0] = 'replies' is not accepted; write one of 'reply', 'handover'"),
        ('egress.types = ["replies"]', "did you mean 'reply'?"),
        ("egress.types = []", "egress.types = [] should not be empty"),
        ('wait.keep = "1d"', "wait.keep = 86400.0 should be at least egress.expire + wait.max_seconds (86460 seconds)"),
        ('egress.expire = "2d"', "wait.keep = 90000.0 should be at least egress.expire + wait.max_seconds (172860 "),
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


@pytest.mark.parametrize(
    ("line", "bound"),
    [
        ("streams.inbound.max_len = 0", "at least 1"),
        ("groups.g.concurrency = 0", "at least 1"),
        ("groups.g.concurrency = 1001", "at most 1000"),
        ("groups.g.attempts = 0", "at least 1"),
        ("groups.g.processes = 0", "at least 1"),
        ("groups.g.processes = 65", "at most 64"),
        ("groups.g.turn_max = 0", "at least 1"),
        ("groups.g.turn_max = 1001", "at most 1000"),
        ("groups.g.turn_max_chars = 0", "at least 1"),
        ("groups.g.supersede_max = 0", "at least 1"),
        ("groups.g.deadline = 0", "more than 0"),
        ("history.max_messages = 0", "at least 1"),
        ("history.max_messages = -1", "at least 1"),
        ("wait.max_seconds = 0", "more than 0"),
        ("inference.slots = 0", "at least 1"),
        ("inference.max_tokens = 0", "at least 1"),
        ("inference.threads = -1", "at least 0"),
        ("inference.temperature = -0.1", "at least 0"),
        ("inference.temperature = nan", "a finite number"),
        ("inference.temperature = inf", "a finite number"),
        ("inference.top_p = 0", "more than 0"),
        ("inference.top_p = 1.1", "at most 1"),
        ("inference.top_k = -1", "at least 0"),
        ("inference.repetition_penalty = 0.0", "more than 0"),
        ("egress.timeout = '0s'", "more than 0"),
        ("egress.max_chars = 0", "at least 1"),
        ("egress.breaker_failures = 0", "at least 1"),
        ("dead.max_len = 0", "at least 1"),
    ],
)
def test_a_number_out_of_bounds_is_said_with_its_bound(line: str, bound: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse(f"groups.g.reads = 'inbound'\ngroups.g.handler = 'a:b'\n{line}")
    assert str(caught.value) == f"streams.toml: {line} should be {bound}"


def test_every_bound_is_within_reach() -> None:
    text = """
    inference = {temperature = 0, top_p = 1, top_k = 0, threads = 0, dtype = "bfloat16", device = "cuda:1"}
    egress = {types = ["reply", "handover", "typing"], expire = 60}
    wait = {max_seconds = 1, keep = 61}
    """
    top = parse(text)
    assert (top.inference.temperature, top.inference.top_p, top.wait.keep) == (0.0, 1.0, 61.0)


def test_a_file_from_notepad_is_read_without_its_mark(tmp_path: Path) -> None:
    (tmp_path / "streams.toml").write_text(BASE, encoding="utf-8-sig")
    assert list(topology.load(tmp_path / "streams.toml").groups) == ["g"]


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
    assert moments.seconds(text) == expected


@pytest.mark.parametrize("wrong", ["", "5 parsecs", "-1s", -1, True, None, float("inf"), float("nan")])
def test_anything_else_is_no_duration(wrong: object) -> None:
    with pytest.raises(ValueError, match="no duration"):
        moments.seconds(wrong)


LA_PAZ = ZoneInfo("America/La_Paz")
"""Four hours behind UTC, all year."""


@pytest.mark.parametrize(
    ("written", "ms"),
    [
        ('"2025-10-05"', 1759636800000),
        ("2025-10-05", 1759636800000),
        ('"2025-10-05T14:00"', 1759687200000),
        ("2025-10-05T14:00:00", 1759687200000),
        ('"2025-10-05T14:00+02:00"', 1759665600000),
    ],
)
def test_a_date_is_where_a_new_group_begins_in_the_zone_of_its_people(written: str, ms: int) -> None:
    given = parse(BASE + f"from = {written}").dated(1759700000, LA_PAZ)
    # Behind whatever can have come before that millisecond, and before all that came in it
    milliseconds, _, sequence = given.groups["g"].from_.partition("-")
    assert int(milliseconds) == ms - 1
    assert int(sequence) > 1 << 32


@pytest.mark.parametrize("begins", ["start", "now", "2h", "1728123456789-0"])
def test_what_is_no_date_stays_what_it_is(begins: str) -> None:
    assert parse(BASE + f'from = "{begins}"').dated(0, None).groups["g"].from_ == begins


def test_a_date_that_is_still_to_come_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"groups\.g\.from = '2025-10-05' is still to come"):
        parse(BASE + 'from = "2025-10-05"').dated(1759600000, LA_PAZ)
