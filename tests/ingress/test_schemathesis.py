"""
Schemathesis against running processes: every answer is one that GET /openapi.json describes, whatever is asked.

All its checks are on: no 5xx, no status, type, header or schema that is not described, nothing valid refused, nothing
invalid taken, no way around the tokens.  CAUCE_EXAMPLES=1000 looks longer; the seed is printed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
from conftest import Server
from pipeline import pipeline

from ingress.openapi import OPERATIONS
from tests.ingress.front import OPERATOR, TOKEN

EXAMPLES = os.environ.get("CAUCE_EXAMPLES", "15")
SCHEMATHESIS = (sys.executable, "-c", "from schemathesis.cli import schemathesis; schemathesis()")
TOKENS = {"INGRESS_TOKENS": TOKEN, "OPERATOR_TOKENS": OPERATOR, "WHATSAPP_VERIFY_TOKEN": "v" * 24}


@pytest.mark.slow
@pytest.mark.timeout(3600 if "CAUCE_EXAMPLES" in os.environ else 170)
async def test_every_answer_is_as_described(own_server: Server, tmp_path: Path) -> None:
    # With a worker, so that requests that wait are answered and conversations are there to read
    async with pipeline(own_server, "ingress", "inference", **TOKENS) as whole:
        asking = await asyncio.create_subprocess_exec(
            *SCHEMATHESIS, "run", f"{whole.url}/openapi.json", "-H", f"Authorization: Bearer {OPERATOR}",
            "--max-examples", EXAMPLES, "--continue-on-failure", "--no-color", cwd=tmp_path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told, _ = await asking.communicate()
        print(told.decode())  # noqa: T201 - what was asked, and the seed
        assert asking.returncode == 0, "what is above the seed is not as described"
        assert f"{len(OPERATIONS) - 1} selected" in told.decode()  # it leaves out the description itself
        assert not [line for line in whole.processes["ingress"].lines if "request.failed" in line]
