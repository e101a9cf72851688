"""REDIS_URL in its three forms; what is wrong with one is said without a word of it."""

from __future__ import annotations

import pytest

from streams import addresses
from streams.keys import crc16, shard_of
from streams.masking import Mask, passwords
from streams.routes import slot_of
from streams.stores import Stores


def test_an_address_of_sentinels_leads_to_them_and_to_whom_they_name() -> None:
    told = addresses.parse(
        "rediss+sentinel://ana:pa%2Fss@s1,s2:26380,[::1]:1/mymaster/2?sentinel_password=hu%26nter&ssl_cert_reqs=none"
    )
    assert (told.kind, told.service, told.hosts) == ("sentinel", "mymaster", (("s1", 26379), ("s2", 26380), ("::1", 1)))
    assert told.node(("h", 6379)) == "rediss://ana:pa%2Fss@h:6379/2?ssl_cert_reqs=none"
    assert told.sentinel(("::1", 1)) == "rediss://:hu%26nter@[::1]:1?ssl_cert_reqs=none"


def test_an_address_of_a_cluster_names_some_of_its_nodes() -> None:
    told = addresses.parse("redis+cluster://:secret@a:7000,b")
    assert (told.kind, told.hosts) == ("cluster", (("a", 7000), ("b", 6379)))
    assert told.node(("c", 7001)) == "redis://:secret@c:7001"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+sentinel://hunter2@h:26379", "names no master; write redis"),
        ("redis+sentinel://hunter2@h:26379/mymaster/x", "names no master"),
        ("redis+sentinel://:hunter2@h:99999/mymaster", "ports from 1 to 65535"),
        ("redis+sentinel://:hunter2@,/mymaster", "has a host that is none"),
        ("redis+sentinel://:hunter2@h/mymaster?sentinel_pasword=hunter2", "did you mean 'sentinel_password'"),
        ("redis+cluster://:hunter2@h:6379/3", "a cluster has none"),
        ("redis+cluster://:hunter2@h:6379?db=3", "it takes none"),
        ("redis+cluster://:hunter2#@h:6379", "in a password are written %2F"),
        ("redis+clutser://:hunter2@h", "did you mean 'redis+cluster'"),
    ],
)
def test_what_is_wrong_is_said_without_the_secret(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        addresses.parse(url)
    assert why in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_its_passwords_are_masked() -> None:
    url = "redis+sentinel://ana:hunter2@h,i:26379/mymaster?sentinel_password=hunter3"
    assert {"hunter2", "hunter3"} <= set(passwords(url))
    assert not any(secret in Mask().text(url) for secret in ("hunter2", "hunter3"))


def test_slots_and_shards_are_those_of_redis_cluster() -> None:
    # https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/, appendix A
    assert crc16("123456789") == 0x31C3
    assert slot_of("conversation:{3}:+591") == slot_of("inbound:{3}") == crc16("3") % 16_384
    assert shard_of("123456789", 10) == 0x31C3 % 10
    assert shard_of("+59170000000", 1) == 0


@pytest.mark.parametrize("shards", [1, 3])
async def test_on_a_cluster_every_key_of_a_shard_is_in_one_slot(shards: int) -> None:
    stores = Stores.open("redis+cluster://127.0.0.1:1", shards=shards, namespace="bot")
    for store in stores:
        names = [store.keys.stream("inbound"), store.keys.dead("inbound"), store.keys.of("door", "1-0"),
                 store.keys.group("box", "g", "+59170000000"), store.keys.of("void")]  # fmt: skip
        assert {slot_of(name) for name in names} == {slot_of(f"{{{store.keys.shard}}}")}
    assert stores.layout.keys.of("layout") == "bot:layout"
    await stores.close()
