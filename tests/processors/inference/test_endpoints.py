"""Which of several model servers is asked next."""

from __future__ import annotations

from processors.inference.endpoints import LONGEST_PAUSE, Endpoint, Endpoints


def ask(endpoints: Endpoints, now: float) -> Endpoint:
    chosen = endpoints.next(now)
    assert chosen is not None
    return chosen


def test_the_least_busy_is_asked() -> None:
    endpoints = Endpoints(["http://a/v1/", "http://b/v1"])
    first, second = ask(endpoints, 0), ask(endpoints, 0)
    assert {first.url, second.url} == {"http://a/v1", "http://b/v1"}
    endpoints.done(second)
    assert ask(endpoints, 0) is second


def test_one_that_fails_is_left_alone_for_longer_each_time() -> None:
    endpoints = Endpoints(["http://a/v1"])
    now, waits = 0.0, []
    for _ in range(8):
        chosen = ask(endpoints, now)
        endpoints.failed(chosen, now)
        endpoints.done(chosen)
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
        endpoints.done(each)
    assert endpoints.wait(0.5) == 1


def test_one_request_finds_out_whether_it_is_back() -> None:
    endpoints = Endpoints(["http://a/v1", "http://b/v1"])
    first = ask(endpoints, 0)
    endpoints.failed(first, 0)
    endpoints.done(first)
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
