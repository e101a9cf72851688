"""
"module:function" → Handler, and which part of the string is wrong where it is none.
"""

from __future__ import annotations

import importlib
import inspect
import sys

from streams.effects import Handler
from streams.errors import ConfigurationError
from streams.tables import Group
from streams.topology import Topology, suggest


def find(group: Group, topology: Topology) -> Handler:
    """
    The handler of a group, as its table fits it.

    Raises:
        ConfigurationError: as `load`, or its table does not fit it.
    """
    return _fitting(load(group, topology), group, topology)


def load(group: Group, topology: Topology) -> Handler:
    """
    The handler that a group names; a plain async function is one too.  Modules beside streams.toml can be imported.

    Raises:
        ConfigurationError: says whether the module, the name in it, or its kind is wrong.
    """
    where = f"{topology.path.name}: groups.{group.name}.handler = {group.handler!r}:"
    folder = str(topology.path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module_name, _, name = group.handler.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and (module_name + ".").startswith(error.name + "."):
            raise ConfigurationError(f"{where} there is no module {error.name!r} in {folder} or installed") from error
        raise ConfigurationError(f"{where} {module_name} needs the module {error.name!r}, which is missing") from error
    except Exception as error:
        raise ConfigurationError(f"{where} {module_name} fails on import: {type(error).__name__}: {error}") from error
    found = getattr(module, name, None)
    if isinstance(found, Handler):
        return found
    if found is None:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise ConfigurationError(f"{where} {module_name} has no {name!r}{suggest(name, public)}")
    if inspect.iscoroutinefunction(found):
        return Handler(handle=found)
    raise ConfigurationError(f"{where} {name} is no async function; write `async def {name}(turn): …`")


def _fitting(handler: Handler, group: Group, topology: Topology) -> Handler:
    """The handler, where what it says of itself fits the group's table.  Raises ConfigurationError."""
    where = f"{topology.path.name}: groups.{group.name}"
    if handler.batch and group.batch is None:
        raise ConfigurationError(
            f"{where}.batch is missing: {group.handler!r} takes batches; write `batch = 100`, the most turns of one"
        )
    if group.batch is not None and not handler.batch:
        raise ConfigurationError(
            f"{where}.batch = {group.batch} is not for {group.handler!r}, which takes single turns; leave it out, or "
            "write @handler(batch=True) and `async def …(turns)`"
        )
    if handler.recall and group.order == "none":
        raise ConfigurationError(
            f"{where}.order = 'none' is not for {group.handler!r}, which recalls what is kept of a person: without "
            "order a turn's key is its entry's id; write 'key', or leave it out"
        )
    if handler.outside and group.on_new_message == "supersede":
        raise ConfigurationError(
            f"{where}.on_new_message = 'supersede' is not for {group.handler!r}, which acts outside Redis: cancelled, "
            "it may have acted already; write 'finish'"
        )
    return handler
