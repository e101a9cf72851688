"""Two ingresses, workers of three groups and their Redis, as the rules of machine.py move them."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from hypothesis import strategies as st

from ingress.append import Appended, Appender, Arrival, Waiter
from ingress.waiting import GRACE_MS, Waiting
from streams.connection import entries
from streams.doors import Doors
from streams.erasure.erase import Erasure
from streams.errors import Unavailable
from streams.settings import Settings
from streams.stores import Stores
from streams.turns import Turns
from streams.watch import Consumer, Watch
from tests.property.actors import HANDLERS, Client, Delivery, Post, Work, Worker, a_topology
from tests.property.clock import ClockedServer
from tests.property.doors import Front, Promises
from tests.property.model import Entries, GroupModel
from tests.property.wire import Network, Wire

PEOPLE = st.sampled_from(["+1", "+2", "+3"])
WAIT_MS = 60_000
MOST_WORKERS = 6


class Ingress:
    """One process of the front door."""

    def __init__(self, stage: Stage, number: int) -> None:
        self.bell = f"front-{number}"
        self.appender = Appender(stage.store, stage.top)
        self.doors = Doors(stage.store, stage.top, "inbound")
        self.waiting = Waiting(stage.store, stage.top)


class Stage:
    """Everything that one story is played with."""

    def __init__(self, server: ClockedServer) -> None:
        self.server, self.top = server, a_topology()
        self.store: Wire = Wire.open(server.url)
        self.streams = {"inbound": Entries({}), "outbound": Entries({})}
        groups = {name: self._model(name) for name in self.top.groups}
        self.front = Front(self.streams["inbound"], groups["answers"], groups["egress"], lambda: server.now_ms)
        self.promises = Promises(groups, self.front)
        self.network = self.store.network = Network(self.promises.observe)
        self.ingresses = [Ingress(self, number) for number in range(2)]
        self.posts: list[Post] = []
        self.clients: list[Client] = []
        self.workers: list[Worker] = []
        self.sink: list[Delivery] = []
        self._hired: list[Consumer] = []
        self.texts: dict[str, bytes] = {}
        """What requests were told, by the entry they asked for."""
        self.gone: set[str] = set()
        """Entries of people who were erased."""

    def _model(self, name: str) -> GroupModel:
        group = self.top.groups[name]
        suspect_after = Turns(self.store, self.top, group, HANDLERS[name])._suspect_after
        return GroupModel(group, self.streams[group.reads], lambda: self.server.now_ms, suspect_after)

    async def open(self) -> None:
        for group in self.top.groups:
            await self.hire(group)

    async def close(self) -> None:
        for ingress in self.ingresses:
            await ingress.appender.close()
        await self.store.close()

    # the front door

    async def write(self, person: str, count: int, together: bool) -> None:
        """New messages, in one request or in several at once."""
        posts = [self._post(person) for _ in range(count)]
        for batch in [posts] if together else [[post] for post in posts]:
            await self._append(batch)

    async def ask(self, person: str) -> None:
        await self._append([self._post(person)], waits=True)

    async def repeat(self, which: int, waits: bool, other_text: bool) -> None:
        """The same again; with another text, two requests come at once and are one write."""
        boxed = [id for ids in self.promises.groups["answers"].boxes.values() for id in ids]
        rather = [client.post for client in self.clients] + [post for post in self.posts if post.entry in boxed]
        among = rather if rather and which % 3 else self.posts
        post = among[which % len(among)]
        if other_text and post.entry:
            other = Post(post.person, post.message_id, "something else", post.entry)
            await asyncio.gather(self._append([other], known=False), self._append([post], waits=waits))
        else:
            await self._append([post], waits=waits)

    def _post(self, person: str) -> Post:
        number = len(self.posts)
        self.posts.append(Post(person, f"m{number}", f"{person}:{number}"))
        return self.posts[-1]

    async def _append(self, posts: list[Post], *, waits: bool = False, known: bool = True) -> None:
        ticket = f"t{len(self.clients)}-{self.server.now_ms}-{self.posts.index(posts[0]) if known else 0}"
        number = len(posts[0].text) % len(self.ingresses)
        waiter = Waiter(ms=WAIT_MS + GRACE_MS, bell=self.ingresses[number].bell, ticket=ticket) if waits else None
        arrivals = [
            Arrival(stream="inbound", key=post.person, type="text", body=b'"%s"' % post.text.encode(),
                    message_id=post.message_id, text=post.text, waiter=waiter)
            for post in posts
        ]  # fmt: skip
        try:
            told = await self.ingresses[number].appender.append(arrivals)
        except Unavailable:
            return
        for post, each in zip(posts, told, strict=True):
            self._accepted(post, each, known)
        if waits and known:
            self.clients.append(Client(posts[0], ticket, told[0].entry_id, number))

    def _accepted(self, post: Post, told: Appended, known: bool) -> None:
        assert known == (told.outcome != "reused"), "another text is no repeat, and the same text is one"
        assert post.entry in ("", told.entry_id), "a message has one entry"
        post.entry = told.entry_id

    def _client(self, which: int) -> Client:
        """Rather one whose reply is there, or one of several that wait for the same."""
        asked, doors = [each.entry for each in self.clients], self.front.doors
        told = [each for each in self.clients if each.entry in doors and doors[each.entry].state != "webhook"]
        several = [each for each in self.clients if asked.count(each.entry) > 1]
        among = (told, several, told, self.clients)[which % 4] or self.clients
        return among[which % len(among)]

    async def claim(self, which: int, stop: bool) -> None:
        client = self._client(which)
        try:
            told = await self.ingresses[client.ingress].doors.claim(
                client.post.person, client.entry, client.ticket, stop=stop
            )
        except Unavailable:
            return
        if told.state == "claimed":
            assert self.texts.setdefault(client.entry, told.answer) == told.answer
        if told.state != "pending" or stop:
            self.clients.remove(client)

    async def hang_up(self, which: int) -> None:
        await self._withdraw(self._client(which))

    async def _withdraw(self, client: Client) -> None:
        self.clients.remove(client)
        ticket: Any = SimpleNamespace(id=client.ticket)
        await self.ingresses[client.ingress].waiting._withdraw(ticket, client.entry)

    async def reconnect(self, which: int) -> None:
        """A connection breaks, the client repeats on another, and then the ingress sees that the first is gone."""
        client = self._client(which)
        await self._append([client.post], waits=True)
        await self._withdraw(client)

    async def restart_ingress(self, which: int) -> None:
        await self.ingresses[which].appender.close()
        self.ingresses[which] = Ingress(self, which)
        self.clients = [client for client in self.clients if client.ingress != which]

    # workers

    async def hire(self, group: str) -> None:
        if len(self.workers) < MOST_WORKERS:
            worker = Worker(self.store, self.top, self.top.groups[group], self.sink)
            self._hired.append(Consumer(group, worker.turns.consumer))
            with contextlib.suppress(Unavailable):
                await worker.turns.open()  # else its first take finds out
            self.workers.append(worker)

    def worker(self, who: int) -> Worker:
        return self.workers[who % len(self.workers)]

    def busy(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.work]

    def able(self) -> list[Worker]:
        """Those whose group has something that it could take, now or in a while."""
        models = self.promises.groups
        return [
            worker
            for worker in self.workers
            if (model := models[worker.group.name]).due or model.entries.after(model.cursor)
        ]

    async def take(self, who: int, room: int, count: int, in_time: bool) -> None:
        """Take; `in_time`: when the next key's time has come."""
        worker = self.able()[who % len(self.able())]
        model = self.promises.groups[worker.group.name]
        if in_time:
            self._until_due(model)
        await worker.take(room, count)

    def _until_due(self, model: GroupModel) -> None:
        if model.due:
            self.server.set(max(self.server.now_ms, min(min(model.due.values()), self.server.now_ms + 60_000)))

    async def handle(self, who: int, how: str, commit: bool) -> None:
        worker = self.busy()[who % len(self.busy())]
        await self._handle(worker, worker.work[who // 7 % len(worker.work)], how)
        if commit:
            await worker.commit()

    async def end_all(self, who: int, hows: list[str]) -> None:
        worker = self.busy()[who % len(self.busy())]
        for number, work in enumerate(worker.work):
            await self._handle(worker, work, hows[number % len(hows)])
        await worker.commit()

    async def _handle(self, worker: Worker, work: Work, how: str) -> None:
        lease = self.promises.groups[worker.group.name].leases.get(work.grant.turn.key)
        await worker.handle(work, how, rightful=lease is not None and lease.token == work.grant.token)

    async def answer_all(self) -> None:
        """A worker that answers takes what there is and does well."""
        worker = next(worker for worker in self.workers if worker.group.name == "answers")
        await worker.take(9, 99)
        for work in worker.work:
            await self._handle(worker, work, "does well")
        await worker.commit()

    async def interrupt(self, who: int, person: str, count: int, takes: bool, beats: bool) -> None:
        """Whose turn is in work writes again; somebody reads it, and whoever has the turn learns of it."""
        workers = [each for each in self.workers if each.group.name == "answers"]
        worker, reader = workers[who % len(workers)], workers[who // 3 % len(workers)]
        if not worker.work:
            await self.write(person, 1, together=False)
            self._until_due(self.promises.groups["answers"])
            await worker.take(3, 9)
        if worker.work:
            await self.write(worker.work[who // 7 % len(worker.work)].grant.turn.key, count, together=False)
        if takes:
            await reader.take(who % 3, 99)
        await (worker.beat() if beats else worker.listen())
        await worker.commit()

    async def crash(self, who: int, takes: bool, swept: bool) -> None:
        """Killed, perhaps with all in work that there was; another takes its place."""
        if takes and self.able():
            await self.take(who, 3, 9, in_time=True)
        await self._replace((self.busy() or self.workers)[who % len(self.busy() or self.workers)])
        if swept:
            self.server.pass_(9_100)
            await self.everybody_beats()
            await self.sweep()

    async def freeze(self, who: int) -> None:
        """Its heartbeat ends and it is swept, but it is alive with its turns in memory, until a beat tells it."""
        self.server.pass_(9_100)
        frozen = self.busy()[who % len(self.busy())]
        for worker in self.workers:
            if worker is not frozen:
                await worker.beat()
        await self.sweep()
        if who % 2:
            await frozen.beat()

    async def _replace(self, worker: Worker) -> None:
        self.workers.remove(worker)
        if all(each.group is not worker.group for each in self.workers):
            await self.hire(worker.group.name)

    async def leave(self, who: int) -> None:
        worker = self.worker(who)
        with contextlib.suppress(Unavailable):
            await worker.turns.leave()
        await self._replace(worker)

    async def sweep(self) -> None:
        watch = Watch(self.store, self.top)
        for dead in sorted(await watch.silent(), key=self._hired.index):
            with contextlib.suppress(Unavailable):
                await watch.sweep(dead)

    async def sweep_wrongly(self, who: int) -> None:
        """By somebody who looked long ago."""
        worker = self.worker(who)
        await Watch(self.store, self.top).sweep(Consumer(worker.group.name, worker.turns.consumer))

    async def everybody_beats(self) -> None:
        for worker in self.workers:
            await worker.beat()

    # the world

    async def destroy(self, group: str) -> None:
        """Redis loses a consumer group, and whoever takes next makes it again."""
        await self.store.command("XGROUP", "DESTROY", self.top.groups[group].reads, group)
        await Turns(self.store, self.top, self.top.groups[group], HANDLERS[group]).open()

    async def erase(self, person: str) -> None:
        """Somebody goes, in one step; what is under way comes later, as it may."""
        self.learn(await self.store.command(*self.news()))
        erasure = Erasure(Stores.alone(self.store), self.top, Settings(data_dir=Path("/nowhere")), person, heard=0)
        receipt = await erasure.run()
        assert all("could not be asked" in line for line in receipt.left), receipt.left  # these handlers are played
        gone = self.promises.erase(person, self.streams)
        self.gone |= gone
        self.texts = {entry: text for entry, text in self.texts.items() if entry not in gone}

    def news(self) -> tuple[str, ...]:
        """The command that asks which outputs are new."""
        return "XRANGE", "outbound", f"({self.streams['outbound'].last}", "+"

    def learn(self, found: Any) -> None:
        for id, fields in entries(found):
            self.streams["outbound"].append(id, {name: value.decode() for name, value in fields.items()})

    async def finish(self) -> None:
        """No more faults, and nobody waits: whoever lives works, and time passes, until nothing is left."""
        self.network.under_way.clear()
        self.clients.clear()
        groups = self.promises.groups.values()
        for _ in range(500):
            if await self._work():
                continue
            if not any(group.boxes for group in groups):
                return
            # Until something is due, or the heartbeat of somebody who has died is over.
            named = {worker.turns.consumer for worker in self.workers}
            dead = [at + 1 for group in groups for name, at in group.heartbeats.items() if name not in named]
            due = [at for group in groups for at in group.due.values()]
            self.server.set(max(self.server.now_ms + 1, min([*due, *dead], default=0)))
            await self.everybody_beats()
            await self.sweep()
            for worker in self.workers:
                await worker.take(5, 100)  # so that it knows which calls have been answered
        left = {group.group.name: group.boxes for group in groups if group.boxes}
        raise AssertionError(f"nobody takes {left}")

    async def _work(self) -> bool:
        """Whether anybody had anything to do."""
        busy = False
        for worker in self.workers:
            if worker not in self.able() + self.busy():
                continue
            model = self.promises.groups[worker.group.name]
            before = model.cursor
            await worker.take(5, 100)
            busy = busy or bool(worker.work) or model.cursor != before
            for work in worker.work:
                await worker.handle(work, "does well")
            await worker.commit()
            self.learn(await self.store.command(*self.news()))
        return busy
