"""The thread and its door, with a model of numbers: who shares a batch harms nobody, and everybody gets one result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from collections.abc import Sequence as Series
from typing import Any

import pytest

from processors.inference.door import Crashed, Died
from processors.inference.engine import Threaded
from processors.inference.generation import Drawing, Generated, Line, Refused, Request, StepFailed, Tool
from processors.inference.scheduler import Move, Piece, Sequence
from streams import metrics
from streams.errors import Crash, Retry

STOP = 0


class Counting:
    """A model that counts down from its prompt's number to 0, and stops.  Its rows are checked at every step."""

    stops = frozenset({STOP})
    context_length = 1000
    drawing = Drawing()

    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        """What each row holds: the number of the sequence that was read or moved there."""
        self.most = 0
        self.gate = threading.Event()
        self.gate.set()
        self.stepped = threading.Event()
        self.guilty: set[int] = set()
        """Prompts that make a step fail."""
        self.unreadable: set[int] = set()
        """Prompts that make a step fail while they are read."""
        self.broken: BaseException | None = None
        self.pieces: list[tuple[int, int]] = []
        """Of prompts, as they were read."""
        self.left: list[int] = []
        """The numbers of those that left with a row in order."""
        self.forgot: list[int] = []
        """How many rows were in use, each time."""

    def start(self) -> None:
        return None

    def offered(self, tools: Series[Tool]) -> Series[Tool]:
        return ()

    def encode(self, lines: Series[Line], max_tokens: int, tools: Series[Tool]) -> list[int]:
        return [int(word) for word in lines[-1].content.split()]

    def check(self, tokens: Series[int]) -> None:
        if not tokens or max(tokens) > 900:
            raise Refused("empty, or too large a number")

    def decode(self, tokens: Series[int]) -> str:
        return " ".join(map(str, tokens))

    def recall(self, row: int, sequence: Sequence) -> int:
        self.rows[row] = sequence.number
        return 0

    def keep(self, row: int, sequence: Sequence) -> None:
        assert self.rows[row] == sequence.number
        self.left.append(sequence.number)

    def forget(self, rows: int) -> None:
        self.forgot.append(rows)
        self.left.clear()

    def step(
        self, first_row: int, sequences: Series[Sequence], piece: Piece | None = None
    ) -> tuple[list[int], int | None]:
        if sequences:
            self.stepped.set()
            self.gate.wait(10)
        self.most = max(self.most, len(sequences))
        for row, sequence in enumerate(sequences, first_row):
            assert self.rows[row] == sequence.number
        return [self._next(sequence) for sequence in sequences], self._read(piece) if piece else None

    def _read(self, piece: Piece) -> int | None:
        assert self.rows[piece.row] == piece.sequence.number
        assert piece.sequence.read < piece.end
        self.pieces.append((piece.sequence.read, piece.end))
        if piece.sequence.prompt[0] in self.unreadable:
            raise RuntimeError("a step failed")
        return self._next(piece.sequence) if piece.whole else None

    def _next(self, sequence: Sequence) -> int:
        if self.broken is not None:
            raise self.broken
        if sequence.prompt[0] in self.guilty and len(sequence.generated) >= 1:
            raise RuntimeError("a step failed")
        return sequence.prompt[0] - len(sequence.generated) - 1

    def move(self, move: Move) -> None:
        self.rows[move.target] = self.rows.pop(move.source)

    def describe(self) -> dict[str, Any]:
        return {"name": "counting"}


def asked(number: int | str, max_tokens: int = 500) -> Request:
    return Request(lines=[Line("user", str(number))], max_tokens=max_tokens)


def counted(number: int) -> str:
    return " ".join(str(left) for left in range(number - 1, 0, -1))


async def test_requests_join_and_leave_the_batch_and_each_gets_its_own(counting: Counting) -> None:
    engine = Threaded(counting, slots=4)
    try:
        results = await asyncio.gather(*(engine.generate(asked(number)) for number in range(1, 30)))
        assert [each.text for each in results] == [counted(number) for number in range(1, 30)]
        assert counting.most == 4
    finally:
        await engine.close()


async def test_who_is_in_the_batch_and_who_waits_before_it_is_told(counting: Counting) -> None:
    engine = Threaded(counting, slots=2)
    counting.gate.clear()
    try:
        asked_for = [asyncio.create_task(engine.generate(asked(number))) for number in (5, 6, 7, 8, 9)]
        await asyncio.to_thread(counting.stepped.wait, 10)
        load = {name: engine.describe()[name] for name in ("running", "waiting")}
        assert load["running"] >= 1
        assert sum(load.values()) == 5
        counting.gate.set()
        await asyncio.gather(*asked_for)
    finally:
        await engine.close()
    assert engine.load() == {"running": 0, "waiting": 0}
    assert metrics.ENGINE_REQUESTS.labels("running")._value.get() == 0


