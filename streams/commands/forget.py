"""
`cauce erase` at a terminal: asks, shows how far it is, and gives the receipt.

What is erased, and in which order, stands in erase.py.
"""

from __future__ import annotations

import sys

import msgspec
from rich.console import Console
from rich.table import Table

from streams.commands import entry
from streams.commands.steps import Steps
from streams.erasure.erase import Erasure, Receipt
from streams.masking import Mask
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

_HEADS = {"erased": "erased", "incomplete": "erased but for what is left, see below", "found": "nothing was done"}


class How(msgspec.Struct, frozen=True, kw_only=True):
    """How the command is to act."""

    yes: bool = False
    dry_run: bool = False
    as_json: bool = False


async def run(stores: Stores, topology: Topology, settings: Settings, user: str, how: How) -> int:
    """
    Erase a person, or count what there is of them.

    Returns:
        the exit status: 1 where something is left or could not be counted, or nobody said yes.

    Raises:
        ConfigurationError: that is no person.
        Unavailable: Redis cannot be reached; what was done until then stays done.
    """
    person = entry.person("USER", user, topology)
    if how.dry_run or not how.yes:
        with Steps().each() as look:
            found = await Erasure(stores, topology, settings, person, look=look).count()
        if how.dry_run:
            _print(found, how)
            return 1 if found.left else 0
        question = (
            f"{sum(found.counts.values())} entries, keys and files of {Mask().person(person)}: erase them for good?"
        )
        if not await entry.agreed(question):
            sys.stderr.write("nothing was done\n")
            return 1
    with Steps().each() as look:
        receipt = await Erasure(stores, topology, settings, person, look=look).run()
    _print(receipt, how)
    return 1 if receipt.left else 0


def _print(receipt: Receipt, how: How) -> None:
    if how.as_json:
        sys.stdout.write(msgspec.json.encode(receipt).decode() + "\n")
        return
    console = Console()
    about = f", receipt {receipt.digest}" if receipt.digest else ""
    console.print(f"{receipt.at}{about}: {_HEADS[receipt.status]}", highlight=False)
    table = Table("what", "how much", box=None, header_style="dim")
    for what, count in receipt.counts.items():
        table.add_row(what, str(count))
    console.print(table)
    if receipt.rewritten:
        console.print(f"written anew: {', '.join(receipt.rewritten)}", highlight=False)
    for line in receipt.notes:
        console.print(f"beyond reach: {line}", highlight=False)
    for line in receipt.left:
        console.print(f"left: {line}", highlight=False, style="red")
    if receipt.status == "incomplete":
        console.print("The same command goes on.")
