"""
Whatever can happen, in any order, as rules that Hypothesis draws from.

After every step all that lies in Redis is compared with the models; at the end the faults stop, whoever lives works
until nothing is left, and judge.py reads what came of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from conftest import emptied
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.property.clock import START_MS, ClockedServer
from tests.property.judge import compare, judge
from tests.property.stage import PEOPLE, Stage
from tests.property.wire import Weather

WHO = st.integers(0, 99)
MOSTLY = st.sampled_from([True, True, True, False])
WEATHER = st.sampled_from([Weather.CLEAR] * 7 + list(Weather))
HOW = st.sampled_from(["does well"] * 4 + ["is silent", "fails", "waits", "refuses"])
GROUPS = ["answers", "archive", "egress"]
TROUBLE = [
    "a worker beats",
    "a worker beats",
    "a worker listens",
    "a worker starts",
    "a worker says goodbye",
    "one who lives is thought dead",
    "Redis forgets a group",
    "Redis forgets the scripts",
    "an ingress dies",
]
JUMPS_MS = [1, 700, 2_000, 9_100, 9_100, 40_000, 65_000, 3_600_000, -3_000, -3_600_000]


class Pipeline(RuleBasedStateMachine):
    """Posts and faults; every promise holds after every step."""

    server: ClockedServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server.set(START_MS)
        self.loop.run_until_complete(emptied(self.server).close())
        self.stage = Stage(self.server)
        self.sound = True
        self.do(self.stage.open())

    def do(self, work: Coroutine[Any, Any, Any], weather: Weather = Weather.CLEAR) -> None:
        self.server.pass_(1)  # no two steps are one moment
        self.stage.network.weather = weather
        try:
            self.loop.run_until_complete(work)
        except BaseException:
            self.sound = False
            raise
        finally:
            self.stage.network.weather = Weather.CLEAR

    # the front door

    @rule(person=PEOPLE, count=st.integers(1, 4), together=st.booleans(), weather=WEATHER)
    def somebody_writes(self, person: str, count: int, together: bool, weather: Weather) -> None:
        self.do(self.stage.write(person, count, together), weather)

    @rule(person=PEOPLE, weather=WEATHER)
    def somebody_writes_and_waits(self, person: str, weather: Weather) -> None:
        self.do(self.stage.ask(person), weather)

    @rule(person=PEOPLE, pause_ms=st.sampled_from([0, 0, 0, 20_000]), count=st.integers(1, 2), weather=WEATHER)
    def somebody_who_waits_is_answered(self, person: str, pause_ms: int, count: int, weather: Weather) -> None:
        for _ in range(count):
            self.do(self.stage.ask(person))
            self.server.pass_(pause_ms)
        self.do(self.stage.answer_all(), weather)

    @precondition(lambda self: self.stage.posts)
    @rule(which=WHO, waits=st.booleans(), other_text=st.sampled_from([False, False, False, True]), weather=WEATHER)
    def a_client_repeats(self, which: int, waits: bool, other_text: bool, weather: Weather) -> None:
        self.do(self.stage.repeat(which, waits, other_text), weather)

    @precondition(lambda self: self.stage.clients)
    @rule(which=WHO, what=st.sampled_from(["asks", "asks", "gives up", "hangs up", "reconnects"]), weather=WEATHER)
    def a_request_that_waits(self, which: int, what: str, weather: Weather) -> None:
        if what == "hangs up":
            self.do(self.stage.hang_up(which), weather)
        elif what == "reconnects":
            self.do(self.stage.reconnect(which), weather)
        else:
            self.do(self.stage.claim(which, stop=what == "gives up"), weather)

    @rule(
        who=WHO, person=PEOPLE, count=st.sampled_from([1, 1, 2, 3]), takes=MOSTLY, beats=st.booleans(), weather=WEATHER
    )
    def somebody_writes_while_answered(
        self, who: int, person: str, count: int, takes: bool, beats: bool, weather: Weather
    ) -> None:
        self.do(self.stage.interrupt(who, person, count, takes, beats), weather)

    # workers

    @precondition(lambda self: self.stage.able())
    @rule(who=WHO, room=st.integers(1, 3), count=st.integers(1, 6), in_time=MOSTLY, weather=WEATHER)
    def a_worker_takes(self, who: int, room: int, count: int, in_time: bool, weather: Weather) -> None:
        self.do(self.stage.take(who, room, count, in_time), weather)

    @precondition(lambda self: self.stage.able())
    @rule(who=WHO, hows=st.lists(HOW, min_size=1, max_size=3), weather=WEATHER)
    def a_worker_takes_and_ends_all_there_is(self, who: int, hows: list[str], weather: Weather) -> None:
        self.do(self.stage.take(who, 3, 9, in_time=True))
        if self.stage.busy():
            self.do(self.stage.end_all(who, hows), weather)

    @precondition(lambda self: self.stage.busy())
    @rule(who=WHO, how=HOW, commit=MOSTLY, weather=WEATHER)
    def a_turn_is_handled(self, who: int, how: str, commit: bool, weather: Weather) -> None:
        self.do(self.stage.handle(who, how, commit), weather)

    @precondition(lambda self: self.stage.busy())
    @rule(who=WHO, hows=st.lists(HOW, min_size=1, max_size=3), weather=WEATHER)
    def a_worker_ends_all_it_holds(self, who: int, hows: list[str], weather: Weather) -> None:
        self.do(self.stage.end_all(who, hows), weather)

    @precondition(lambda self: self.stage.able() or self.stage.busy())
    @rule(who=WHO, takes=st.booleans(), swept=MOSTLY, weather=WEATHER)
    def a_worker_dies(self, who: int, takes: bool, swept: bool, weather: Weather) -> None:
        self.do(self.stage.crash(who, takes, swept), weather)

    @precondition(lambda self: self.stage.busy())
    @rule(who=WHO, weather=WEATHER)
    def a_worker_is_frozen_until_it_is_swept_and_goes_on(self, who: int, weather: Weather) -> None:
        self.do(self.stage.freeze(who), weather)

    # the world

    @rule(ms=st.sampled_from(JUMPS_MS), beaten=st.booleans(), swept=st.booleans(), weather=WEATHER)
    def time_passes(self, ms: int, beaten: bool, swept: bool, weather: Weather) -> None:
        self.server.pass_(ms)
        if beaten:
            self.do(self.stage.everybody_beats(), weather)
        if swept:
            self.do(self.stage.sweep(), weather)

    @precondition(lambda self: self.stage.network.under_way)
    @rule(which=WHO)
    def a_call_that_was_under_way_arrives(self, which: int) -> None:
        self.do(self.stage.network.arrive(which))

    @rule(what=st.sampled_from(TROUBLE), who=WHO, weather=WEATHER)
    def something_else_happens(self, what: str, who: int, weather: Weather) -> None:
        match what:
            case "a worker beats":
                self.do(self.stage.worker(who).beat(), weather)
            case "a worker listens":
                self.do(self.stage.worker(who).listen())
            case "one who lives is thought dead":
                self.do(self.stage.sweep_wrongly(who))
            case "a worker starts":
                self.do(self.stage.hire(GROUPS[who % 3]), weather)
            case "a worker says goodbye":
                self.do(self.stage.leave(who), weather)
            case "Redis forgets a group":
                self.do(self.stage.destroy(GROUPS[who % 3]))
            case "Redis forgets the scripts":
                self.do(self.stage.store.command("SCRIPT", "FLUSH"))
            case "an ingress dies":
                self.do(self.stage.restart_ingress(who % 2))

    @invariant()
    def redis_holds_what_was_promised(self) -> None:
        self.do(compare(self.stage))

    def teardown(self) -> None:
        try:
            if self.sound:
                self.do(self.stage.finish())
                self.do(compare(self.stage))
                self.do(judge(self.stage))
        finally:
            note(f"it is {self.server.now_ms - START_MS} ms after the start")
            self.do(self.stage.close())
            self.loop.close()


class Erasing(Pipeline):
    """The same, and people are erased; apart, for that ends what other faults take many steps to prepare."""

    @rule(person=PEOPLE)
    def somebody_is_erased(self, person: str) -> None:
        self.do(self.stage.erase(person))
