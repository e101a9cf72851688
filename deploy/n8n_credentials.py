"""
Cauce's settings → the credentials its n8n workflows name, as `n8n import:credentials` reads them.

    python deploy/n8n_credentials.py > credentials.json
    n8n import:credentials --input=credentials.json

Knows the ids that the files in n8n/ refer to, and which text n8n needs as a key.  The output is secret: n8n encrypts
it on import; delete the file then.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from streams.settings import Settings, load
from streams.signature import key_of


def credentials(settings: Settings) -> list[dict[str, Any]]:
    """One entry for each credential that these settings can fill."""
    # Without tokens the ingress asks for none, yet n8n's node wants a credential: any value will do.
    token = settings.ingress_tokens[0].reveal() if settings.ingress_tokens else "none"
    found = [
        _credential("cauce-ingress-token", "httpHeaderAuth", name="Authorization", value=f"Bearer {token}"),
    ]
    if settings.outbound_secret:
        secret = settings.outbound_secret[0].reveal()
        found.append(_credential("cauce-outbound-secret", "crypto", hmacSecret=secret))
        if key := typeable(secret):
            found.append(_credential("cauce-outbound-key", "crypto", hmacSecret=key))
    if settings.outbound_header:
        name, _, value = settings.outbound_header.reveal().partition(":")
        found.append(_credential("cauce-outbound-header", "httpHeaderAuth", name=name, value=value.strip()))
    return found


def typeable(secret: str) -> str | None:
    """What the secret decodes to, or None where that is no text: n8n takes a key as text only."""
    try:
        key = key_of(secret).decode("ascii")
    except ValueError:
        return None
    return key if key.isprintable() else None


def _credential(identity: str, type_: str, **data: str) -> dict[str, Any]:
    name = identity.replace("-", " ").capitalize()
    return {"id": identity, "name": name, "type": type_, "data": data}


if __name__ == "__main__":
    json.dump(credentials(load()), sys.stdout, indent=2)
