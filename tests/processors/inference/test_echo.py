"""MODEL=echo, and the engines that cannot be opened."""

from __future__ import annotations

import pytest

from processors.inference.echo import Echo
from processors.inference.generation import Line, Refused, Request, open_engine
from processors.inference.resources import opened
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Group, Inference
from streams.topology import Topology


async def test_it_says_the_persons_own_words() -> None:
    engine = open_engine(Settings(model="echo"), Inference())
    generated = await engine.generate(Request(lines=[Line("system", "reglas"), Line("user", "hola\n¿sí?")]))
    assert generated.text == "hola\n¿sí?"
    with pytest.raises(Refused):
        await engine.generate(Request(lines=[]))


def test_its_latency_is_part_of_its_name() -> None:
    engine = open_engine(Settings(model="echo?latency=0.05"), Inference())
    assert isinstance(engine, Echo)
    assert engine.latency_seconds == 0.05
    with pytest.raises(ConfigurationError, match=r"latency=0\.05"):
        open_engine(Settings(model="echo?slow=1"), Inference())


async def test_the_lifespan_opens_what_the_handler_works_with() -> None:
    group = Group(name="inference", reads="inbound", handler="a:b", writes=["replies"])
    async with opened(group, Topology(), Settings(model="echo"), None) as here:
        assert here.outbound == "replies"
        assert here.ready()
        assert here.describe()["name"] == "echo"
        assert "citas" in here.rules()
        assert here.answers is None, "no reply is kept unless somebody says so"
