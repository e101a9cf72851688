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
WEATHER = st.sampled_from([Weather.CLEAR] * 5 + list(Weather))
HOW = st.sampled_from(["does well"] * 4 + ["is silent", "fails", "waits", "refuses"])
JUMPS_MS = [1, 700, 2_000, 9_100, 9_100, 65_000, 3_600_000, -3_000, -3_600_000]


class Pipeline(RuleBasedStateMachine):
    """Posts and faults; every promise holds after every step."""

    server: ClockedServer

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.server.set(START_MS)
        self.loop.run_until_complete(emptied(self.server).close())
        self.stage = Stage(self.server)
        self.do(self.stage.open())

    def do(self, work: Coroutine[Any, Any, Any], weather: Weather = Weather.CLEAR) -> None:
        self.stage.network.weather = weather
        try:
            self.loop.run_until_complete(work)
        finally:
            self.stage.network.weather = Weather.CLEAR

    # the front door

    @rule(person=PEOPLE, count=st.integers(1, 4), together=st.booleans(), weather=WEATHER)
    def somebody_writes(self, person: str, count: int, together: bool, weather: Weather) -> None:
        self.do(self.stage.write(person, count, together), weather)

    @rule(person=PEOPLE, weather=WEATHER)
    def somebody_writes_and_waits(self, person: str, weather: Weather) -> None:
        self.do(self.stage.ask(person), weather)

    @precondition(lambda self: self.stage.posts)
    @rule(which=WHO, waits=st.booleans(), other_text=st.sampled_from([False, False, False, True]), weather=WEATHER)
    def a_client_repeats(self, which: int, waits: bool, other_text: bool, weather: Weather) -> None:
        self.do(self.stage.repeat(which, waits, other_text), weather)

    @precondition(lambda self: self.stage.clients)
    @rule(which=WHO, stop=st.booleans(), weather=WEATHER)
    def a_request_asks_for_its_reply(self, which: int, stop: bool, weather: Weather) -> None:
        self.do(self.stage.claim(which, stop), weather)

    @precondition(lambda self: self.stage.clients)
    @rule(which=WHO, weather=WEATHER)
    def a_client_hangs_up(self, which: int, weather: Weather) -> None:
        self.do(self.stage.hang_up(which), weather)

    @rule(which=st.integers(0, 1))
    def an_ingress_dies_and_starts_again(self, which: int) -> None:
        self.do(self.stage.restart_ingress(which))

    # workers

    @rule(group=st.sampled_from(["answers", "archive", "egress"]))
    def a_worker_starts(self, group: str) -> None:
        self.do(self.stage.hire(group))

    @rule(who=WHO, room=st.integers(1, 3), count=st.integers(1, 6), weather=WEATHER)
    def a_worker_takes(self, who: int, room: int, count: int, weather: Weather) -> None:
        self.do(self.stage.worker(who).take(room, count), weather)

    @precondition(lambda self: self.stage.busy())
    @rule(who=WHO, how=HOW, commit=st.booleans(), weather=WEATHER)
    def a_turn_is_handled(self, who: int, how: str, commit: bool, weather: Weather) -> None:
        self.do(self.stage.handle(who, how, commit), weather)

    @precondition(lambda self: self.stage.busy())
    @rule(who=WHO, weather=WEATHER)
    def what_is_decided_is_committed(self, who: int, weather: Weather) -> None:
        self.do(self.stage.busy()[who % len(self.stage.busy())].commit(), weather)

    @rule(who=WHO, weather=WEATHER)
    def a_worker_beats(self, who: int, weather: Weather) -> None:
        self.do(self.stage.worker(who).beat(), weather)

    @rule(who=WHO)
    def a_worker_dies(self, who: int) -> None:
        self.stage.kill(who)

    @rule(who=WHO, weather=WEATHER)
    def a_worker_says_goodbye(self, who: int, weather: Weather) -> None:
        self.do(self.stage.leave(who), weather)

    @rule(weather=WEATHER)
    def who_is_silent_is_swept(self, weather: Weather) -> None:
        self.do(self.stage.sweep(), weather)

    # the world

    @rule(ms=st.sampled_from(JUMPS_MS), beaten=st.booleans())
    def time_passes(self, ms: int, beaten: bool) -> None:
        self.server.pass_(ms)
        if beaten:
            self.do(self.stage.everybody_beats())

    @precondition(lambda self: self.stage.network.under_way)
    @rule(which=WHO)
    def a_call_that_was_under_way_arrives(self, which: int) -> None:
        self.do(self.stage.arrive(which))

    @rule(group=st.sampled_from(["answers", "archive", "egress"]))
    def redis_forgets_a_group(self, group: str) -> None:
        self.do(self.stage.destroy(group))

    @rule()
    def redis_forgets_the_scripts(self) -> None:
        self.do(self.stage.store.command("SCRIPT", "FLUSH"))

    @invariant()
    def redis_holds_what_was_promised(self) -> None:
        self.do(compare(self.stage))

    def teardown(self) -> None:
        try:
            self.do(self.stage.finish())
            self.do(compare(self.stage))
            self.do(judge(self.stage))
        except BaseException:
            note(f"it is {self.server.now_ms - START_MS} ms after the start")
            raise
        finally:
            self.do(self.stage.close())
            self.loop.close()
