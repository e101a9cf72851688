"""
GET /: one plain page for whoever opens the address in a browser.

Nothing on it comes from elsewhere and nothing runs: no script, no font, no picture.
"""

from __future__ import annotations

import html
from pathlib import Path
from string import Template

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from ingress.health import Health, Picture
from streams.settings import Settings

_PAGE = Template((Path(__file__).parent / "page.html").read_text(encoding="utf-8"))
_EXAMPLE = '{"user_id":"+59112345678","message":"Hola, necesito una cita"}'
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
        links = ["/health", "/model/info", "/metrics"]
        if not self._settings.production:
            links += ["/redis/stats", "/redis/conversations", "/redis/test"]
        content = _PAGE.substitute(
            status=html.escape(picture.status),
            redis=html.escape(picture.redis),
            reasons="".join(f"<li>{html.escape(reason)}</li>" for reason in picture.reasons),
            groups=_rows(picture),
            curl=html.escape(curl),
            links="".join(f'<li><a href="{link}">{link}</a></li>' for link in links),
        )
        return HTMLResponse(content, headers=_HEADERS)


def _rows(picture: Picture) -> str:
    return "".join(
        f"<tr><th>{html.escape(name)}</th><td>{group['workers']:.0f}</td><td>{group['lag']:.0f}</td>"
        f"<td>{group['oldest_s']:.1f} s</td></tr>"
        for name, group in picture.groups.items()
    )
