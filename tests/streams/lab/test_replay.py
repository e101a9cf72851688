"""
`cauce replay` on what a worker really did: each test has people talk to a bot in this process, then asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import re
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from clinic import ANA, EVA, LUIS, Clinic
from conftest import Server, emptied
from msgspec.structs import replace
from pipeline import CAUCE, pipeline
from protocol import redis_ms
from waiting import until

from processors.inference.handler import reply
from streams import deadletters, topology
from streams.cli import replay as commands_of_replay
from streams.commands import lab, transfer
from streams.commands.lab import Asked
from streams.commands.report import Form
from streams.connection import Store
from streams.deadletters import Wanted
from streams.effects import Turn
from streams.errors import Bury, ConfigurationError
from streams.handlers import find
from streams.lab import runs
from streams.lab.changes import Changes
from streams.lab.gathering import Range
from streams.stores import Stores


@pytest.fixture
def clinic(store: Store, any_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    return Clinic(store, any_server, tmp_path, monkeypatch)


async def snapshot(store: Store) -> dict[bytes, Any]:
    """Every key, its bytes, and until when it lives."""
    names = [name async for page in store.scan("*") for name in page]
    return {name: await store.pipeline([("DUMP", name), ("PTTL", name)]) for name in sorted(set(names))}


def compare(before: dict[bytes, Any], after: dict[bytes, Any]) -> None:
    """Nobody has written: what is gone was to go by itself."""
    for name, (value, left) in after.items():
        assert before[name][0] == value, name
        assert left == -1 if before[name][1] == -1 else left <= before[name][1], name
    assert all(left >= 0 for name, (_, left) in before.items() if name not in after)


@pytest.mark.slow
async def test_the_same_again_comes_out_the_same_and_nothing_in_redis_has_changed(clinic: Clinic) -> None:
    # Given people who ask, ask for a person, are silent, and write in bursts
    async with clinic.open():
        for text in ("Hola", "Quiero una cita con cardiología", "quiero hablar con una persona", "¿Hay alguien?"):
            await clinic.say(ANA, text)
        for text in ("uno", "dos", "tres"):
            await clinic.write(LUIS, text)
        await clinic.write(EVA, "", kind="reaction")
        await clinic.say(EVA, "¿Qué precio tiene?")
    # When all of it is replayed, while nobody else is at this Redis
    before = await snapshot(clinic.store)
    outcome = await clinic.replay()
    after = await snapshot(clinic.store)
    # Then it came out as it was: replies, the handover to staff, silence
    assert set(outcome.verdicts) == {"same"}
    assert outcome.status == 0
    assert outcome["summary"]["people"] == 3
    assert ["handover"] in [[each["type"] for each in row["now"]] for row in outcome["rows"]]
    # And no key was written, made or taken away, and none lives longer; those whose time was over went by themselves
    compare(before, after)


async def test_two_runs_are_equal_to_the_byte(clinic: Clinic) -> None:
    async with clinic.open():
        for person in (ANA, LUIS, EVA):
            await clinic.write(person, "Quiero una cita mañana a las 10")
    one, two = [await clinic.replay() for _ in range(2)]
    assert one["summary"]["digest"] == two["summary"]["digest"]
    for each in (one, two):
        del each["summary"]["ms_now"]
        for row in each["rows"]:
            del row["ms_now"]
    assert one["rows"] == two["rows"]


MINE = {"handler": "mine:handle"}


async def test_what_was_said_before_the_range_is_known_in_it(clinic: Clinic) -> None:
    clinic.handler(
        "past = history.recall(turn)\n"
        "return answer('|'.join(each.content for each in past.conversation.messages) + f' ({past.count})')",
        recall='("conversation", "conversation_meta")', lifespan="opened", retell="retell",
    )  # fmt: skip
    async with clinic.open():
        await clinic.say(ANA, "Hola")
        await clinic.say(ANA, "Quiero una cita")
        await clinic.say(LUIS, "Buenas")
        last = await clinic.say(ANA, "Gracias")
    # As it stood then, with the replies that were sent
    outcome = await clinic.replay(since=last, changes=MINE)
    assert outcome.texts() == ["Hola|Hola|Quiero una cita|Quiero una cita (4)"]
    assert outcome.texts("then") == ["Gracias"]


async def test_in_the_range_a_turn_finds_what_was_said_now_or_what_was_said_then(clinic: Clinic) -> None:
    clinic.handler(
        "past = history.recall(turn)\n"
        "told = history.remember(past, [history.Said(message_id=turn.id, role='assistant', content=said[0].upper(),\n"
        "    timestamp='')], now=0, status='active', ttl_seconds=3600, max_messages=50)\n"
        "return answer('|'.join(each.content for each in past.conversation.messages), *told)",
        recall='("conversation", "conversation_meta")', lifespan="opened", retell="retell",
    )  # fmt: skip
    async with clinic.open():
        for text in ("uno", "dos", "tres"):
            await clinic.say(ANA, text)
    assert (await clinic.replay(changes=MINE)).texts() == ["", "UNO", "UNO|DOS"]
    assert (await clinic.replay(changes=MINE, history="original")).texts() == ["", "uno|uno", "uno|uno|dos|dos"]


async def test_what_staff_did_between_two_turns_is_told_by_what_the_bot_did(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "quiero hablar con una persona")
        await clinic.say(ANA, "¿Hola?")
        await clinic.store.command("DEL", f"paused:{ANA}")  # staff hands back
        await clinic.say(ANA, "Gracias")
        await clinic.say(LUIS, "Hola")
        await clinic.store.command("SET", f"paused:{LUIS}", "2099-01-01T00:00:00Z", "PX", 60_000)  # and takes over
        last = await clinic.say(LUIS, "¿Sigue ahí?")
    outcome = await clinic.replay()
    assert outcome.verdicts == ["same"] * 5
    types = [row["now"][0]["type"] for row in outcome["rows"]]
    assert types == ["reply", "handover", "reply", "reply", "handover"]
    # The same where the range begins behind that
    assert (await clinic.replay(since=last)).verdicts == ["same"]


async def test_what_the_replay_itself_does_otherwise_is_not_taken_for_staffs_doing(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
        await clinic.say(ANA, "¿Y?")
    # Given a change with which the bot falls silent after the first turn, as nobody did then
    clinic.handler(
        "if turn.state['paused']: return answer('silent')\n"
        "return answer('Hola', Write(kind='paused', value=b'2099-01-01T00:00:00Z', ttl_seconds=3600))",
        recall='("conversation", "conversation_meta", "paused")', lifespan="opened", retell="retell",
    )  # fmt: skip
    assert (await clinic.replay(changes=MINE)).texts() == ["Hola", "silent"]


async def test_effects_give_way_to_others_where_a_key_is_there_that_forbids_them(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
        await clinic.say(ANA, "2")
    clinic.handler(
        "effects = answer('first', Write(kind='own', value=b'x', ttl_seconds=60))\n"
        "effects.unless, effects.instead = 'own', lambda: answer('instead')\n"
        "return effects",
        recall='("own",)',
    )
    assert (await clinic.replay(changes=MINE)).texts() == ["first", "instead"]


async def test_a_change_is_shown_word_by_word_and_counts(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Quiero una cita con cardiología")
        await clinic.say(LUIS, "Hola")
    clinic.handler("return answer(' '.join(said).replace('cita', 'hora'))")
    outcome = await clinic.replay(changes=MINE)
    assert outcome.verdicts == ["changed", "same"]
    assert [[*piece] for piece in outcome["rows"][0]["words"]] == [
        ["same", "Quiero una "], ["gone", "cita"], ["come", "hora"], ["same", " con cardiología"],
    ]  # fmt: skip
    assert outcome["summary"]["actions"] == {"book → none": 1}
    assert outcome.status == 1
    assert (await clinic.replay(changes=MINE, form={"tolerate": 1})).status == 0


async def test_silence_where_something_was_said_and_the_other_way_round(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
        await clinic.say(LUIS, "", kind="reaction")
    clinic.handler("return answer('¿Sí?') if said == [''] else None")
    outcome = await clinic.replay(changes=MINE)
    assert outcome.verdicts == ["missing", "new"]
    assert outcome.status == 1


async def test_who_cannot_be_answered_is_said_with_the_reason(clinic: Clinic) -> None:
    async with clinic.open():
        for text in ("error", "bury", "retry", "later", "elsewhere", "Hola", "cancelled"):
            await clinic.say(ANA, text)
    clinic.handler(
        "if said == ['error']: raise ValueError('no')\n"
        "if said == ['bury']: raise Bury('never')\n"
        "if said == ['retry']: raise Retry('not now', after=0)\n"
        "if said == ['later'] and turn.attempt < 3: raise Retry('not yet', after=0)\n"
        "if said == ['cancelled']: raise asyncio.CancelledError\n"
        "if said == ['elsewhere']: return Effects(outputs=[Output(stream='inbound', type='x', body={})])\n"
        "return answer(said[0])"
    )
    outcome = await clinic.replay(changes=MINE)
    assert outcome.verdicts == ["failed", "failed", "failed", "same", "failed", "same", "failed"]
    reasons = [row["why"] for row in outcome["rows"]]
    assert reasons[:3] == ["ValueError: no", "Bury: never", "not now"]
    assert "`writes` lacks" in reasons[4]
    assert reasons[6] == "RuntimeError: the handler cancelled itself"


async def test_dead_letters_are_tried_again_where_they_stood(clinic: Clinic) -> None:
    async def poisoned(turn: Turn) -> Any:
        if b"veneno" in turn.messages[0].body:
            raise Bury("poison")
        return await reply.handle(turn)

    async with clinic.open(replace(reply, handle=poisoned)):
        await clinic.say(ANA, "Hola")
        await clinic.say(ANA, "veneno")
        await clinic.say(ANA, "¿Y?")
        await clinic.say(LUIS, "Hola")
    outcome = await clinic.replay(dead=True)
    assert outcome.texts() == ["veneno"]
    assert outcome.texts("then") == [clinic.topology.texts.failure]
    # What succeeds by now is no regression, neither alone nor among all that was said
    assert (outcome.verdicts, outcome.status) == (["mended"], 0)
    whole = await clinic.replay()
    assert (whole["summary"]["verdicts"], whole.status) == ({"same": 3, "mended": 1}, 0)
    # What still fails is
    clinic.handler("raise Bury('still')")
    still = await clinic.replay(dead=True, changes=MINE)
    assert (still.verdicts, still.status) == (["failed"], 1)
    assert (await clinic.replay(dead=True, changes=MINE, form={"tolerate": 1})).status == 0
    # Also where retention has left nothing but the letter
    await clinic.store.command("DEL", "inbound")
    assert (await clinic.replay(dead=True)).texts() == ["veneno"]


async def test_what_was_put_back_is_replayed_as_what_came_back(clinic: Clinic) -> None:
    # Given a message that was buried without a word, and answered when it was put back
    mended = asyncio.Event()

    async def poisoned(turn: Turn) -> Any:
        if not mended.is_set():
            raise Bury("poison")
        return await reply.handle(turn)

    async with clinic.open(replace(reply, handle=poisoned, buried=None)):
        first = await clinic.say(ANA, "Hola")
        mended.set()
        [letter] = [each async for each in deadletters.letters(clinic.store, "inbound", Wanted())]
        [became] = await deadletters.redrive(clinic.store, "inbound", [[letter.id]], max_len=1000)
        await until(clinic.silent)
    # Then it is there once, and as it was; also in a file
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(), file, pseudonyms=False)
    for asked in ({}, {"file": str(file)}):
        outcome = await clinic.replay(**asked)
        assert [(row["turn"], row["verdict"]) for row in outcome["rows"]] == [(became.detail, "same")]
        assert (outcome["redriven"], outcome.status) == (1, 0)
    # But for a range that ends before it came back
    assert (await clinic.replay(until=first)).verdicts == ["mended"]


async def test_what_was_answered_a_day_late_is_the_same_turn_again(clinic: Clinic) -> None:
    # Given three messages of yesterday, an hour apart, and one of today, which an outage had answered together
    now = await redis_ms(clinic.store)
    ids = [await clinic.write(ANA, str(hour), at=f"{now - (24 - hour) * 3_600_000}-0") for hour in range(3)]
    await clinic.write(LUIS, "Hola", at=f"{now - 20 * 3_600_000}-0")
    today = await clinic.write(ANA, "¿Hay alguien?")
    async with clinic.open():
        pass
    said = ["0", "1", "2", "¿Hay alguien?"]
    # Then a range that ends yesterday holds what Luis said, and no half of Ana's turn, which ended today
    yesterday = await clinic.replay(since="start", until=str(now - 1000))
    assert (yesterday.verdicts, [row["said"] for row in yesterday["rows"]]) == (["same"], [["Hola"]])
    # and one that begins in the middle of it holds all of it
    for since in (ids[1], today):
        outcome = await clinic.replay(since=since, people=(ANA,))
        assert (outcome.verdicts, [row["said"] for row in outcome["rows"]]) == (["same"], [said])


async def test_letters_of_one_turn_are_one_turn_again_however_late_it_was_buried(clinic: Clinic) -> None:
    async def bury(turn: Turn) -> Any:
        raise Bury("poison")

    now = await redis_ms(clinic.store)
    for hour in range(3):
        await clinic.write(ANA, str(hour), at=f"{now - (24 - hour) * 3_600_000}-0")
    async with clinic.open(replace(reply, handle=bury)):
        pass
    outcome = await clinic.replay(dead=True)
    assert [row["said"] for row in outcome["rows"]] == [["0", "1", "2"]]


async def test_a_range_that_held_nothing_is_read_again(clinic: Clinic) -> None:
    async def bury(turn: Turn) -> Any:
        raise Bury("poison")

    async with clinic.open():
        await clinic.say(LUIS, "Hola")
    assert (await clinic.replay(dead=True, anew=False)).texts() == []
    async with clinic.open(replace(reply, handle=bury)):
        await clinic.say(ANA, "veneno")
    assert (await clinic.replay(dead=True, anew=False)).texts() == ["veneno"]


async def test_where_there_is_nothing_to_replay_a_test_has_not_passed(clinic: Clinic, capsys) -> None:
    async def told(**asked: Any) -> tuple[int, str]:
        outcome = await clinic.replay(**asked)
        *_, line = capsys.readouterr().err.splitlines()  # behind what the log says, where that is set up
        return outcome.status, line

    async with clinic.open():
        await clinic.say(ANA, "Hola")
    for asked in ({"since": "3h", "until": "2h"}, {"people": (LUIS,)}):
        status, line = await told(**asked)
        assert (status, "nothing was replayed: there is nothing in this range" in line) == (3, True)
    status, line = await told(dead=True)
    assert (status, "group inference has buried nothing in this range" in line) == (3, True)
    # Nor where nobody had been answered yet, however much is tolerated
    last = await clinic.write(ANA, "¿Y?")
    said = await told(since=last, form={"tolerate": 5})
    assert said == (3, "nothing was replayed: 1 message not answered yet, left out")


async def test_a_range_is_told_by_people_times_and_ids(clinic: Clinic) -> None:
    async with clinic.open():
        ids = [await clinic.say(person, text) for person, text in ((ANA, "1"), (LUIS, "2"), (ANA, "3"), (EVA, "4"))]
    assert (await clinic.replay(people=("591 71111111",))).texts() == ["1", "3"]
    assert (await clinic.replay(since=ids[1], until=ids[2])).texts() == ["2", "3"]
    assert (await clinic.replay(since="1h", until="30m")).texts() == []
    # a date is told by the clinic's clock
    seconds = await redis_ms(clinic.store) / 1000
    now, later = (
        datetime.fromtimestamp(seconds + more, ZoneInfo("America/La_Paz")).strftime("%Y-%m-%dT%H:%M:%S")
        for more in (-600, 600)
    )
    assert (await clinic.replay(since=now, until=later)).texts() == ["1", "2", "3", "4"]
    assert "nothing in this range" in (await clinic.replay(since="1h", until="30m"))["summary"]["notes"][0]


async def test_what_nobody_has_answered_yet_is_left_out(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
    await clinic.write(ANA, "¿Y?")
    outcome = await clinic.replay()
    assert outcome.verdicts == ["same"]
    assert outcome["waiting"] == 1


async def test_where_retention_has_cut_a_conversation_it_is_said(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
        last = await clinic.say(ANA, "Gracias")
    await clinic.store.command("XTRIM", "inbound", "MINID", last)
    outcome = await clinic.replay()
    assert outcome["cut"] == 1
    assert "may have begun shorter" in outcome["summary"]["notes"][0]


async def test_one_persons_turns_are_in_order_and_people_side_by_side(clinic: Clinic) -> None:
    async with clinic.open():
        for text in ("1", "2", "3"):
            for person in (ANA, LUIS, EVA):
                await clinic.say(person, text)
    # Each waits until all three are there, so one after the other they would wait for ever
    clinic.handler(
        "global here\n"
        "here = globals().get('here') or asyncio.Barrier(3)\n"
        "async with here: pass\n"
        "count = int(turn.state['own'] or 0) + 1\n"
        "return answer(str(count), Write(kind='own', value=str(count).encode(), ttl_seconds=60))",
        recall='("own",)',
    )
    assert (await clinic.replay(changes=MINE)).verdicts == ["same"] * 9


async def test_state_that_nobody_can_retell_begins_empty_or_is_made_by_the_handler(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
        await clinic.say(ANA, "2")
        last = await clinic.say(ANA, "3")
    clinic.handler(
        "count = int(turn.state['own'] or 0) + 1\n"
        "return answer(str(count), Write(kind='own', value=str(count).encode(), ttl_seconds=60))",
        recall='("own",)',
    )
    outcome = await clinic.replay(since=last, changes=MINE)
    assert outcome.texts() == ["1"]
    assert outcome["missing"] == ["own"]
    with pytest.raises(ConfigurationError, match="nobody knows what mine:handle found of its own then"):
        await clinic.replay(since=last, changes=MINE, history="original")
    again = await clinic.replay(since=last, changes=MINE, history="rerun")
    assert again.verdicts == ["same"]
    assert again["missing"] == []


async def test_a_run_that_was_cut_off_goes_on_where_it_stood(clinic: Clinic) -> None:
    async with clinic.open():
        for text in ("1", "2", "3", "4"):
            await clinic.say(ANA, text)
    done, stop = clinic.folder / "done", clinic.folder / "stop"
    clinic.handler(
        "count = int(turn.state['own'] or 0) + 1\n"
        f"while said == ['3'] and not __import__('os').path.exists({str(stop)!r}): await asyncio.sleep(0.01)\n"
        f"with open({str(done)!r}, 'a') as file: file.write(said[0])\n"
        "return answer(str(count), Write(kind='own', value=str(count).encode(), ttl_seconds=60))",
        recall='("own",)',
    )
    asked = Asked(changes=Changes(**MINE))

    async def two_are_done() -> bool:
        return done.exists() and done.read_text() == "12"

    # Given a run that is cut off in the third of four turns
    cut = asyncio.create_task(lab.replay(clinic.place, asked, Form()))
    await until(two_are_done)
    cut.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await cut
    stop.touch()
    # When the same is asked again, the two are not handled again, and what they left is there
    outcome = await clinic.replay(anew=False, changes=MINE)
    assert done.read_text() == "1234"
    assert outcome.verdicts == ["same"] * 4
    # And it can be shown again
    form = Form(as_json=True)
    assert await lab.replay(clinic.place, lab.of_run(clinic.place, outcome["run"]), form, resume=outcome["run"]) == 0
    assert done.read_text() == "1234"


async def test_a_run_that_goes_on_says_since_when_by_the_clock_of_the_people(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
    monkeypatch.setenv("TIMEZONE", "Asia/Kolkata")
    run = runs.Run(clinic.folder / "data" / "replays", lab.Lab(clinic.place, Asked()).name)
    run.begin_anew()
    run.tell("asked", Asked())
    run.tell("range", Range(first="0", last="1"))
    run.tell("cut", {"people": 0, "of": 0, "begins_ms": 0})
    run.tell("planned", 1728123456.789)
    run.close()
    await lab.replay(clinic.place, Asked(), Form())
    assert "of 05.10. 15:47 goes on" in capsys.readouterr().err


async def test_a_run_of_which_not_all_was_gathered_begins_anew(
    clinic: Clinic, capsys: pytest.CaptureFixture[str]
) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
    # Given the file of a run that knows what it was asked and when it was planned, and nothing else
    run = runs.Run(clinic.folder / "data" / "replays", lab.Lab(clinic.place, Asked()).name)
    run.begin_anew()
    run.tell("asked", Asked())
    run.tell("planned", 1728123456.789)
    run.close()
    # When it is resumed, it is replayed as if it had never begun
    asked = lab.of_run(clinic.place, run.name)
    assert await lab.replay(clinic.place, asked, Form(as_json=True), resume=run.name) == 0
    told = capsys.readouterr()
    assert "goes on" not in told.err
    assert "same" in told.out


@pytest.mark.slow
async def test_of_two_who_ask_the_same_one_is_told_that_it_is_under_way(clinic: Clinic) -> None:
    held = runs.Run(clinic.folder / "data" / "replays", lab.Lab(clinic.place, Asked()).name)
    with pytest.raises(ConfigurationError, match="another `cauce replay` is at this run"):
        await lab.replay(clinic.place, Asked(), Form())
    held.close()


async def test_it_is_as_fast_as_is_asked(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
        await clinic.say(LUIS, "2")
    assert (await clinic.replay(speed=1.0)).verdicts == ["same"] * 2


@pytest.mark.slow
async def test_what_acts_outside_redis_is_refused(clinic: Clinic) -> None:
    with pytest.raises(ConfigurationError, match=r"egress is not for replaying: its handler .*:deliver acts outside"):
        await lab.replay(clinic.place, Asked(group="egress"), Form())


async def test_a_handler_finds_no_redis_and_is_told_so_at_once(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
    (clinic.folder / "mine.py").write_text("""
