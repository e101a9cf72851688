"""
The one-shot service of compose.yaml: secrets if there are none, the database's password, n8n's credentials, and
Prometheus's token.

Knows where the containers share files.  Refuses to know what a good secret is: `cauce secrets` makes them.  What
the environment sets wins, here as in every other container, so that both ends always hold the same values.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from secrets import token_urlsafe

sys.path.insert(0, str(Path(__file__).parent))

from n8n_credentials import credentials

from streams.errors import CauceError
from streams.settings import load

SHARED = Path(os.environ.get("CAUCE_SHARED", "/cauce"))


def write(path: Path, text: str, mode: int) -> None:
    """Put the file there whole or not at all: a start that was interrupted must not leave half a secret."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    unfinished.chmod(mode)  # the umask may have taken bits away
    unfinished.replace(path)


def new_secrets() -> str:
    """The lines of a .env, as `cauce secrets` prints them; it ends us, with its reason, if it makes none."""
    made = subprocess.run(["cauce", "secrets"], check=False, capture_output=True, text=True)  # noqa: S607 - our own command, from this image
    if made.returncode or not made.stdout.strip():
        why = made.stderr.strip() or "it printed nothing"
        sys.exit(f"setup: `cauce secrets` failed (exit status {made.returncode}): {why}")
    return made.stdout.strip() + "\n"


def password_of_the_database() -> None:
    """One for PostgreSQL to ask for and libpq to give, for each in the form and with the rights that it wants."""
    folder = SHARED / "postgres"
    folder.mkdir(exist_ok=True)
    asked_for, given = folder / "password", folder / "pgpass"
    if not asked_for.exists():
        write(asked_for, token_urlsafe(32), 0o644)  # it runs as another user
    write(given, f"*:*:*:cauce:{asked_for.read_text(encoding='utf-8')}\n", 0o600)


def main() -> None:
    secrets = SHARED / "secrets" / "env"
    if not secrets.exists():
        write(secrets, new_secrets(), 0o600)
        print("setup: made tokens and secrets")  # noqa: T201 - the log of a one-shot container
    try:
        settings = load(env_file=secrets)
    except CauceError as error:
        sys.exit(f"setup: {error}")
    password_of_the_database()
    # n8n runs as another user, and only n8n mounts this folder.
    write(SHARED / "n8n" / "credentials.json", json.dumps(credentials(settings)), 0o644)
    print("setup: n8n's credentials are ready")  # noqa: T201
    # The same of Prometheus.  Where no tokens are set the ingress asks for none.
    tokens = settings.operator_tokens or settings.ingress_tokens
    write(SHARED / "prometheus" / "token", tokens[0].reveal() if tokens else "", 0o644)


if __name__ == "__main__":
    main()
