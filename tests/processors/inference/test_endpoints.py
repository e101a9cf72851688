"""Which of several model servers is asked next."""

from __future__ import annotations

from processors.inference.endpoints import FIRST_TRIAL, LONGEST_PAUSE, Endpoint, Endpoints


def ask(endpoints: Endpoints, now: float) -> Endpoint:
    chosen = endpoints.next(now)
    assert chosen is not None
    return chosen


def test_the_least_busy_is_asked() -> None:
    endpoints = Endpoints(["http://a/v1/", "http://b/v1"])
    first, second = ask(endpoints, 0), ask(endpoints, 0)
    assert {first.url, second.url} == {"http://a/v1", "http://b/v1"}
    endpoints.done(second, 0)
    assert ask(endpoints, 0) is second


def test_one_that_fails_is_left_alone_for_longer_each_time() -> None:
    endpoints = Endpoints(["http://a/v1"])
    now, waits = 0.0, []
    for _ in range(8):
        chosen = ask(endpoints, now)
        endpoints.failed(chosen, now)
        endpoints.done(chosen, now)
        assert endpoints.next(now) is None
        assert not endpoints.up
        waits.append(endpoints.wait(now))
        now += waits[-1]
    assert waits == [1, 2, 4, 8, 16, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]


def test_many_requests_that_fail_together_are_one_failure() -> None:
    endpoints = Endpoints(["http://a/v1"])
    under_way = [ask(endpoints, 0) for _ in range(16)]
    for each in under_way:
        endpoints.failed(each, 0.5)
        endpoints.done(each, 0.5)
    assert endpoints.wait(0.5) == 1


def test_one_request_finds_out_whether_it_is_back() -> None:
    endpoints = Endpoints(["http://a/v1", "http://b/v1"])
    first = ask(endpoints, 0)
    endpoints.failed(first, 0)
    endpoints.done(first, 0)
    # While it is left alone the other has all, however busy it is; then whoever finds nobody better asks it
    second = ask(endpoints, 0.5)
    assert second is not first
    assert ask(endpoints, 5) is second
    assert endpoints.next(5, but=[second]) is first
    assert endpoints.next(5, but=[second]) is None
    endpoints.works(first)
    assert ask(endpoints, 5) is first


def test_it_says_itself_for_how_long_within_bounds() -> None:
    endpoints = Endpoints(["http://a/v1"])
    chosen = ask(endpoints, 0)
    for said, kept in ((3.0, 3.0), (3600.0, LONGEST_PAUSE), (0.0, 0.1)):
        endpoints.failed(chosen, 0, pause=said)
        assert endpoints.wait(0) == kept
        endpoints.works(chosen)
    assert endpoints.wait(0) == 0


def test_one_that_fails_with_many_at_once_gets_half_as_many() -> None:
    endpoints = Endpoints(["http://a/v1"])
    under_way = [ask(endpoints, 0) for _ in range(16)]
    for each in under_way:
        assert endpoints.crowded(each, 0, 5), "each may have failed for the others"
        endpoints.done(each, 5)
    (only,) = endpoints.all
    assert only.most == 8, "the sixteen were one crowd"
    for _ in range(8):
        ask(endpoints, 6)
    assert endpoints.next(6) is None
    assert endpoints.all_full(6)
    endpoints.done(only, 7)
    assert ask(endpoints, 7) is only


def test_who_was_alone_has_failed_by_himself() -> None:
    endpoints = Endpoints(["http://a/v1"])
    alone = ask(endpoints, 1)
    assert not endpoints.crowded(alone, 1, 5)
    assert alone.most is None
    # Nor is who began after the last of the others had ended
    ask(endpoints, 6)
    endpoints.done(alone, 7)
    endpoints.done(alone, 8)
    ask(endpoints, 9)
    assert not endpoints.crowded(alone, 9, 10)


def test_after_some_that_went_well_it_gets_one_more_and_after_each_crowd_later() -> None:
    endpoints = Endpoints(["http://a/v1"])

    def crowd(now: float) -> Endpoint:
        chosen = [ask(endpoints, now) for _ in range(2)]
        endpoints.crowded(chosen[0], now, now + 1)
        for each in chosen:
            endpoints.done(each, now + 1)
        return chosen[0]

    def well(count: int) -> None:
        for _ in range(count):
            endpoints.works(endpoints.all[0])

    for number, now in enumerate((0, 10, 20)):
        only = crowd(now)
        assert only.most == 1
        well(FIRST_TRIAL * 2**number - 1)
        assert only.most == 1
        well(1)
        assert only.most == 2


def test_one_that_takes_as_many_as_when_it_was_crowded_gets_any_number_again() -> None:
    endpoints = Endpoints(["http://a/v1"])
    under_way = [ask(endpoints, 0) for _ in range(4)]
    endpoints.crowded(under_way[0], 0, 1)
    for each in under_way:
        endpoints.done(each, 1)
    (only,) = endpoints.all
    for most in (2, 3, 4):
        assert only.most == most
        for _ in range(FIRST_TRIAL):
            endpoints.works(only)
    assert only.most is None
    assert not only.full


def test_an_answer_without_a_reason_to_end_was_interrupted_unless_the_server_never_gives_one() -> None:
    endpoints = Endpoints(["http://a/v1"])
    (server,) = endpoints.all

    def several(now: float) -> None:
        for _ in range(2):
            ask(endpoints, now)
        for _ in range(2):
            endpoints.done(server, now)

    several(0)
    assert endpoints.interrupted(server, 0, None), "nobody knows yet, and it had others beside it"
    assert not endpoints.interrupted(server, 1, None), "alone: it never gives one"
    several(2)
    assert not endpoints.interrupted(server, 2, None)
    assert not endpoints.interrupted(server, 3, "stop")
    assert endpoints.interrupted(server, 4, None), "it does give one"
