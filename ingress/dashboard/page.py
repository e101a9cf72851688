"""
GET /: one plain page for whoever opens the address in a browser.

Nothing on it comes from elsewhere and nothing runs: no script, no font, no picture.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ingress.health import Health, Picture
from streams.settings import Settings

_PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
_EXAMPLE = '{"user_id":"+59112345678","message":"Hola, necesito una cita"}'
_LINKS = {
    "/health": "how each group does, and why not well",
    "/model/info": "the model that answers",
    "/analytics": "counts by hour or day: messages, people, how long replies took, where its groups are switched on",
    "/metrics": "for Prometheus",
    "/openapi.json": "every route, for programs",
}
_IN_DEVELOPMENT = {
    "/redis/stats": "what lies in Redis",
    "/redis/conversations": "who has a conversation",
    "/redis/test": "a write, a read and a deletion",
}
_COMMANDS = {
    "cauce top": "all of this live; `cauce status`, once",
    "cauce trace +59112345678": "what happened to a person's latest messages; of one message, `GET /timeline/{id}`",
    "cauce replay --from 2h": "answers again what was said, with another prompt or model, say, and compares",
    "cauce dead list": "what was given up, and why",
    "cauce group list": "who reads which stream; `cauce new group orders` begins one of your own",
}
_HEADERS = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}


class Page:
    """The page of one ingress."""

    def __init__(self, settings: Settings, health: Health) -> None:
        self._settings = settings
        self._health = health

    async def show(self, request: Request) -> Response:
        picture, _ = await self._health.look()
        base = f"{request.url.scheme}://{request.headers.get('host', 'localhost')}"
        token = ' \\\n  -H "Authorization: Bearer $INGRESS_TOKEN"' if self._settings.ingress_tokens else ""
        headers = f"-H 'Content-Type: application/json' -H 'Prefer: wait=20'{token}"
        curl = f"curl -sS {base}/chat {headers} \\\n  -d '{_EXAMPLE}'"
        links = _LINKS if self._settings.production else _LINKS | _IN_DEVELOPMENT
        content = _PAGE.substitute(
            status=html.escape(picture.status),
            redis=html.escape(picture.redis),
            reasons="".join(f"<li>{html.escape(reason)}</li>" for reason in picture.reasons),
            groups=_rows(picture),
            curl=html.escape(curl),
            links=_list({f'<a href="{link}">{link}</a>': words for link, words in links.items()}),
            commands=_list({f"<code>{command}</code>": words for command, words in _COMMANDS.items()}),
        )
        return HTMLResponse(content, headers=_HEADERS)


def _list(told: dict[str, str]) -> str:
    """What stands between ` in the words is code."""
    lines = "\n".join(f"<li>{what}: {html.escape(words, quote=False)}</li>" for what, words in told.items())
    return re.sub("`([^`]+)`", r"<code>\1</code>", lines)


def _rows(picture: Picture) -> str:
    return "".join(
        f"<tr><th>{html.escape(name)}</th><td>{group['workers']:.0f}</td><td>{group['lag']:.0f}</td>"
        f"<td>{group['oldest_s']:.1f} s</td></tr>"
        for name, group in picture.groups.items()
    )
