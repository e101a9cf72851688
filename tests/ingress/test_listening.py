"""The sockets of processes that share one address: divided evenly, refused to strangers, and nobody left waiting."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import sys
from collections.abc import Iterator
from dataclasses import replace

import pytest

from ingress import listening
from ingress.listening import Help, Listeners, bind, close
from streams.errors import ConfigurationError
from streams.settings import Settings

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere all share one socket")


@pytest.fixture
def pair() -> Iterator[list[Listeners]]:
    """Those of two processes, listening."""
    both = bind(Settings(ingress_port=0), 2)
    for each in both:
        each.own[0].listen()
    yield both
    for each in both:
        close(each.own)


def waits(listener: socket.socket, seconds: float = 0) -> bool:
    return bool(select.select([listener], [], [], seconds)[0])


def test_each_process_has_sockets_of_its_own_on_one_port_and_knows_the_others(pair: list[Listeners]) -> None:
    one, two = pair
    assert one.port == two.port
    assert (one.others, two.others) == (two.own, one.own)


def test_connections_are_divided_among_them(pair: list[Listeners]) -> None:
    clients = [socket.create_connection(("127.0.0.1", pair[0].port)) for _ in range(60)]
    shares = [list(listening.queued(each.own[0])) for each in pair]
    for end in (*clients, *shares[0], *shares[1]):
        end.close()
    assert sum(map(len, shares)) == 60
    assert min(map(len, shares)) > 10


def test_who_would_share_the_port_unasked_is_refused(pair: list[Listeners]) -> None:
    with pytest.raises(ConfigurationError, match="another INGRESS_PORT"):
        bind(Settings(ingress_port=pair[0].port), 2)


def test_what_a_process_inherits_is_what_it_was_told_of(pair: list[Listeners], monkeypatch: pytest.MonkeyPatch) -> None:
    given = pair[1]
    copies = Listeners([each.dup() for each in given.own], [each.dup() for each in given.others], given.of)
    monkeypatch.setenv(listening.VARIABLE, copies.told())
    for each in (*copies.own, *copies.others):
        each.detach()  # it is the heir's now
    heir = Listeners.inherited()
    assert heir is not None
    assert (heir.of, heir.port, len(heir.own), len(heir.others)) == (2, given.port, 1, 1)
    assert not any(os.get_inheritable(each) for each in heir.descriptors)
    assert Listeners.inherited() is None
    close([*heir.own, *heir.others])


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def test_who_knocks_at_a_door_that_is_shut_does_not_get_through_to_be_reset(pair: list[Listeners]) -> None:
    listener = pair[0].own[0]
    close(pair[1].own)
    address = ("127.0.0.1", pair[0].port)
    early = socket.create_connection(address)
    late = socket.socket()
    late.setblocking(False)
    with early, late:
        # When the door shuts, one who came before goes on
        listening.shut([listener])
        [accepted] = listening.queued(listener)
        with accepted:
            accepted.send(b"welcome")
            assert early.recv(7) == b"welcome"
        # and who comes after stands outside, not in the queue
        assert late.connect_ex(address) == errno.EINPROGRESS
        assert not list(listening.queued(listener))
        assert late.connect_ex(address) == errno.EALREADY


def test_a_socket_is_held_for_a_successor_where_somebody_supervises(
    pair: list[Listeners], monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = replace(pair[0].doubled(), held=True)
    monkeypatch.setenv(listening.VARIABLE, copies.told())
    for each in (*copies.own, *copies.others):
        each.detach()
    heir = Listeners.inherited()
    assert heir is not None
    twin = heir.doubled()  # which is what it becomes when it begins anew
    assert (heir.held, twin.held, pair[0].held) == (True, True, False)
    for given in (heir, twin):
        close([*given.own, *given.others])


async def test_what_waits_for_a_process_that_does_not_come_is_taken_by_another(pair: list[Listeners]) -> None:
    # Given one of two, which helps, while the other never accepts
    mine, absent = pair
    server = await asyncio.get_running_loop().create_server(Greeter, sock=mine.own[0].dup())
    helping = Help([each.dup() for each in mine.others], Greeter)
    helping.begin()
    # When more connect than could all be the first one's
    clients = [await asyncio.open_connection("127.0.0.1", mine.port) for _ in range(40)]
    # Then each is served
    assert {await reader.read() for reader, _ in clients} == {b"hello"}
    assert not waits(absent.own[0])
    # And once it helps no more, nobody takes what is the other's
    helping.end()
    server.close()
    for _, writer in clients:
        writer.close()


async def test_whose_it_is_comes_first(pair: list[Listeners], monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a neighbour that would have to wait for an hour
    monkeypatch.setattr(listening, "PATIENCE", 3600)
    helping = Help([each.dup() for each in pair[0].others], Greeter)
    helping.begin()
    clients = [socket.create_connection(("127.0.0.1", pair[0].port)) for _ in range(40)]
    await asyncio.sleep(0)
    assert waits(pair[1].own[0], 5)
    helping.end()
    for client in clients:
        client.close()
