"""One at a time, in order, and nobody too often."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from app.serving import queueing as turns
from app.serving.queueing import Rate, Turns
from app.serving.service import Service
from app.session import Visitor, visitor_of
from app.settings import Settings
from pruning.errors import BusyError, RunStopped, WorkerDiedError
from pruning.records.run import RunRequest

# Killing workers is what some of these tests do.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


def test_everybody_in_the_order_of_arrival_and_one_at_a_time():
    line, done, inside, most = Turns(30), [], [0], [0]

    def run(number):
        with line.turn(lambda: False, lambda before: None):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.002)
            done.append(number)
            inside[0] -= 1

    threads = []
    with line.turn(lambda: False, lambda before: None):
        for number in range(20):
            threads.append(threading.Thread(target=run, args=(number,)))
            threads[-1].start()
            while len(line._line) < number + 2:
                time.sleep(0.001)
    for thread in threads:
        thread.join(5)
    assert done == list(range(20))
    assert most == [1]


def test_who_waits_hears_how_many_are_before_and_can_leave():
    line, heard, stop, left = Turns(9), [], threading.Event(), []

    def wait():
        try:
            with line.turn(stop.is_set, heard.append):
                pass
        except RunStopped:
            left.append(time.monotonic())

    with line.turn(lambda: False, heard.append):
        thread = threading.Thread(target=wait)
        thread.start()
        while not heard:
            time.sleep(0.001)
        began = time.monotonic()
        stop.set()
        thread.join(2)
        assert left[0] - began < 1
    assert heard == [1]
    with line.turn(lambda: False, heard.append):
        assert heard == [1], "the one who left is not counted"


def test_a_full_line_says_so_and_empties_again():
    line = Turns(1)
    with line.turn(lambda: False, lambda before: None):
        with pytest.raises(BusyError, match="1 runs are waiting already"):
            with line.turn(lambda: False, lambda before: None):
                pass
    with line.turn(lambda: False, lambda before: None):
        pass


def test_a_turn_that_fails_is_given_back():
    line = Turns(2)
    with pytest.raises(ZeroDivisionError):
        with line.turn(lambda: False, lambda before: None):
            1 / 0  # noqa: B018
    with line.turn(lambda: False, lambda before: None):
        pass


def test_a_visitor_may_not_run_too_often_and_others_may(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(turns.time, "monotonic", lambda: now[0])
    rate = Rate(3)
    for _ in range(3):
        rate.count("a")
    with pytest.raises(
        BusyError, match=r"3 runs by one visitor in a minute is the limit\. The next one can start in 60 s"
    ):
        rate.count("a")
    rate.count("b")
    now[0] = 61
    rate.count("a")
    for number in range(2000):
        rate.count(str(number))
    assert len(rate._times) == 1000


def test_a_reload_makes_no_new_visitor_of_an_address_and_a_class_is_let_in():
    limits = {"runs_per_minute": 2, "runs_per_minute_per_host": 60}
    service = Service(Settings(**limits))
    for number in range(60):
        service.admit(Visitor(f"page {number}", "10.0.0.1"))
    with pytest.raises(BusyError, match=r"60 runs from one address in a minute is the limit\. The next one can start"):
        service.admit(Visitor("page 60", "10.0.0.1"))
    service.admit(Visitor("page 61", "10.0.0.2"))
    generous = Service(Settings())
    for _ in range(20):
        for pupil in range(30):
            generous.admit(Visitor(f"pupil {pupil}", "10.0.0.1"))


@pytest.mark.parametrize(
    ("host", "counted_as"),
    [
        ("192.168.1.7", "192.168.1.7"),
        ("2001:db8:1:2:aaaa:bbbb:cccc:dddd", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.168.1.7", "192.168.1.7"),
        ("testclient", "testclient"),
    ],
)
def test_an_address_is_counted_with_those_that_its_owner_has_as_well(host, counted_as):
    request = SimpleNamespace(session_hash="a", client=SimpleNamespace(host=host))
    assert visitor_of(request) == Visitor("a", counted_as)


def test_twenty_visitors_at_once_get_their_own(tiny):
    service = Service(Settings(max_new_tokens=2), load=lambda name, **kwargs: tiny)
    pictures = [np.random.default_rng(i).integers(0, 255, (48, 48, 3), dtype=np.uint8) for i in range(20)]
    methods = ["resprune", "fastv", "visionzip", "random_baseline"]
    found: dict[int, list] = {}

    def visit(i):
        request = RunRequest(
            "demo", methods[i % 4], (4 + i) / 36, f"What color is number {i}?", seed=i, max_new_tokens=2
        )
        with service.hold(f"visitor {i}") as hold:
            found[i] = list(service.run(hold, request, pictures[i], lambda adapter: None))

    threads = [threading.Thread(target=visit, args=(i,)) for i in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    waited = 0
    for i, events in found.items():
        assert events[-1].kind == "done", events[-1]
        record = events[-1].value
        assert record.request.question == f"What color is number {i}?"
        assert (record.request.method, record.request.seed) == (methods[i % 4], i)
        assert record.pruned.visual_per_layer[-1] == 4 + i
        waited += any(e.kind == "waiting" for e in events)
    assert len(found) == 20
    assert waited > 0


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_a_run_that_fails_is_said_and_the_next_one_works(one_service, tiny, monkeypatch, error):
    with monkeypatch.context() as during:
        during.setattr(tiny, "answer", raiser(error))
        last = list(go(one_service))[-1]
        assert (last.kind, type(last.value)) == ("failed", error)
    assert [e.kind for e in go(one_service)][-1] == "done"


def test_a_worker_that_dies_is_started_again_and_its_run_ends_well(one_service, tiny, monkeypatch):
    workers, real = [], tiny.answer

    def die_once(*args):
        workers.append(threading.current_thread())
        if len(workers) == 1:
            raise SystemExit  # ends a thread without a word
        return real(*args)

    monkeypatch.setattr(tiny, "answer", die_once)
    kinds = [e.kind for e in go(one_service)]
    assert kinds.count("restarted") == 1
    assert kinds[-1] == "done"
    assert workers[0] is not workers[1]
    assert not workers[0].is_alive()


def test_a_run_that_kills_every_worker_is_given_up_and_the_next_one_works(one_service, tiny, monkeypatch):
    with monkeypatch.context() as during:
        during.setattr(tiny, "answer", raiser(SystemExit))
        events = list(go(one_service))
        assert [e.kind for e in events].count("restarted") == 1
        assert isinstance(events[-1].value, WorkerDiedError)
    assert [e.kind for e in go(one_service)][-1] == "done"
    assert not one_service._subscribers, "nothing is left of either"


def test_those_who_wait_hear_that_a_worker_died_and_get_their_turn(one_service, tiny, monkeypatch):
    """One dies in the middle of its turn, and another one stands behind it in the line."""
    dying, real = threading.Event(), tiny.answer

    def die_once(*args):
        if not dying.is_set():
            while len(one_service._turns._line) < 2:
                time.sleep(0.001)
            dying.set()
            raise SystemExit
        return real(*args)

    monkeypatch.setattr(tiny, "answer", die_once)
    heard: dict[str, list[str]] = {}
    first = threading.Thread(target=lambda: heard.update(first=[e.kind for e in go(one_service, "first")]))
    first.start()
    while not one_service._turns._line:
        time.sleep(0.001)
    # The second one's turn is held open until the news is there, so that nothing depends on who is faster.
    monkeypatch.setattr(one_service, "is_loaded", lambda model: news.wait(10))
    news = threading.Event()
    tell = one_service._tell_the_others
    monkeypatch.setattr(one_service, "_tell_the_others", lambda mine: (tell(mine), news.set()))
    heard["second"] = [e.kind for e in go(one_service, "second")]
    first.join(20)
    assert "held_up" in heard["second"]
    assert "restarted" not in heard["second"]
    assert (heard["first"][-1], heard["second"][-1]) == ("done", "done")


def test_a_thread_that_died_with_its_turn_in_hand_holds_nobody_up():
    line, kept = Turns(2), []

    def die_holding():
        turn = line.turn(lambda: False, lambda before: None)
        turn.__enter__()
        kept.append(turn)  # or Python would give the turn back when it throws the generator away

    for _ in range(2):
        thread = threading.Thread(target=die_holding)
        thread.start()
        thread.join(5)
        assert thread in line._line
        with line.turn(lambda: False, lambda before: None):
            assert line._line == [threading.current_thread()]


def raiser(error):
    def fail(*args):
        raise error

    return fail


@pytest.fixture
def one_service(tiny, monkeypatch):
    monkeypatch.setattr("app.serving.worker.POLL_SECONDS", 0.01)
    return Service(Settings(max_new_tokens=2), load=lambda name, **kwargs: tiny)


def go(service, session="a"):
    request = RunRequest("demo", "resprune", 0.5, "What?", max_new_tokens=2)
    with service.hold(session) as hold:
        yield from service.run(hold, request, np.zeros((48, 48, 3), np.uint8), lambda adapter: None)