from contextlib import asynccontextmanager
from streams import handler

@asynccontextmanager
async def opened(group, topology, settings, stores):
    yield stores

@handler(lifespan=opened)
async def handle(turn):
    store = turn.resources.of(turn.key)
    await store.command("SET", store.keys.of("own", "x"), "y")
""")
    outcome = await clinic.replay(changes=MINE)
    assert outcome.verdicts == ["failed"]
    assert outcome["rows"][0]["why"] == "Unavailable: there is no Redis in a replay"


async def test_a_handler_of_batches_is_given_batches_of_one(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
        await clinic.say(LUIS, "2")
    clinic.handler("return answer(said[0])")
    with (clinic.folder / "mine.py").open("a") as file:
        file.write(
            "\n@handler(batch=True)\nasync def all(turns): return [await handle.handle(turn) for turn in turns]\n"
        )
    changes = {"handler": "mine:all", "sets": ["groups.inference.batch=10"]}
    assert (await clinic.replay(changes=changes)).verdicts == ["same"] * 2


async def test_who_was_over_the_rate_limit_is_left_out_and_counted(clinic: Clinic) -> None:
    # Given somebody who may write twice a minute: the third time they are told so, the fourth time nothing
    async with clinic.open(limit=2):
        for text in ("uno", "dos", "tres", "cuatro"):
            await clinic.say(ANA, text)

    # Then what a replay, which knows no limit, cannot repeat is no change
    outcome = await clinic.replay()
    assert outcome.verdicts == ["same", "same"]
    assert (outcome.status, outcome["limited"]) == (0, 2)
    assert outcome.texts() == ["uno", "dos"]


async def three_messages_and_then_a_group(clinic: Clinic, order: str) -> None:
    """Ana is answered three times; then a group `counting`, of the handler that was written, reads all of it."""
    with (clinic.folder / "streams.toml").open("a") as file:
        file.write(f'\n[groups.counting]\nreads = "inbound"\nwrites = ["statuses"]\norder = "{order}"\n')
        file.write('handler = "mine:handle"\n')
    clinic.topology = topology.load(clinic.folder / "streams.toml").debounced(0)
    async with clinic.open():
        for text in ("1", "22", "333"):
            await clinic.say(ANA, text)
    async with clinic.open(find(clinic.topology.group("counting"), clinic.topology), "counting"):
        pass


async def test_a_group_without_order_and_with_outputs_of_its_own(clinic: Clinic) -> None:
    clinic.handler(
        "person, body = turn.messages[0].decode(Inbound).user_id, {'chars': len(said[0])}\n"
        "return Effects(outputs=[Output(stream='statuses', type='count', key=person, body=body)])"
    )
    await three_messages_and_then_a_group(clinic, order="none")
    outcome = await clinic.replay(group="counting")
    assert outcome.verdicts == ["same"] * 3
    assert [json.loads(text)["chars"] for text in outcome.texts()] == [1, 2, 3]


async def test_what_a_group_that_came_late_took_together_is_one_turn_again(clinic: Clinic) -> None:
    # Given a group that is there only when Ana has been answered three times, and that names no message in what it says
    clinic.handler("return Effects(outputs=[Output(stream='statuses', type='count', body={'said': len(said)})])")
    await three_messages_and_then_a_group(clinic, order="key")

    # Then it is asked of all three together, as it was then
    outcome = await clinic.replay(group="counting")
    assert outcome.verdicts == ["same"]
    assert [json.loads(text)["said"] for text in outcome.texts()] == [3]


async def test_in_several_shards_as_in_one(clinic: Clinic, any_server: Server, capsys) -> None:
    config = clinic.folder / "streams.toml"
    config.write_text("shards = 3\n" + config.read_text())
    stores = Stores.open(any_server.url, shards=3)
    clinic.topology = topology.load(config).debounced(0)
    for store in stores:
        clinic.store = store
        async with clinic.open():
            for person in (ANA, LUIS, EVA):
                if stores.of(person) is store:
                    await clinic.say(person, "quiero una cita")
                    await clinic.say(person, "Gracias")
    outcome = await clinic.replay()
    assert outcome.verdicts == ["same"] * 6
    # And where it is imported into one
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(), file, pseudonyms=False)
    one = emptied(any_server)
    config.write_text(config.read_text().removeprefix("shards = 3\n"))
    await transfer.bring(clinic.place, file, yes=True)
    assert "could not keep" not in capsys.readouterr().out
    assert (await clinic.replay()).verdicts == ["same"] * 6
    for each in (*stores, one):
        await each.close()


async def test_what_two_shards_gave_one_id_is_two_turns_of_a_group_without_order(
    clinic: Clinic, any_server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    # Given three people of three shards, to whose messages Redis gave the same id
    clinic.handler("return answer(said[0])")
    config = clinic.folder / "streams.toml"
    table = '[groups.counting]\nreads = "inbound"\nwrites = ["outbound"]\norder = "none"\nhandler = "mine:handle"\n'
    config.write_text(f"shards = 3\n{config.read_text()}\n{table}")
    clinic.topology = topology.load(config).debounced(0)
    stores = Stores.open(any_server.url, shards=3)
    people = [next(name for name in map(str, range(99)) if stores.of(name) is store) for store in stores]
    at = f"{await redis_ms(clinic.store)}-0"
    for clinic.store, person in zip(stores, people, strict=True):
        await clinic.write(person, person, at=at)
        async with clinic.open(find(clinic.topology.group("counting"), clinic.topology), "counting"):
            pass
    # Then each is replayed, and none is lost in a file
    outcome = await clinic.replay(group="counting")
    assert outcome.texts() == [row["person"] for row in outcome["rows"]]
    assert sorted(outcome.texts()) == sorted(people)
    await transfer.export(clinic.place, Asked(group="counting"), clinic.folder / "some.jsonl", pseudonyms=False)
    assert "3 entries" in capsys.readouterr().out
    await stores.close()


async def test_what_a_handler_is_told_can_be_tried_and_what_a_replay_goes_by(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
    clinic.handler("return answer(str(turn.resources is not None))", lifespan="opened")
    for sets in (["inference.temperature=0"], ["groups.inference.deadline=9"]):
        assert (await clinic.replay(changes={**MINE, "sets": sets, "model": "echo"})).texts() == ["True"]


@pytest.mark.parametrize(
    ("asked", "changes", "why"),
    [
        ({"since": "yesterday"}, {}, "--from 'yesterday' is no time: write 2h"),
        ({"since": "3d", "until": "4d"}, {}, "--from 3d lies behind --to 4d, so there is nothing between them"),
        ({"people": ("a/b",)}, {}, "--user must not contain '/'"),
        ({"group": "inferrence"}, {}, "no group 'inferrence'; did you mean 'inference'"),
        ({"file": "nowhere.jsonl"}, {}, "nowhere.jsonl: cannot be read"),
        ({}, {"prompt": "nowhere.md"}, "--prompt 'nowhere.md': no such file"),
        ({}, {"sets": ["inference.temprature=0"]}, "no key 'temprature'; did you mean 'temperature'"),
        ({}, {"sets": ["inference.temperature=-1"]}, "temperature = -1 should be at least 0"),
        ({}, {"sets": ["temperature"]}, "--set 'temperature' is no change; write inference.temperature=0"),
        ({}, {"sets": ["shards.x=0"]}, "'shards' is no table"),
        ({}, {"handler": "mine:handel"}, "mine has no 'handel'; did you mean 'handle'"),
        ({}, {"handler": "mine"}, "is not of the form 'module:function'"),
        (
            {},
            {"sets": ["groups.inference.debounce = 5"]},
            "would try nothing: which messages were one turn stays as it was",
        ),
        (
            {},
            {**MINE, "prompt": "streams.toml"},
            "--prompt streams.toml would try nothing: mine:handle has no `lifespan`",
        ),
        ({}, {**MINE, "model": "other"}, "--model other would try nothing"),
        ({}, {**MINE, "sets": ["inference.temperature=0"]}, "--set inference.temperature=0 would try nothing"),
        ({}, {**MINE, "sets": ["groups.egress.deadline=9"]}, "--set groups.egress.deadline=9 would try nothing"),
    ],
)
async def test_what_cannot_be_is_one_sentence(clinic: Clinic, asked, changes, why) -> None:
    clinic.handler("return None")
    (clinic.folder / "streams.toml").write_text("shards = 1\n" + (clinic.folder / "streams.toml").read_text())
    with pytest.raises(ConfigurationError, match=re.escape(why)):
        await clinic.replay(changes=changes, **asked)


def test_a_value_is_as_toml_has_it_and_a_bare_word_is_text(clinic: Clinic) -> None:
    sets = ["inference.temperature=0", "inference.stop=['.']", "texts.failure=Perdón", "groups.inference.from=now"]
    tried = Changes(sets=sets).of_file(clinic.folder / "streams.toml", "inference")
    assert (tried.inference.temperature, tried.inference.stop, tried.texts.failure) == (0, (".",), "Perdón")
    assert tried.group("inference").from_ == "now"


def test_how_a_speed_is_written() -> None:
    assert [commands_of_replay._speed(text) for text in (None, "1x", "10", "0.5x")] == [None, 1, 10, 0.5]
    for text in ("0x", "fast", "-1x", ""):
        with pytest.raises(ConfigurationError, match="is no speed"):
            commands_of_replay._speed(text)
    with pytest.raises(ConfigurationError, match="write replayed, original, rerun"):
        commands_of_replay._history("new")


def cauce(clinic: Clinic, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "streams.cli", *arguments]
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # a shell's background ignores it
    return subprocess.Popen(
        command, cwd=clinic.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heard
    )  # fmt: skip


@pytest.mark.slow
async def test_a_replay_that_is_killed_goes_on_with_the_same_command(clinic: Clinic) -> None:
    async with clinic.open():
        for text in "12345678":
            await clinic.say(ANA, text)
    done = clinic.folder / "done"
    clinic.handler(
        f"with open({str(done)!r}, 'a') as file: file.write(said[0])\n"
        "await asyncio.sleep(0.2)\n"
        "count = int(turn.state['own'] or 0) + 1\n"
        "return answer(str(count), Write(kind='own', value=str(count).encode(), ttl_seconds=60))",
        recall='("own",)',
    )

    async def in_the_fourth() -> bool:
        return done.exists() and len(done.read_text()) == 4

    # Given a replay that is killed in its fourth turn
    killed = cauce(clinic, "replay", "--handler", "mine:handle")
    await until(in_the_fourth)
    killed.kill()
    killed.communicate()
    # When the same command is given again
    again = cauce(clinic, "replay", "--handler", "mine:handle", "--json")
    out, err = await asyncio.to_thread(again.communicate, timeout=60)
    # Then only the turn that was in work is handled twice, and the state it finds is that of the three before it
    assert "3 of 8 turns are done" in err
    assert done.read_text() == "123445678"
    assert (json.loads(out)["summary"]["verdicts"], again.returncode) == ({"same": 8}, 0)


@pytest.mark.slow
async def test_ctrl_c_says_how_to_go_on(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "1")
    started = clinic.folder / "started"
    clinic.handler(f"open({str(started)!r}, 'w').close()\nawait asyncio.sleep(60)")

    async def it_has_started() -> bool:
        return started.exists()

    running = cauce(clinic, "replay", "--handler", "mine:handle")
    await until(it_has_started)
    running.send_signal(signal.SIGINT)
    _, err = await asyncio.to_thread(running.communicate, timeout=60)
    assert running.returncode == 130
    assert "was cut off; the same command goes on" in err
    assert "Traceback" not in err


@pytest.mark.slow
async def test_of_a_whole_pipeline_nothing_is_touched(own_server: Server, tmp_path: Path) -> None:
    async with pipeline(own_server, DEBOUNCE="0.3", DATA_DIR=str(tmp_path)) as whole:
        # Given a pipeline that has answered many, bursts among them, and has been stopped
        async def talk(person: str) -> None:
            for text in ("Hola", "quiero una cita", "mañana a las 10", "quiero hablar con una persona"):
                await whole.say(person, text)

        await asyncio.gather(*(talk(f"+5917000{n:04d}") for n in range(20)))
        answered = len(await whole.sink.received(20))
        for name in ("ingress", "inference", "egress"):
            await whole.stop(name)
        before = await snapshot(whole.store)
        # When all that it did is replayed
        command = [str(CAUCE), "-c", str(whole.config), "replay", "--json"]
        child = await asyncio.create_subprocess_exec(
            *command, cwd=whole.folder, env=whole.environment, stdout=asyncio.subprocess.PIPE
        )  # fmt: skip
        out, _ = await child.communicate()
        # Then it comes out the same, no key is another, and nothing was sent
        outcome = json.loads(out)
        assert outcome["summary"]["verdicts"] == {"same": outcome["summary"]["turns"]}
        assert outcome["summary"]["people"] == 20
        assert child.returncode == 0
        compare(before, await snapshot(whole.store))
        assert len(whole.sink.requests) == answered
