"""
GET /analytics: what was counted, for programs.

Knows its parameters and how a wrong one is refused; what is in the answer is streams/analytics.py's.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.responses import Response

from ingress.refusal import Json, Refused
from streams import analytics
from streams.analytics import ANALYTICS, Asked
from streams.buckets import UNITS, Calendar
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

_DAY = (
    r"(20[0-9]{2}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    r"|02-(0[1-9]|1[0-9]|2[0-8]))|20([02468][048]|[13579][26])-02-29)"
)
MOMENT = rf"^([0-9]{{1,6}}[mhdwy]|{_DAY}(T([01][0-9]|2[0-3]):[0-5][0-9])?)?$"
NAME = "^([a-z][a-z0-9_-]{0,99})?$"
UNIT = f"^({'|'.join(UNITS)})?$"

_FORMS = {
    "since": (MOMENT, "is no time: write 2h, 7d, 2025-10-05 or 2025-10-05T14:00"),
    "until": (MOMENT, "is no time: write 2h, 7d, 2025-10-05 or 2025-10-05T14:00"),
    "by": (UNIT, "should be minute, hour or day"),
    "of": (NAME, "is no name of a group"),
}


class Analytics:
    """The page of one ingress."""

    def __init__(self, stores: Stores, topology: Topology, settings: Settings) -> None:
        self._stores, self._topology = stores, topology
        self._calendar = Calendar(settings.zone, topology.tallies)

    async def show(self, request: Request) -> Response:
        """GET /analytics?since=&until=&by=&of="""
        given = {name: request.query_params.get(name) or "" for name in _FORMS}
        for name, (form, why) in _FORMS.items():
            if not re.fullmatch(form, given[name]):
                raise Refused(400, "invalid_field", f"`{name}` {why}")
        asked = Asked(
            since=given["since"] or "1d",
            until=given["until"] or None,
            by=given["by"] or None,
            of=given["of"] or ANALYTICS,
            any_order=True,
        )
        try:
            return Json(await analytics.report(self._stores, self._topology, self._calendar, asked))
        except analytics.Unclear as unclear:  # the forms let none pass but a name
            raise Refused(400, "invalid_field", f"`of`: {unclear}") from None
