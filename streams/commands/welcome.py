"""
What a newcomer reads once everything runs: where to post, where replies go, and a line to paste.
"""

from __future__ import annotations

from collections.abc import Callable

from streams.masking import bare
from streams.settings import Settings

_EXAMPLE = '{"user_id":"+59112345678","message":"Hola, necesito una cita"}'


def address(settings: Settings, port: int | None = None) -> str:
    """How to reach the ingress from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(settings.ingress_host, settings.ingress_host)  # noqa: S104
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"http://{host}:{settings.ingress_port if port is None else port}"


def text(settings: Settings, port: int, bold: Callable[[str], str]) -> str:
    """Several lines; tokens are not shown."""
    base = address(settings, port)
    header = ' \\\n       -H "Authorization: Bearer $INGRESS_TOKEN"' if settings.ingress_tokens else ""
    lines = [
        "",
        f"  {bold('Cauce is ready')}   {bold(base)}",
        f"  Model           {settings.model}{_about_the_model(settings)}",
        f"  Replies go to   {_destination(settings)}",
        "",
        "  Say something, and read the reply here:",
        f"""  curl -sS {base}/chat -H 'Content-Type: application/json' -H 'Prefer: wait=20'{header} \\
       -d '{_EXAMPLE}'""",
        "",
        "  or `cauce chat`; `cauce status` shows how it does, Ctrl-C stops it.",
        "",
    ]
    if settings.ingress_tokens:
        lines.insert(-3, "  (INGRESS_TOKEN being one of your INGRESS_TOKENS)")
    return "\n".join(lines) + "\n"


def _about_the_model(settings: Settings) -> str:
    if settings.model_url:
        return f" at {', '.join(map(bare, settings.model_url))}"
    if settings.model == "demo":
        return "  (a demonstration; MODEL=Qwen/Qwen2.5-0.5B-Instruct, say, is a real one)"
    if settings.model == "echo":
        return "  (repeats what was said)"
    return ""


def _destination(settings: Settings) -> str:
    if settings.outbound_url:
        return bare(settings.outbound_url.reveal())
    return "nobody yet: set OUTBOUND_URL to your n8n webhook; `cauce tail outbound` shows them"
