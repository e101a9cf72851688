"""
What the model gets to read, as lines: the system prompt, the conversation, what the person says now.

Decides which lines, and which go first where not all fit.  Knows no token and no template: encoding.py makes tokens
of lines, and is asked here only how many there would be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from processors.inference.generation import Line, Refused
from processors.inference.history import Said
from streams import log as logs
from streams.errors import ConfigurationError

log = logs.get("inference")

SHIPPED = Path(__file__).with_name("system_prompt.es.md")

NOT_FROM_A_MODEL = ("notice", "failure", "fallback")
"""Sources whose texts would teach the model to apologise."""


def system_prompt(file: Path | None) -> str:
    """
    The text of SYSTEM_PROMPT_FILE, or of the one that ships with Cauce.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    path = file or SHIPPED
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"environment: SYSTEM_PROMPT_FILE = {str(path)!r} cannot be read: {error}; "
            "name a UTF-8 text file, or unset it to take the one that ships with Cauce"
        ) from error


class PromptFile:
    """
    The text of SYSTEM_PROMPT_FILE, read again when the file has changed, which is looked at once a second at most.

    A file that is just being written is not read: it has to have been the same for a second, or for two looks.

    Raises:
        ConfigurationError: it cannot be read at the start. Later what was read last stays.
    """

    def __init__(self, file: Path | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._again_at = clock, 0.0
        self._path = file or SHIPPED
        self._state = self._seen = self._looked()
        self._complained_of: tuple[int, ...] | None = ()
        self._text = system_prompt(file)

    def text(self) -> str:
        if self._clock() < self._again_at:
            return self._text
        self._again_at = self._clock() + 1
        seen, self._seen = self._seen, self._looked()
        if self._seen != self._state and (self._seen == seen or _at_rest(self._seen)):
            self._read(self._seen)
        return self._text

    def _read(self, state: tuple[int, ...] | None) -> None:
        try:
            text = system_prompt(self._path)
        except ConfigurationError as error:
            if state != self._complained_of:
                log.error("prompt.unreadable", why=str(error))
            self._complained_of = state
            return
        self._text, self._state = text, state
        log.info("prompt.read", characters=len(text))

    def _looked(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _at_rest(state: tuple[int, ...] | None) -> bool:
    return state is not None and time.time_ns() - state[1] > 1_000_000_000


def compose(system: str, before: Sequence[Said], words: str) -> list[Line]:
    """The prompt: what was said before, and what the person says now as the last line."""
    lines = [Line("system", system)] if system else []
    # Whose words stood in for a model's is told of the bot's alone: a person's metadata is what their sender put there.
    lines += [
        Line(said.role, said.content)
        for said in before
        if said.content and not (said.role == "assistant" and said.metadata.get("source") in NOT_FROM_A_MODEL)
    ]
    lines.append(Line("user", words))
    return lines


def alternate(lines: Sequence[Line], *, system: bool = True, opening: bool = True) -> list[Line]:
    """
    Lines as chat templates want them: one system line at most, then person and assistant in turns.

    Args:
        lines: the last is the person's.
        system: False where the template takes no system line; it then stands above the person's first words.
        opening: False where the assistant may not speak first; what it said before the person is then dropped.
    """
    rules = "\n\n".join(line.content for line in lines if line.role == "system")
    talk: list[Line] = []
    for line in lines:
        if line.role == "system" or (line.role == "assistant" and not talk and not opening):
            continue
        if talk and talk[-1].role == line.role:
            talk[-1] = Line(line.role, f"{talk[-1].content}\n{line.content}")
        else:
            talk.append(line)
    if not rules:
        return talk
    if system:
        return [Line("system", rules), *talk]
    first = next(index for index, line in enumerate(talk) if line.role == "user")
    talk[first] = Line("user", f"{rules}\n\n{talk[first].content}")
    return talk


def fit(lines: Sequence[Line], encode: Callable[[Sequence[Line]], list[int]], budget: int) -> list[int]:
    """
    The tokens of as much of a prompt as fits into `budget` tokens.

    The oldest whole turns go first, a quarter of the budget at a time, then the beginning of what the person says now,
    then the end of a system prompt that leaves no room for it.

    Raises:
        Refused: not even a few words fit.
    """
    tokens = encode(lines)
    if len(tokens) <= budget:
        return tokens
    head = list(lines[:1]) if lines[0].role == "system" else []
    body = list(lines[len(head) :])
    # Were no more to go than has to, each prompt would begin elsewhere, and nothing that was computed of the last one
    # would serve the next.  Where only the newest turn leaves so much room, as many stay as there is room for.
    step = max(1, budget // 4)
    steps = -(-(len(tokens) - budget) // step)
    for room in (len(tokens) - steps * step, budget):
        if len(fitting := encode([*head, *_newest(head, body, encode, room)])) <= room:
            return fitting
    return _cut(head, body[-1], encode, budget)


def _newest(head: list[Line], body: list[Line], encode: Callable[[Sequence[Line]], list[int]], room: int) -> list[Line]:
    """As many of the newest turns as there is room for, one at least."""
    starts = [index for index, line in enumerate(body) if line.role == "user"]
    dropped = _smallest(len(starts) - 1, lambda turns: len(encode([*head, *body[starts[turns] :]])) <= room)
    return body[starts[dropped] :]


def _cut(head: list[Line], last: Line, encode: Callable[[Sequence[Line]], list[int]], budget: int) -> list[int]:
    if head and len(encode([*head, Line("user", "")])) > budget // 2:
        rules = head[0].content
        bare = Line("user", "")
        gone = _smallest(
            len(rules), lambda cut: len(encode([Line("system", rules[: len(rules) - cut]), bare])) <= budget // 2
        )
        head = [Line("system", rules[: len(rules) - gone])] if gone < len(rules) else []
    words = last.content
    gone = _smallest(len(words), lambda cut: len(encode([*head, Line("user", words[cut:])])) <= budget)
    tokens = encode([*head, Line("user", words[gone:])])
    if gone >= len(words) or len(tokens) > budget:
        raise Refused(f"the prompt does not fit into the model's context: {budget} tokens are left for it")
    return tokens


def _smallest(limit: int, fits: Callable[[int], bool]) -> int:
    """The smallest number up to `limit` that fits, by halving; `limit` where none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high) // 2
        if fits(middle):
            high = middle
        else:
            low = middle + 1
    return low
