"""GET /timeline/{id}: a message's story over HTTP, for operators only."""

from __future__ import annotations

from protocol import redis_ms

from streams.connection import Store
from tests.ingress.front import ANA, OPERATOR, TOKEN, Puppet, front, secret

TOKENS = {"ingress_tokens": secret(TOKEN), "operator_tokens": secret(OPERATOR)}
WAMID = "wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQzQTVB/+A9AA=="


async def test_a_message_is_told_to_operators_with_its_person_masked(each_store: Store) -> None:
    puppet = await Puppet(each_store).start()
    async with front(each_store, **TOKENS) as door:
        answer = await door.say("hola", WAMID, Authorization=f"Bearer {TOKEN}")
        # Not to senders
        assert (await door.get(f"/timeline/{WAMID}", Authorization=f"Bearer {TOKEN}"))[0] == 403
        # Before anybody has taken it, then after
        key = {"Authorization": f"Bearer {OPERATOR}"}
        status, told = await door.get(f"/timeline/{WAMID}", **key)
        assert (status, told["outcome"], [step["kind"] for step in told["steps"]]) == (
            200, "waiting", ["received", "appended", "unread"]
        )  # fmt: skip
        await puppet.reply("¡Hola!")
        _, told = await door.get(f"/timeline/{answer['entry_id']}", **key)
        assert [step["kind"] for step in told["steps"]] == ["received", "appended", "replied"]
        assert told["gaps"] == [f"the journal of g does not tell how {answer['entry_id']} ended"]
        # An id with a slash in it, whatever its spelling
        encoded = WAMID.replace("/", "%2F").replace("+", "%2B")
        assert (await door.get(f"/timeline/{encoded}", **key))[1]["entry"] == answer["entry_id"]
        # The person is masked, unless asked for
        assert told["person"] == "+591…678"
        assert told["message_id"].startswith("wamid…")
        _, full = await door.get(f"/timeline/{WAMID}?full=yes", **key)
        assert (full["person"], full["message_id"]) == (ANA, WAMID)


async def test_a_persons_latest_messages_are_a_line_each(store: Store) -> None:
    async with front(store, **TOKENS) as door:
        older = await redis_ms(store) - 2 * 86_400_000
        await store.command("XADD", "inbound", f"{older}-0", "key", ANA, "type", "text", "body", "{}")
        for number in range(3):
            await door.say("hola", f"m{number}", Authorization=f"Bearer {TOKEN}")
        key = {"Authorization": f"Bearer {OPERATOR}"}
        for person in ("59112345678", "+591%20123-45678", "%2B59112345678"):
            status, told = await door.get(f"/timeline/{person}?n=2", **key)
            assert (status, told["person"]) == (200, "+591…678")
            assert [line["message_id"] for line in told["messages"]] == ["m2", "m1"]
        for since, count in (("1h", 3), ("3d", 4)):
            assert len((await door.get(f"/timeline/{ANA}?since={since}", **key))[1]["messages"]) == count


async def test_what_cannot_be_asked_or_is_not_known_is_said(store: Store) -> None:
    async with front(store, **TOKENS) as door:
        key = {"Authorization": f"Bearer {OPERATOR}"}
        for path, status, code in (
            ("/timeline/nobody", 404, "unknown_message"), ("/timeline/", 404, "not_found"),
            ("/timeline/1728123456789-0", 404, "unknown_message"), ("/timeline/m1?user=a/b", 400, "invalid_field"),
            ("/timeline/m1?full=1", 400, "invalid_field"), ("/timeline/m1?n=1&n=2", 400, "invalid_field"),
            ("/timeline/m1?user=", 400, "invalid_field"),
            ("/timeline/m1?n=0", 400, "invalid_field"), ("/timeline/m1?n=201", 400, "invalid_field"),
            ("/timeline/m1?since=yesterday", 400, "invalid_field"), (f"/timeline/{'x' * 300}", 400, "invalid_field"),
            ("/timeline/59199999999", 404, "unknown_message"), (f"/timeline/{'0' * 31}1", 404, "unknown_message"),
            ("/timeline/reply_1728123456789-0.s7.2.p3", 404, "unknown_message"),
        ):  # fmt: skip
            got, told = await door.get(path, **key)
            assert (got, told["error"]) == (status, code), path
        assert "entries of inbound" in (await door.get("/timeline/nobody", **key))[1]["detail"]
        assert "59199999999" not in str(await door.get("/timeline/59199999999", **key))
