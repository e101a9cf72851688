"""
GET /timeline/{id}: what happened to a message, or to a person's latest ones; and the same for whoever asks elsewhere.

Knows how people and times may be written, and what is hidden.  Finding and telling is of streams/.
"""

from __future__ import annotations

from datetime import tzinfo
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress.refusal import Json, Refused
from streams import people
from streams.masking import Mask
from streams.moments import seconds
from streams.people import Unusable
from streams.stores import Stores
from streams.story import finding
from streams.story.finding import Unknown
from streams.story.timeline import Timeline, folded
from streams.topology import Topology

LONGEST = people.LONGEST_ID
MOST = 200
"""Of a person's messages that are told at once."""

SINCE = 86_400.0

__all__ = ["Question", "Timelines", "Unusable", "ask", "plain"]


class Question(msgspec.Struct, frozen=True):
    """What somebody asks."""

    id: str
    user: str | None = None
    """Whose message it is."""
    since_seconds: float = SINCE
    count: int = 20
    """Which of a person's messages."""


async def ask(
    stores: Stores,
    topology: Topology,
    question: Question,
    look: finding.Look = lambda _: None,
    zone: tzinfo | None = None,
) -> Timeline | list[Timeline]:
    """
    Raises:
        Unusable: a person that can be none.
        Unknown: nothing is known of it.
        Unavailable: Redis cannot be reached.
    """
    numbers = topology.users.phone_numbers
    user = people.person(question.user, phone_numbers=numbers) if question.user is not None else None
    return await finding.tell(
        stores,
        topology,
        question.id,
        user=user,
        person=None if user is not None else _number(question.id, phone_numbers=numbers),
        since_seconds=question.since_seconds,
        count=question.count,
        look=look,
        zone=zone,
    )


def _number(id: str, *, phone_numbers: bool) -> str | None:
    """The person, where it is a telephone number and so no message's id."""
    if finding.ENTRY.fullmatch(id):
        return None
    try:
        person = people.person(id)
    except Unusable:
        return None
    if not person.startswith("+") or not person[1:].isdecimal():
        return None
    return person if phone_numbers else id


def plain(told: Timeline | list[Timeline], *, full: bool, mask: Mask) -> Any:
    """For machines: a message's timeline, or each of a person's in a line; masked unless `full`."""
    if isinstance(told, Timeline):
        found = msgspec.to_builtins(told)
    else:
        found = {"person": told[0].person, "messages": [folded(one) for one in told]}
    return found if full else {name: mask.field(name, value) for name, value in found.items()}


class Timelines:
    """Tells stories over HTTP."""

    def __init__(self, stores: Stores, topology: Topology, zone: tzinfo | None) -> None:
        self._stores = stores
        self._topology = topology
        self._zone = zone
        self._mask = Mask()

    async def read(self, request: Request) -> Response:
        """GET /timeline/{id}"""
        id, query = request.path_params["id"], _parameters(request)
        if not id:
            raise Refused(404, "not_found", "write a message's id or a person behind /timeline/")
        if len(id) > LONGEST:
            raise Refused(400, "invalid_field", f"an id has at most {LONGEST} characters")
        try:
            question = Question(id, query.get("user"), _since(query.get("since")), _count(query.get("n")))
            told = await ask(self._stores, self._topology, question, zone=self._zone)
        except Unusable as wrong:
            raise Refused(400, "invalid_field", f"`user` {wrong}") from None
        except Unknown as unknown:
            raise Refused(404, "unknown_message", self._mask.text(str(unknown))) from None
        return Json(plain(told, full=query.get("full") == "yes", mask=self._mask))


def _parameters(request: Request) -> dict[str, str]:
    query = request.query_params
    for name in ("user", "since", "n", "full"):
        if len(query.getlist(name)) > 1:
            raise Refused(400, "invalid_field", f"`{name}` may be there once")
    if query.get("full", "no") not in ("yes", "no"):
        raise Refused(400, "invalid_field", "`full` is yes or no")
    return dict(query)


def _since(given: str | None) -> float:
    try:
        return SINCE if given is None else seconds(given)
    except ValueError as error:
        raise Refused(400, "invalid_field", f"`since` {error}") from None


def _count(given: str | None) -> int:
    if given is None:
        return 20
    if not (given.isascii() and given.isdigit() and 1 <= int(given[:9]) <= MOST):
        raise Refused(400, "invalid_field", f"`n` must be from 1 to {MOST}")
    return int(given)
