"""
One line of one script changed, so that a promise is broken: whoever checks promises has to notice each.

Nothing here is subtle on purpose; a mutation is the bug that somebody could write on a bad day.  Two are left out:
settle.lua without its look into the box, which changes nothing (a lease in force has its entries there, for tokens are
never used again), and release.lua without its last write, which shows only where the clock is set back between a
release and a claim (claim.lua looks at the deadline as well): 169 stories did not get there.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec.structs import replace

from ingress import append, waiting
from streams import doors, turns, watch
from streams.erasure import rewriting, traces
from streams.scripts import Script


class Mutation(NamedTuple):
    """`old`, once in the script, becomes `new`."""

    module: Any
    script: str
    old: str
    new: str


OF_AN_ERASE = {
    "a turn goes on although its person was erased": Mutation(
        traces, "_ERASE", "in_work = in_work + redis.call('HDEL', leases, a.person)", ""
    ),
    "a request is answered although its person was erased": Mutation(
        doors, "_CLAIM", "if was_erased(ARGV[7], KEYS[6], entry) then", "if false then"
    ),
    "a stream written anew forgets what is pending": Mutation(
        rewriting, "_SWAP", "redis.call('XPENDING', old, group.name, after, '+', 500)", "{}"
    ),
}

MUTATIONS = {
    "a turn is ended whoever holds the lease": Mutation(
        turns, "_SETTLE", "if holder ~= turn.token or erased_meanwhile(turn) then", "if erased_meanwhile(turn) then"
    ),
    "a settled entry stays in its box": Mutation(
        turns, "_SETTLE", "return redis.call('ZREM', box, boxed(ids[1])) == 1 end", "return true end"
    ),
    "a settled entry stays pending": Mutation(turns, "_SETTLE", "tell(ended, 'XACK', stream, a.group)", ""),
    "a lease outlives its turn": Mutation(turns, "_SETTLE", "tell(over, 'HDEL', leases)", ""),
    "what is left is due at once after a park": Mutation(
        turns, "_SETTLE", "return now() + turn.delay_ms", "return now()"
    ),
    "a parked key is overtaken": Mutation(
        turns, "_SETTLE", "redis.call('HSET', hints, 'p:' .. key, turn.at_door and 'door' or '1')", ""
    ),
    "progress is forgotten": Mutation(turns, "_SETTLE", "if turn.progress then", "if false then"),
    "an attempt that says nothing counts": Mutation(
        turns, "_SETTLE", "math.max(0, tonumber(starts) - 1) .. rest", "starts .. rest"
    ),
    "the first request gets the reply": Mutation(
        turns,
        "_SETTLE",
        "if deadline and tonumber(deadline) > now() then",
        "if deadline and tonumber(deadline) > now() and not winner then",
    ),
    "a reply is not marked for its request": Mutation(
        turns, "_SETTLE", "if door and ARGV[at + 1] == '1' then", "if false then"
    ),
    "a request whose time is up gets the reply": Mutation(
        turns, "_SETTLE", "if deadline and tonumber(deadline) > now() then", "if deadline then"
    ),
    "a repeated call reads again": Mutation(turns, "_TAKE", "if last == a.call then", "if false then"),
    "a late call is carried out": Mutation(turns, "_TAKE", "if last and a.call < last then", "if false then"),
    "the cursor stays behind": Mutation(
        turns, "_TAKE", "if #read > 0 then redis.call('SET', cursor, read[#read][1]) end", ""
    ),
    "a key in work is due": Mutation(turns, "_TAKE", "tell(freed, 'ZREM', due)", ""),
    "a key in work is made due by what it gets": Mutation(turns, "_TAKE", "if leased[i] then", "if false then"),
    "the newest are taken first": Mutation(
        turns,
        "_TAKE",
        "redis.call('ZRANGE', a.box .. key, 0, limit - 1)",
        "redis.call('ZREVRANGE', a.box .. key, 0, limit - 1)",
    ),
    "ids of one millisecond are not padded": Mutation(
        turns,
        "_TAKE",
        "string.sub(zeros, 1, 20 - (#id - dash)) .. string.sub(id, dash + 1)",
        "string.sub(id, dash + 1)",
    ),
    "a suspect brings its neighbours": Mutation(turns, "_TAKE", "suspect and 1 or a.turn_max", "a.turn_max"),
    "suspects come together": Mutation(turns, "_TAKE", "if suspect then suspects = suspects - 1 end", ""),
    "starts are not counted": Mutation(turns, "_TAKE", "starts = starts + 1", ""),
    "a retry is metered again": Mutation(turns, "_TAKE", "if starts == 0 and first == '' then", "if true then"),
    "the window starts anew for ever": Mutation(turns, "_TAKE", "math.min(first_ms + a.debounce_max_ms, ", "math.min("),
    "nobody is told that a turn is superseded": Mutation(
        turns, "_TAKE", "redis.call('XADD', bell, 'MAXLEN', '~', 1000, '*', 'newer', token)", ""
    ),
    "a turn is superseded by what it cannot hold": Mutation(
        turns, "_TAKE", "if not counts or #ids > a.turn_max then", "if not counts then"
    ),
    "a beat does not know what is superseded": Mutation(turns, "_TAKE", "then newer = ':newer' end", "then end"),
    "a beat does not say what is superseded": Mutation(turns, "_BEAT", "newer[#newer + 1] = token", ""),
    "a superseded turn is parked": Mutation(
        turns, "_SETTLE", "if turn.delay_ms and", "if turn.superseded then turn.delay_ms = 0 end if turn.delay_ms and"
    ),
    "the window of what came ends with that of what was superseded": Mutation(
        turns, "_SETTLE", "elseif turn.superseded then redis.call('HSET', hints, 'h:' .. key, first) end", "end"
    ),
    "who waits sits out the window of what came later": Mutation(
        turns, "_SETTLE", "if turn.superseded and waited_for(turn.uncount) then at = '0' end", ""
    ),
    "who waits no more is not made to sit out a window": Mutation(
        turns, "_SETTLE", "if tonumber(string.match(value or '0', '^%d+')) > now() then return true end", "return true"
    ),
    "leases that were lost on the way stay": Mutation(
        turns, "_BEAT", "elseif tonumber(call) <= a.seen then", "elseif false then"
    ),
    "a beat frees what is still under way": Mutation(turns, "_BEAT", "elseif tonumber(call) <= a.seen then", "else"),
    "nobody learns what was lost": Mutation(turns, "_BEAT", "if not in_force[token] then", "if false then"),
    "a beat does not register": Mutation(
        turns, "_BEAT", "if redis.call('HEXISTS', consumers, a.consumer) == 0 then", "if false then"
    ),
    "the living are swept": Mutation(
        watch, "_SWEEP", "if not a.leaving and redis.call('EXISTS', heartbeat) == 1 then return {'alive'} end", ""
    ),
    "the dead keep their leases": Mutation(watch, "_SWEEP", "if owner == a.dead then", "if false then"),
    "a crash is not counted": Mutation(watch, "_SWEEP", "(tonumber(crashes) + 1)", "crashes"),
    "what the dead had in work is not due": Mutation(
        watch, "_SWEEP", "redis.call('ZADD', due, string.format('%.0f', now), key)", ""
    ),
    "the pending of the dead are destroyed": Mutation(watch, "_SWEEP", "if #pending > 0 then", "if false then"),
    "a group is made again at the end": Mutation(turns, "_OPEN", "local from = at or", "local from = at and '$' or"),
    "what was taken is not pending again": Mutation(turns, "_OPEN", "redis.call(unpack(claim))", ""),
    "a message is not deduplicated": Mutation(
        append, "_APPEND", "if mark then return string.match(mark", "if false then return string.match(mark"
    ),
    "a repeat inside the ingress is a duplicate": Mutation(
        append, "_APPEND", "call == message[CALL] and 'new' or ", ""
    ),
    "another text is a duplicate": Mutation(
        append, "_APPEND", "or text == message[TEXT] and 'duplicate' or 'reused', entry}", "or 'duplicate', entry}"
    ),
    "nobody who waits is registered": Mutation(
        append, "_APPEND", "if message[WAIT] then wait(message, verdict[2]) end", ""
    ),
    "who waits for what was answered is registered": Mutation(
        append, "_APPEND", "and unanswered(verdict[2], message[WAIT].group) then", "then"
    ),
    "a repeat that waits sits out the window": Mutation(
        append, "_APPEND", "        hurry(verdict[2], message[WAIT].group)\n", ""
    ),
    "anybody withdraws a registration": Mutation(waiting, "_WITHDRAW", "~= ARGV[2] then", "== nil then"),
    "a reply is claimed after its time": Mutation(
        doors, "_CLAIM", "if state == 'open' and tonumber(deadline) <= now then", "if false then"
    ),
    "a claim is not remembered": Mutation(doors, "_CLAIM", "redis.call('HSET', door, 'state', 'http')", ""),
    "a reply is claimed though the webhook has it": Mutation(
        doors, "_CLAIM", "if state == 'webhook' then return {'webhook'} end", ""
    ),
    "merged is said before the claim": Mutation(
        doors, "_CLAIM", "if state == 'http' then return {'merged', into} end", "do return {'merged', into} end"
    ),
    "a claim wakes nobody": Mutation(doors, "_CLAIM", "  wake()\n", ""),
    "who gives up stays registered": Mutation(doors, "_CLAIM", "if stop then withdraw() end", ""),
    "a claimed reply is released": Mutation(
        doors, "_RELEASE", "if state == 'http' then return -1 end", "if state == 'http' then return 0 end"
    ),
    "a reply is released before its time": Mutation(
        doors, "_RELEASE", "if tonumber(deadline) > now then return tonumber(deadline) - now end", ""
    ),
    **OF_AN_ERASE,
}


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """While this is open, the script is that of the mutation."""
    mutation = MUTATIONS[name]
    sound: Script = getattr(mutation.module, mutation.script)
    assert sound.text.count(mutation.old) == 1, f"{mutation.script} has changed: {mutation.old!r} is not in it once"
    text = sound.text.replace(mutation.old, mutation.new)
    sha = hashlib.sha1(text.encode()).hexdigest()  # noqa: S324 - Redis names scripts by SHA-1
    setattr(mutation.module, mutation.script, replace(sound, text=text, sha=sha))
    try:
        yield
    finally:
        setattr(mutation.module, mutation.script, sound)