async def test_a_long_prompt_is_read_in_pieces_between_the_steps_of_others(counting: Counting, monkeypatch) -> None:
    monkeypatch.setattr("processors.inference.engine.PIECE", 4)
    engine = Threaded(counting, slots=3)
    counting.gate.clear()
    try:
        short = asyncio.create_task(engine.generate(asked(60)))
        await asyncio.to_thread(counting.stepped.wait, 10)
        long = asyncio.create_task(engine.generate(asked("30 " + "1 " * 9)))
        await asyncio.sleep(0)  # it is in the inbox
        counting.gate.set()
        assert (await long).text == counted(30)
        assert (await short).text == counted(60)
        assert counting.pieces == [(0, 1), (0, 4), (4, 8), (8, 10)]
        assert counting.left == [2, 1]
    finally:
        counting.gate.set()
        await engine.close()


async def test_what_was_known_already_is_not_read_again(counting: Counting, monkeypatch) -> None:
    monkeypatch.setattr("processors.inference.engine.PIECE", 4)
    recall = counting.recall
    monkeypatch.setattr(counting, "recall", lambda row, sequence: recall(row, sequence) + 7)
    engine = Threaded(counting, slots=1)
    try:
        said = await engine.generate(asked("30 " + "1 " * 9))
        assert (said.text, said.prompt_tokens, said.recalled_tokens) == (counted(30), 10, 7)
        assert counting.pieces == [(7, 10)]
    finally:
        await engine.close()


async def test_when_somebody_is_erased_nothing_is_kept_of_what_was_nor_of_what_is_in_work(counting: Counting) -> None:
    engine = Threaded(counting, slots=2)
    try:
        assert (await engine.generate(asked(5))).text == counted(5)
        assert counting.left == [1]
        # Given one who is being answered
        counting.stepped.clear()
        counting.gate.clear()
        working = asyncio.create_task(engine.generate(asked(60)))
        await asyncio.to_thread(counting.stepped.wait, 10)
        engine.forget()
        counting.gate.set()
        # Then it is answered all the same, and its row is given back when it leaves
        assert (await working).text == counted(60)
        assert (await engine.generate(asked(7))).text == counted(7)
        assert (counting.left, counting.forgot) == ([3], [1, 0])
    finally:
        counting.gate.set()
        await engine.close()


async def test_what_cannot_be_kept_is_said_and_harms_nobody(counting: Counting, monkeypatch, caplog) -> None:
    def full(_row: int, _sequence: Sequence) -> None:
        raise MemoryError

    monkeypatch.setattr(counting, "keep", full)
    engine = Threaded(counting, slots=2)
    try:
        assert (await engine.generate(asked(9))).text == counted(9)
        assert (await engine.generate(asked(8))).text == counted(8)
        assert "engine.not_kept" in caplog.text
    finally:
        await engine.close()


async def test_a_reply_is_cut_at_its_limit(counting: Counting) -> None:
    engine = Threaded(counting, slots=2)
    try:
        generated = await engine.generate(asked(50, max_tokens=3))
        assert (generated.text, generated.finish, generated.tokens) == ("49 48 47", "length", 3)
    finally:
        await engine.close()


@pytest.mark.parametrize("bad", ["", "901", "no number"])
async def test_a_bad_request_harms_only_itself(counting: Counting, bad: str) -> None:
    engine = Threaded(counting, slots=2)
    try:
        results = await asyncio.gather(
            engine.generate(asked(20)), engine.generate(asked(bad)), engine.generate(asked(30)), return_exceptions=True
        )
        assert isinstance(results[1], Refused)
        assert [each.text for each in results if isinstance(each, Generated)] == [counted(20), counted(30)]
    finally:
        await engine.close()


@pytest.mark.parametrize("when", ["guilty", "unreadable"])
async def test_a_failing_step_fails_only_the_guilty(counting: Counting, when: str) -> None:
    # It runs, or its prompt is read beside those who do, in one pass that fails for all
    setattr(counting, when, {40})
    engine = Threaded(counting, slots=4)
    try:
        results = await asyncio.gather(
            *(engine.generate(asked(number)) for number in (20, 40, 30, 50)), return_exceptions=True
        )
        assert isinstance(results[1], StepFailed)
        assert [each.text for each in results if isinstance(each, Generated)] == [counted(n) for n in (20, 30, 50)]
        assert engine.ready()
    finally:
        await engine.close()


async def test_a_cancelled_request_leaves_its_slot_to_the_next(counting: Counting) -> None:
    # Given one slot, held by a reply that will not end by itself for long
    counting.gate.clear()
    engine = Threaded(counting, slots=1)
    try:
        first = asyncio.create_task(engine.generate(asked(900)))
        await asyncio.to_thread(counting.stepped.wait, 10)
        second = asyncio.create_task(engine.generate(asked(7)))
        # When its caller gives up in the middle of a step
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        counting.gate.set()
        # Then the next one is answered, and nothing is left behind
        assert (await second).text == counted(7)
        assert not engine._jobs
        assert not engine._scheduler.busy
    finally:
        await engine.close()


