"""Actions guessed from what others have said."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from processors.inference import examples
from processors.inference.actions import Detector, Words
from processors.inference.examples import Examples
from streams import topology
from streams.errors import ConfigurationError
from streams.tables import Action
from streams.topology import Topology

FILE = topology.load(Path(__file__).parents[3] / "streams.toml")
SUNDAY = datetime(2025, 10, 5, 10, 0, tzinfo=UTC).timestamp()
TOLD = {
    "results": [
        f"ya {word} mis resultados del {what}" for word in ("salieron", "estan") for what in ("lunes", "viernes")
    ],
    "none": ["gracias por los resultados", "me hice el examen ayer", "hoy no hubo nada nuevo", "que tenga un buen dia"],
}


def that_ship() -> dict[str, list[str]]:
    return tomllib.loads(examples.SHIPPED["spanish"].read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shipped() -> Detector:
    return Detector.of(FILE.actions, FILE.vocabulary, examples.of(FILE))


def with_examples(folder: Path, text: str, name: str = "own.toml") -> Topology:
    folder.joinpath(name).write_text(text, encoding="utf-8")
    inference = msgspec.structs.replace(FILE.inference, examples=(name,))
    return msgspec.structs.replace(FILE, inference=inference, path=folder / "streams.toml")


def test_what_is_like_what_others_said_is_that() -> None:
    learnt = Examples.learn(TOLD)
    assert learnt.guess("¿ya salieron los resultados del martes?") == "results"
    assert learnt.guess("muchas gracias por todo, que tenga buen dia") is None
    assert learnt.guess("the quick brown fox jumps") is None, "nobody has said a word of it"
    assert learnt.guess("resultados") is None, "one word is a pattern's business"
    assert learnt.guess("") is None


def test_it_is_the_same_each_time() -> None:
    words = "ya estan los resultados"
    assert Examples.learn(TOLD).guess(words) == Examples.learn(dict(reversed(TOLD.items()))).guess(words)


def test_a_guess_has_its_slots_and_says_that_it_is_one(shipped: Detector) -> None:
    found = shipped.detect(
        [Words("mi esposo y yo queremos hacernos ver la vista, nos puede programar el martes a las 10?", SUNDAY)],
        zone=UTC,
    )
    assert found is not None
    assert (found.name, found.slots["date"], found.slots["time"]) == ("book", "2025-10-07", "10:00")
    assert found.guessed
    sure = shipped.detect([Words("quiero cancelar mi cita", SUNDAY)], zone=UTC)
    assert sure is not None
    assert not sure.guessed


@pytest.mark.parametrize(
    "words",
    [
        "Does it come in another color? 🙂",
        "Bom dia, quero saber o preço do produto",
        "👍👍 🙂 ??",
        "Is the doctor in today?",
    ],
)
def test_another_language_is_not_guessed_at(shipped: Detector, words: str) -> None:
    assert shipped.detect([Words(words, SUNDAY)], zone=UTC) is None


def test_of_sentences_that_it_has_not_seen_most_are_found_and_few_wrongly(shipped: Detector) -> None:
    learnt = {text for sentences in that_ship().values() for text in sentences}
    told = [
        (text, name)
        for text, name in json.loads(Path(__file__).with_name("unseen.json").read_text(encoding="utf-8"))
        if text not in learnt
    ]
    assert len(told) >= 320, "what was learnt shows nothing"
    right = wrong = 0
    for text, name in told:
        found = shipped.detect([Words(text, SUNDAY)], zone=UTC)
        right += found is not None and found.name == name
        wrong += found is not None and name == "none"
    asking = sum(name != "none" for _, name in told)
    assert right >= 0.8 * asking, "patterns alone find half of these"
    assert wrong <= 0.05 * (len(told) - asking)


def test_a_file_of_one_s_own_lies_beside_streams_toml(tmp_path: Path) -> None:
    lines = [f"{name} = {json.dumps(sentences)}" for name, sentences in {**TOLD, "book": TOLD["results"]}.items()]
    own = with_examples(tmp_path, "\n".join(lines[1:]))
    learnt = examples.of(own)
    assert learnt is not None
    assert learnt.guess("ya salieron los resultados del martes") == "book"


def test_the_pages_own_file_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "actions.md").read_text(encoding="utf-8")
    (written,) = re.findall(r"## By examples\n.*?```toml\n(.*?)```", page, re.DOTALL)
    own = msgspec.structs.replace(with_examples(tmp_path, written), actions=[Action(name="results", patterns=["x"])])
    assert examples.of(own) is not None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('boook = ["a"]\nnone = ["b"]', "there is no action 'boook'; actions are book, "),
        ('book = ["quiero una cita"]', "'none' is missing"),
        ('book = "quiero"\nnone = ["b"]', "book should be a list of sentences"),
        ("book = [1]", "book should be a list of sentences"),
        ("book =", "is no TOML"),
        ('book = [" "]', "book should be a list of sentences"),
        ('book = ["Una cita, por favor"]\nnone = ["una cita por favor!"]', "stands under book and under none"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ConfigurationError) as wrong:
        examples.of(with_examples(tmp_path, text))
    assert why in str(wrong.value)


def test_several_files_are_learnt_together_and_an_action_by_examples_needs_no_pattern(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('\ufeffresults = ["ya salieron mis análisis?"]', encoding="utf-8")
    actions = [{"name": "results"}, {"name": "book", "patterns": ["x"]}]
    table = {"actions": actions, "inference": {"examples": ["spanish", "own.toml"]}}
    sentences = examples.told(topology.parse(table, tmp_path / "streams.toml"))
    assert sentences["results"] == ["ya salieron mis análisis?"]
    assert len(sentences["book"]) > 200
    assert sentences.keys() == {"results", "book", "none"}
    with pytest.raises(ConfigurationError, match="neither"):
        topology.parse({"actions": actions}, tmp_path / "streams.toml")


def test_a_file_that_is_not_there_is_said_to_be_none() -> None:
    inference = msgspec.structs.replace(FILE.inference, examples=("spanisch",))
    with pytest.raises(ConfigurationError, match="cannot be read: No such file or directory; write spanish"):
        examples.of(msgspec.structs.replace(FILE, inference=inference))


def test_without_examples_or_actions_nothing_is_learnt() -> None:
    assert (
        examples.of(msgspec.structs.replace(FILE, inference=msgspec.structs.replace(FILE.inference, examples=())))
        is None
    )
    assert examples.of(msgspec.structs.replace(FILE, actions=[])) is None


@pytest.mark.slow
def test_what_ships_names_the_shipped_actions_and_what_asks_for_another_asks_for_nothing(tmp_path: Path) -> None:
    names = {action.name for action in FILE.actions}
    assert that_ship().keys() == names | {examples.NOTHING}
    without = [action for action in FILE.actions if action.name != "prices"]
    learnt = examples.of(msgspec.structs.replace(FILE, actions=without))
    assert learnt is not None
    assert learnt.guess("cuánta plata tengo que llevar para la consulta") != "prices"