async def test_the_event_loop_turns_while_the_model_is_in_a_step(counting: Counting) -> None:
    counting.gate.clear()
    engine = Threaded(counting, slots=1)
    try:
        reply = asyncio.create_task(engine.generate(asked(5)))
        await asyncio.to_thread(counting.stepped.wait, 10)
        # The model stands still, and this goes on.
        assert not reply.done()
        counting.gate.set()
        assert (await reply).text == counted(5)
    finally:
        counting.gate.set()
        await engine.close()


async def test_a_thread_that_dies_says_so_to_all_who_wait_and_to_all_who_come(counting: Counting) -> None:
    counting.gate.clear()
    engine = Threaded(counting, slots=2)
    waiting = [asyncio.create_task(engine.generate(asked(number))) for number in (50, 60, 70)]
    await asyncio.to_thread(counting.stepped.wait, 10)
    counting.broken = SystemExit("killed")
    counting.gate.set()

    ends = await asyncio.gather(*waiting, return_exceptions=True)
    # Any of those in work may be why, so for them it is a crash; for whoever comes later it is none
    assert {type(end) for end in ends} == {Crashed}
    assert not engine.ready()
    with pytest.raises(Retry) as later:
        await engine.generate(asked(5))
    assert not later.value.counted


async def test_a_model_that_fails_for_everybody_is_given_up(counting: Counting) -> None:
    counting.broken = RuntimeError("CUDA error: device-side assert triggered")
    engine = Threaded(counting, slots=2)
    ends = await asyncio.gather(*(engine.generate(asked(number)) for number in range(1, 21)), return_exceptions=True)
    assert {type(end) for end in ends} == {StepFailed, Retry}
    assert not engine.ready()
    with pytest.raises(Died) as death:
        await engine.failed()
    assert not isinstance(death.value, Crash)


async def test_a_model_that_reads_prompts_and_says_nothing_is_given_up(counting: Counting, monkeypatch) -> None:
    # Weights that are not numbers fail where a token is drawn: all pieces of a prompt but the last go through.
    monkeypatch.setattr("processors.inference.engine.PIECE", 4)
    counting.broken = ArithmeticError("the model's logits are not finite")
    engine = Threaded(counting, slots=2)
    try:
        ends = [await _end_of(engine.generate(asked("30 " + "1 " * 9))) for _ in range(20)]
        assert {type(end) for end in ends} == {StepFailed, Retry}
        assert not engine.ready()
    finally:
        await engine.close()


async def _end_of(reply: Coroutine[Any, Any, Generated]) -> Generated | BaseException:
    (end,) = await asyncio.gather(reply, return_exceptions=True)
    return end


async def test_a_step_that_does_not_end_is_a_crash_and_nobody_waits_for_it(counting: Counting, monkeypatch) -> None:
    monkeypatch.setattr("processors.inference.door.STUCK_SECONDS", 0.1)
    counting.gate.clear()
    engine = Threaded(counting, slots=1)
    asking = asyncio.create_task(engine.generate(asked(900)))
    with pytest.raises(Crashed, match="hangs"):
        await asyncio.wait_for(engine.failed(), 10)
    assert not engine.ready()
    await engine.close()  # while the step is still in work
    assert engine._thread.is_alive()
    counting.gate.set()
    asking.cancel()


async def test_closing_tells_those_who_wait_to_come_again(counting: Counting) -> None:
    counting.gate.clear()
    engine = Threaded(counting, slots=1)
    waiting = asyncio.create_task(engine.generate(asked(900)))
    await asyncio.to_thread(counting.stepped.wait, 10)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)  # the request to stop is in before the step ends
    counting.gate.set()
    await closing
    with pytest.raises(Retry):
        await waiting


@pytest.fixture
def counting() -> Counting:
    return Counting()


async def test_whoever_watches_learns_that_the_thread_has_died_and_nothing_of_a_close(counting: Counting) -> None:
    engine, closed = Threaded(counting, slots=1), Threaded(Counting(), slots=1)
    watching, idle = asyncio.create_task(engine.failed()), asyncio.create_task(closed.failed())
    await asyncio.sleep(0)
    counting.broken = SystemExit("no memory")
    with pytest.raises(Crashed):
        await engine.generate(asked(5))
    with pytest.raises(Crashed, match="SystemExit"):
        await asyncio.wait_for(watching, 10)
    with pytest.raises(Died):
        await engine.failed()
    await closed.close()
    assert not idle.done()
    idle.cancel()
