"""Whether an engine makes progress: the judgement with made-up times, the rest on real servers."""

from __future__ import annotations

import json
import math
import random
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import healthchecks
from healthchecks import Limits, Target
from healthchecks.liveness.check import Note
from healthchecks.liveness.metrics import Engine, engines
from healthchecks.liveness.observe import Observer
from healthchecks.liveness.watch import ANY, Watch
from tests.unit.fake_vllm import (
    MODEL,
    Answer,
    FakeServer,
    Hangup,
    Json,
    answer,
    completion,
    good_chat,
)
from tests.unit.test_healthchecks import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from healthchecks.liveness.watch import Finding

SAMPLE = Path(__file__).parents[1] / "data" / "metrics-vllm-0.23.txt"
USUAL = Limits()
QUICK = Limits(interval=0.2, quiet=0.3, deadline=0.5, busy=2.0)
KEY = "sk-not-for-any-output"


# The text of /metrics


def test_the_metrics_of_a_real_server() -> None:
    found = engines(SAMPLE.read_text(encoding="utf-8"))
    assert set(found) == {"0"}
    assert (found["0"].running, found["0"].waiting, found["0"].generated) == (0, 0, 8393)
    assert found["0"].evidence == {
        "vllm:num_requests_running": 0,
        "vllm:num_requests_waiting": 0,
        "vllm:kv_cache_usage_perc": 0,
        "vllm:prefix_cache_queries_total": 11228,
        "vllm:prompt_tokens_total": 11160,
        "vllm:generation_tokens_total": 8393,
        "vllm:request_success_total": 69 + 96,
        "vllm:iteration_tokens_total_count": 5228,
    }


@pytest.mark.parametrize(
    ("line", "moved"),
    [
        ('vllm:generation_tokens_total{engine="0",model_name="tiny-omni"}', True),
        ('vllm:request_success_total{engine="0",finished_reason="stop"', True),
        ('vllm:request_success_total{engine="0",finished_reason="repetition"', True),
        ('vllm:num_requests_waiting{engine="0",model_name="tiny-omni"}', True),
        ('vllm:kv_cache_usage_perc{engine="0"', True),
        # What clients do to a server that hangs: they give up, and send others.
        ('vllm:request_success_total{engine="0",finished_reason="abort"', False),
        ('vllm:request_success_total{engine="0",finished_reason="error"', False),
        ('vllm:mm_cache_queries_total{engine="0"', False),
        ('http_requests_total{handler="/v1/chat/completions",method="POST"', False),
    ],
)  # fmt: skip
def test_which_figures_are_evidence(line: str, moved: bool) -> None:
    text = SAMPLE.read_text(encoding="utf-8")
    (old,) = [row for row in text.splitlines() if row.startswith(line)][:1]
    changed = text.replace(old, old.rpartition(" ")[0] + " 77.5")
    assert changed != text
    assert (engines(changed)["0"].evidence != engines(text)["0"].evidence) is moved


def test_several_engines_are_told_apart() -> None:
    one = SAMPLE.read_text(encoding="utf-8")
    other = one.replace('engine="0"', 'engine="1"').replace(" 8393.0", " 9.0")
    found = engines(one + other)
    assert {label: engine.generated for label, engine in found.items()} == {"0": 8393, "1": 9}


@pytest.mark.parametrize(
    "name", ["a}b", 'a"b', "a\\b", 'a,engine="7"', "{}", "模型", "a b", ""],
)  # fmt: skip
def test_a_model_of_any_name(name: str) -> None:
    value = name.replace("\\", "\\\\").replace('"', '\\"')
    line = f'vllm:generation_tokens_total{{engine="0",model_name="{value}"}} 5.0'
    assert engines(line + "\n")["0"].generated == 5


@pytest.mark.parametrize(
    "text",
    [
        "", "\n\n", "{", "vllm:", "vllm:generation_tokens_total",
        'vllm:generation_tokens_total{engine="0"} many',
        'vllm:generation_tokens_total{engine="0" 5',
        'vllm:generation_tokens_total{engine="0} 5\nvllm:x{} 5',
        "<html>vllm:generation_tokens_total</html>",
        'vllm:generation_tokens_total{engine="0"} NaN\nvllm:num_requests_running{engine="0"} NaN',
        'vllm:num_requests_running{engine="0"} +Inf\nvllm:num_requests_waiting{engine="0"} -Inf',
        'vllm:cache_config_info{engine="0"} 1.0',
        "# TYPE vllm:generation_tokens_total counter",
        "\0\ufffd" * 100,
    ],
)  # fmt: skip
def test_odd_metrics_name_no_engine(text: str) -> None:
    assert engines(text) == {}


def test_other_forms_of_the_format() -> None:
    text = 'vllm:generation_tokens_total 5\nvllm:num_requests_running{engine="0",} 2 1795381345\r\n'
    found = engines(text)["0"]
    assert (found.generated, found.running) == (5, 2)


def test_a_long_text_of_no_use_takes_no_time() -> None:
    began = time.monotonic()
    engines('vllm:x{a="' + "\\" * 50_000 + "\n" + 'vllm:x{a="b",' * 20_000 + "\n" + "{" * 50_000)
    assert time.monotonic() - began < 5


# The judgement


class Sim:
    """A server with made-up times: looked at every interval, its tokens come when they may."""

    def __init__(self, limits: Limits = USUAL) -> None:
        self.limits = limits
        self.now = 1000.0
        self.watch = Watch(limits, self.now)
        self.asked: dict[str, float] = {}
        self.answers = True
        self.asks = 0

    def look(
        self, state: Mapping[str, Engine] | str, *, computing: bool = False, slow: float = 0.0
    ) -> Finding:
        """One look: `state` is what the metrics say, or why they don't come."""
        self.now += slow
        if isinstance(state, str):
            self.watch.missed(state, self.now)
        else:
            self.watch.saw(state, self.now)
        for label, at in list(self.asked.items()):
            if self.answers:
                self.watch.answered(label, "answered", self.now)
                del self.asked[label]
            elif self.now - at >= self.watch.patience(label):
                self.watch.failed(label, "no token", at)
                del self.asked[label]
        for label in self.watch.due(self.now):
            self.asked[label] = self.now
            self.asks += 1
        return self.watch.judge(self.now, computing=computing)

    def until_hung(
        self, state: Callable[[], Mapping[str, Engine] | str], within: float, **how: bool
    ) -> float:
        """Return after how many seconds the server was taken to hang, infinite where never."""
        began = self.now
        while self.now - began < within:
            self.now += self.limits.interval
            if self.look(state(), **how).state == "hung":
                return self.now - began
        return math.inf


def engine(count: float = 0, running: int = 0, waiting: int = 0) -> Engine:
    figures = {"vllm:generation_tokens_total": count, "vllm:num_requests_running": running}
    return Engine(running, waiting, int(count), figures)


IDLE = {"0": engine()}
BUSY = {"0": engine(9, running=4, waiting=2)}


class Moving:
    """Counters that move at each look."""

    def __init__(self, running: int = 3) -> None:
        self.count = 0
        self.running = running

    def __call__(self) -> dict[str, Engine]:
        self.count += 1
        return {"0": engine(self.count, self.running)}


def test_an_idle_hang_is_found_within_a_minute() -> None:
    sim = Sim()
    sim.look(IDLE)
    sim.answers = False
    assert 45 <= sim.until_hung(lambda: IDLE, 600) <= 60
    assert sim.asks >= 1


def test_an_idle_server_that_answers_never_hangs() -> None:
    sim = Sim()
    sim.look(IDLE)
    assert sim.until_hung(lambda: IDLE, 3600) == math.inf
    # One token every quiet time and a look, and none more.
    assert 3600 / 25 <= sim.asks <= 3600 / 15


def test_a_server_whose_counters_move_is_not_asked() -> None:
    sim = Sim()
    sim.answers = False
    assert sim.until_hung(Moving(), 3600) == math.inf
    assert sim.asks == 0


def test_a_full_server_that_never_answers_the_token_never_hangs() -> None:
    """Steps of 20 s: each stands still for long enough to be asked, and no token ever comes."""
    sim = Sim()
    sim.answers = False
    state = {"0": engine(1, running=64, waiting=900)}
    for step in range(200):
        for _ in range(4):
            sim.now += 5
            assert sim.look(state).state != "hung"
        state = {"0": engine(step + 2, running=64, waiting=900)}
    assert sim.asks > 100


def test_a_busy_server_that_stands_still_has_the_busy_limit() -> None:
    sim = Sim()
    sim.look(BUSY)
    sim.answers = False
    assert USUAL.busy <= sim.until_hung(lambda: BUSY, 600) <= USUAL.busy + 10


def test_a_first_request_may_compile_until_the_busy_limit() -> None:
    sim = Sim()
    sim.look(IDLE)
    sim.answers = False
    assert USUAL.busy <= sim.until_hung(lambda: IDLE, 600, computing=True) <= USUAL.busy + 10


def test_what_no_longer_computes_has_the_idle_limit_from_then_on() -> None:
    sim = Sim()
    sim.look(IDLE)
    sim.answers = False
    assert sim.until_hung(lambda: IDLE, 60, computing=True) == math.inf
    assert sim.until_hung(lambda: IDLE, 600) <= USUAL.idle + 10
    assert "its processes compute" not in sim.look(IDLE).detail


def test_one_of_several_engines_hangs() -> None:
    sim = Sim()
    moving = Moving()

    def state() -> dict[str, Engine]:
        return {"0": moving()["0"], "1": engine()}

    sim.look(state())
    sim.answers = False
    assert 45 <= sim.until_hung(state, 600) <= 60
    found = sim.look(state())
    assert found.detail.startswith("engine 1: no progress for ")
    assert "0 running, 0 waiting" in found.detail


def test_each_of_several_engines_is_asked_by_itself() -> None:
    sim = Sim()
    both = {"0": engine(), "1": engine()}
    sim.look(both)
    sim.answers = False
    sim.until_hung(lambda: both, 20)
    assert set(sim.asked) == {"0", "1"}
    assert sim.watch.labels == ["0", "1"]
    sim.watch.answered("0", "answered", sim.now)
    assert sim.watch.judge(sim.now).detail.startswith("engine 1")


def test_an_engine_that_the_metrics_no_longer_name_is_not_waited_for() -> None:
    sim = Sim()
    sim.look({"0": engine(), "1": engine()})
    sim.answers = False
    assert sim.until_hung(Moving(), 600) == math.inf


def test_a_refusal_is_an_answer() -> None:
    sim = Sim()
    sim.look("HTTP 401: Unauthorized")
    assert sim.until_hung(lambda: "HTTP 401: Unauthorized", 3600) == math.inf
    assert sim.asks > 100


def test_metrics_that_go_missing_on_an_idle_server() -> None:
    sim = Sim()
    sim.look(IDLE)
    sim.answers = False
    assert 45 <= sim.until_hung(lambda: "no answer", 600) <= 60
    assert "no token" in sim.look("no answer").detail or "no answer" in sim.look("no answer").detail


def test_metrics_that_go_missing_on_a_busy_server() -> None:
    sim = Sim()
    sim.look(BUSY)
    sim.answers = False
    assert USUAL.busy <= sim.until_hung(lambda: "no answer", 600) <= USUAL.busy + 10


def test_metrics_that_come_only_now_and_then_are_enough() -> None:
    sim = Sim()
    sim.answers = False
    moving = Moving()
    turns = iter(range(10_000))
    assert sim.until_hung(lambda: moving() if next(turns) % 20 == 0 else "late", 3600) == math.inf


def test_metrics_that_for_once_name_no_engine_change_nothing() -> None:
    sim = Sim()
    sim.answers = False
    moving = Moving()
    turns = iter(range(10_000))
    assert sim.until_hung(lambda: moving() if next(turns) % 5 else {}, 3600) == math.inf
    assert sim.watch.labels == ["0"]


def test_a_token_asked_before_the_engine_was_known_is_not_held_against_it() -> None:
    """Its failure must not bring back an engine without a name, which no counter can move."""
    sim = Sim()
    sim.answers = False
    assert sim.until_hung(lambda: "starting", 30) == math.inf
    assert set(sim.asked) == {ANY}
    assert sim.until_hung(Moving(), 3600) == math.inf
    assert sim.watch.labels == ["0"]


def test_an_answer_without_a_name_is_the_only_engines() -> None:
    watch = Watch(USUAL, 0.0)
    watch.missed("starting", 10.0)
    assert watch.due(20.0) == [ANY]
    watch.saw(IDLE, 21.0)
    assert watch.judge(21.0).state == "still"
    watch.answered(ANY, "answered", 22.0)
    assert watch.judge(23.0).state == "moving"
    both = Watch(USUAL, 0.0)
    both.saw({"0": engine(), "1": engine()}, 10.0)
    both.answered(ANY, "answered", 20.0)
    assert both.judge(20.0).state == "still"


def test_a_server_without_counters_has_the_busy_limit_for_its_token() -> None:
    """Nothing tells its full queue from a hang, so the token has long to come."""
    sim = Sim()
    sim.look({})
    assert sim.watch.patience(ANY) == USUAL.busy
    sim.answers = False
    assert USUAL.busy <= sim.until_hung(dict, 600) <= USUAL.busy + 40
    assert "its load is not known" in sim.look({}).detail


def test_without_counters_processes_that_compute_are_evidence() -> None:
    sim = Sim()
    sim.look({})
    sim.answers = False
    assert sim.until_hung(dict, 3600, computing=True) == math.inf
    assert USUAL.busy <= sim.until_hung(dict, 600) <= USUAL.busy + 40


def test_counters_that_begin_again_are_progress() -> None:
    watch = Watch(USUAL, 0.0)
    watch.saw({"0": engine(900)}, 1.0)
    watch.saw({"0": engine(2)}, 100.0)
    found = watch.judge(100.0)
    assert (found.state, found.detail) == ("moving", "steps done; 0 running, 0 waiting")


def test_no_verdict_without_a_token_that_did_not_come() -> None:
    watch = Watch(USUAL, 0.0)
    for second in range(0, 600, 5):
        watch.saw(IDLE, float(second))
        assert watch.judge(float(second)).state != "hung"


def test_a_token_still_awaited_is_no_verdict() -> None:
    watch = Watch(USUAL, 0.0)
    for second in range(0, 600, 5):
        watch.saw(IDLE, float(second))
        watch.due(float(second))
        assert watch.judge(float(second)).state != "hung"


def test_a_token_asked_for_before_a_sign_of_life_is_no_evidence() -> None:
    watch = Watch(USUAL, 0.0)
    watch.saw(IDLE, 0.0)
    for second in range(5, 30, 5):
        watch.saw(IDLE, float(second))
        watch.due(float(second))
    watch.saw({"0": engine(5)}, 30.0)
    watch.failed("0", "no token", 15.0)
    for second in range(35, 95, 5):
        watch.saw({"0": engine(5)}, float(second))
        assert watch.judge(float(second)).state != "hung"


@pytest.mark.parametrize("pause", [16.0, 40.0, 300.0, 86_400.0])
@pytest.mark.parametrize("state", [IDLE, BUSY])
def test_a_time_in_which_nobody_looked_is_no_standstill(
    pause: float, state: dict[str, Engine]
) -> None:
    """`docker pause`, a machine that slept: whatever was asked before it failed in it."""
    sim = Sim()
    sim.look(state)
    sim.answers = False
    for _ in range(4):
        sim.now += 5
        sim.look(state)
    asked = dict(sim.asked)
    assert asked
    sim.now += pause
    found = sim.look(state)
    assert found.state != "hung"
    assert found.still < 40
    # And then it is found as ever.
    assert sim.until_hung(lambda: state, 600) <= USUAL.busy + 10


def test_several_pauses_in_a_row() -> None:
    sim = Sim()
    sim.look(IDLE)
    for _ in range(50):
        sim.answers = False
        sim.now += 5
        assert sim.look(IDLE).state != "hung"
        sim.now += 400
        assert sim.look(IDLE).state != "hung"
        sim.answers = True
        sim.now += 5
        assert sim.look(IDLE).state != "hung"


def test_looks_that_are_slow_find_it_all_the_same() -> None:
    sim = Sim()
    sim.look(IDLE)
    sim.answers = False
    began = sim.now
    while sim.look("no answer", slow=4.9).state != "hung":
        sim.now += 0.5
        assert sim.now - began < 65


def test_nothing_seen_is_no_verdict() -> None:
    found = Watch(USUAL, 0.0).judge(9999.0)
    assert (found.state, found.detail) == ("moving", "not looked at yet")


@pytest.mark.parametrize("seed", range(40))
def test_counters_that_move_in_time_are_never_a_hang(seed: int) -> None:
    """Whatever else happens: tokens that fail, metrics that miss, loads, engines, limits."""
    rng = random.Random(seed)  # noqa: S311 (a seed must give the same run)
    limits = Limits(rng.uniform(0.5, 5), rng.uniform(16, 40), rng.uniform(1, 40), 300)
    sim = Sim(limits)
    sim.answers = False
    labels = [str(number) for number in range(rng.randint(1, 4))]
    counts = dict.fromkeys(labels, 0.0)
    moved = dict.fromkeys(labels, sim.now)
    for _ in range(2000):
        sim.now += rng.uniform(0.1, limits.interval)
        for label in labels:
            # At least once within the quiet time, counted to the end of the next look.
            if rng.random() < 0.3 or sim.now + 3 * limits.interval > moved[label] + limits.quiet:
                counts[label] += rng.choice((1, 1, 512, -counts[label] - 1))
                moved[label] = sim.now
        state = {
            label: engine(counts[label], rng.choice((0, 0, 5)), rng.choice((0, 9)))
            for label in labels
        }
        missing = rng.random() < 0.1
        found = sim.look("late" if missing else state, computing=rng.random() < 0.2)
        assert found.state != "hung"


@pytest.mark.parametrize("seed", range(20))
def test_a_hang_at_any_moment_is_found_in_time(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311 (a seed must give the same run)
    sim = Sim()
    moving = Moving(0)
    for _ in range(rng.randint(0, 50)):
        sim.now += 5
        sim.look(moving() if rng.random() < 0.5 else {"0": engine(moving.count)})
    sim.answers = False
    state = {"0": engine(moving.count)}
    sim.now += rng.uniform(0, 5)
    assert sim.until_hung(lambda: state, 600) <= 60


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"interval": 0.0}, "interval must be more than 0 seconds"),
        ({"quiet": -1.0}, "quiet must be more than 0"),
        ({"deadline": math.nan}, "deadline must be more than 0"),
        ({"busy": math.inf}, "busy must be more than 0"),
        ({"busy": 49.0}, r"busy \(49 s\) must be at least quiet \+ deadline \+ interval \(50 s\)"),
    ],
)
def test_limits_that_contradict_each_other(values: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Limits(**values)


# The observer, on a real server


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        fake.metrics = metrics_of(lambda: 5)
        yield fake


def metrics_of(
    count: Callable[[], int], running: int = 0, engines: int = 1
) -> Callable[[], Answer]:
    def metrics() -> Answer:
        lines = ["# HELP vllm:generation_tokens_total Number of generation tokens processed."]
        for number in range(engines):
            labels = f'{{engine="{number}",model_name="{MODEL}"}}'
            lines.append(f"vllm:generation_tokens_total{labels} {float(count())}")
            lines.append(f"vllm:num_requests_running{labels} {float(running)}")
        return Answer(200, ["\n".join(lines).encode()], "text/plain")

    return metrics


def ticking() -> Callable[[], int]:
    numbers = iter(range(1_000_000))
    return lambda: next(numbers)


def target(server: FakeServer, model: str | None = None, key: str | None = None) -> Target:
    return Target(server.url, model, key, 5.0)


def hang(_: Json) -> Answer:
    threading.Event().wait(30)
    raise Hangup


def watch_until(
    observer: Observer, done: Callable[[Finding], bool], seconds: float = 15.0
) -> Finding:
    deadline = time.monotonic() + seconds
    while not done(found := observer.look()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)
    return found


def test_an_observer_asks_only_where_the_counters_stand_still(server: FakeServer) -> None:
    server.metrics = metrics_of(ticking())
    observer = Observer(target(server), QUICK)
    for _ in range(10):
        assert observer.look().state == "moving"
        time.sleep(0.1)
    assert server.requests == []
    server.metrics = metrics_of(lambda: 5)
    found = watch_until(observer, lambda found: "answered one token" in found.detail)
    assert found.state == "moving"
    assert server.requests[0]["max_tokens"] == 1


def test_an_observer_finds_a_hang(server: FakeServer) -> None:
    server.chat = hang
    began = time.monotonic()
    found = watch_until(Observer(target(server), QUICK), lambda found: found.state == "hung")
    assert time.monotonic() - began >= QUICK.quiet + QUICK.deadline
    assert "no answer to POST /v1/chat/completions" in found.detail


def test_an_observer_tells_a_busy_server_by_its_counters(server: FakeServer) -> None:
    server.chat = hang
    server.metrics = metrics_of(ticking(), running=5)
    observer = Observer(target(server), QUICK)
    for _ in range(12):
        found = observer.look()
        assert found.state == "moving"
        assert "5 running" in found.detail
        time.sleep(0.3)


def test_an_observer_gives_slow_metrics_their_time(server: FakeServer) -> None:
    """A full server may take longer than a look; what it tells then counts all the same."""
    quick = metrics_of(ticking(), running=5)

    def slow() -> Answer:
        time.sleep(0.4)
        return quick()

    server.metrics = slow
    server.chat = hang
    limits = Limits(interval=0.1, quiet=1.0, deadline=1.0, busy=2.2)
    observer = Observer(target(server), limits)
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        began = time.monotonic()
        assert observer.look().state != "hung"
        assert time.monotonic() - began < 1.0
        time.sleep(0.1)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_a_server_that_refuses_is_not_hung(server: FakeServer, status: int) -> None:
    server.chat = lambda _: answer(status, {"error": "no"})
    observer = Observer(target(server), QUICK)
    found = watch_until(observer, lambda _: observer.refused)
    assert found.state == "moving"
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        assert observer.look().state != "hung"
        time.sleep(0.1)


def test_a_model_that_is_not_served_is_no_hang(server: FakeServer) -> None:
    observer = Observer(target(server, "another"), QUICK)
    found = watch_until(observer, lambda _: observer.refused)
    assert found.state == "moving"
    assert "model another is not served" in found.detail
    assert server.requests == []


def test_a_key_that_was_changed_is_no_hang_and_is_never_told(server: FakeServer) -> None:
    server.key = "another-key"
    observer = Observer(target(server, key=KEY), QUICK)
    found = watch_until(observer, lambda _: observer.refused)
    assert "HTTP 401" in found.detail
    assert KEY not in found.detail
    assert server.authorizations[0] == f"Bearer {KEY}"


def test_a_failing_engine_is_asked_again(server: FakeServer) -> None:
    server.chat = lambda _: answer(500, {"error": "EngineDeadError"})
    observer = Observer(target(server), QUICK)
    found = watch_until(observer, lambda found: found.state == "hung")
    assert "HTTP 500" in found.detail
    assert len(server.requests) > 1


def test_each_engine_of_a_real_server_is_asked_for_itself(server: FakeServer) -> None:
    ranks: list[str | None] = []
    original = server.handle

    def handle(handler: object, request: Json | None) -> None:
        if request is not None:
            ranks.append(handler.headers.get("X-data-parallel-rank"))  # type: ignore[attr-defined]
        original(handler, request)  # type: ignore[arg-type]

    server.handle = handle  # type: ignore[method-assign]
    server.metrics = metrics_of(lambda: 5, engines=2)
    observer = Observer(target(server), QUICK)
    watch_until(observer, lambda _: len(ranks) >= 2)
    assert set(ranks) == {"0", "1"}


def test_metrics_that_are_no_text_are_missing_and_no_more(server: FakeServer) -> None:
    server.metrics = lambda: Answer(200, [b"\xff\x00" * 1000], "application/octet-stream")
    observer = Observer(target(server), QUICK)
    found = watch_until(observer, lambda found: "answered one token" in found.detail)
    assert found.state == "moving"


# One verdict


def test_progress_by_counters_alone(server: FakeServer) -> None:
    server.metrics = metrics_of(ticking(), running=2)
    result = healthchecks.progress(target(server), QUICK)
    assert (result.probe, result.ok, result.verdict) == ("progress", True, "ok")
    assert result.detail.endswith("2 running, 0 waiting")
    assert server.requests == []


def test_progress_by_a_token(server: FakeServer) -> None:
    result = healthchecks.progress(target(server), QUICK)
    assert (result.ok, result.verdict) == (True, "ok")
    assert "answered one token (HTTP 200, 1 token" in result.detail
    assert len(server.requests) == 1


def test_progress_of_a_server_that_compiles_its_first_request(server: FakeServer) -> None:
    def late(request: Json) -> Answer:
        time.sleep(0.3)
        return good_chat(request)

    server.chat = late
    assert healthchecks.progress(target(server), QUICK).ok


def test_no_progress(server: FakeServer) -> None:
    server.chat = hang
    began = time.monotonic()
    result = healthchecks.progress(target(server), QUICK)
    assert (result.ok, result.verdict) == (False, "timeout")
    assert result.detail.startswith("no progress for ")
    assert time.monotonic() - began < 10


def test_a_busy_server_is_waited_for_until_its_counters_move(server: FakeServer) -> None:
    began = time.monotonic()
    server.chat = hang
    server.metrics = metrics_of(lambda: int(time.monotonic() - began > 1.2), running=7)
    result = healthchecks.progress(target(server), QUICK)
    assert result.ok, result.detail
    assert "1 tokens generated; 7 running" in result.detail


def test_progress_of_nobody() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        result = healthchecks.progress(Target(f"http://127.0.0.1:{bound.getsockname()[1]}"), QUICK)
    assert (result.ok, result.verdict) == (False, "error")
    assert "cannot connect" in result.detail


def test_a_refusal_passes_and_says_so(server: FakeServer) -> None:
    server.key = "another-key"
    result = healthchecks.progress(target(server), QUICK)
    assert (result.ok, result.verdict) == (True, "refused")


# The watcher's note


def note(folder: Path, **changes: object) -> Path:
    file = folder / "note.json"
    file.write_text(json.dumps({"at": time.time(), "ok": True, "detail": "as noted"} | changes))
    return file


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "note.json"
    written = Note(12.5, ok=False, detail="模型 stands still")
    written.write(file)
    assert Note.read(file) == written
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("ok", [True, False])
def test_a_fresh_note_is_the_answer(server: FakeServer, tmp_path: Path, ok: bool) -> None:
    result = healthchecks.progress(target(server), QUICK, note(tmp_path, ok=ok))
    assert (result.ok, result.detail) == (ok, "as noted")
    assert server.paths == []


@pytest.mark.parametrize("age", [-3600.0, 3600.0, 1e300, math.nan, math.inf])
def test_a_note_of_another_time_is_none(server: FakeServer, tmp_path: Path, age: float) -> None:
    result = healthchecks.progress(target(server), QUICK, note(tmp_path, at=time.time() - age))
    assert "answered one token" in result.detail


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "7", '{"at": "now"}', '{"at": 1}', "\0", '{"at": []}']
)
def test_a_note_that_is_none(server: FakeServer, tmp_path: Path, text: str) -> None:
    file = tmp_path / "note.json"
    file.write_text(text)
    assert Note.read(file) is None
    assert healthchecks.progress(target(server), QUICK, file).ok
    assert healthchecks.progress(target(server), QUICK, tmp_path).ok
    assert server.requests


# The command line

QUICK_WORDS = ("--interval", 0.2, "--quiet", 0.3, "--deadline", 0.5, "--busy", 2)


def test_the_command_for_a_server_in_order(server: FakeServer) -> None:
    done = cli("progress", "--url", server.url, *QUICK_WORDS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok")
    assert "answered one token" in done.stdout


def test_the_command_for_a_server_that_hangs(server: FakeServer) -> None:
    server.chat = hang
    done = cli("progress", "--url", server.url, "--json", *QUICK_WORDS)
    assert done.returncode == 1
    (found,) = json.loads(done.stdout)
    assert (found["probe"], found["ok"], found["verdict"]) == ("progress", False, "timeout")


@pytest.mark.parametrize(("age", "code"), [(0.0, 1), (3600.0, 0)])
def test_the_command_with_a_note(server: FakeServer, tmp_path: Path, age: float, code: int) -> None:
    file = note(tmp_path, ok=False, at=time.time() - age)
    done = cli("progress", "--url", server.url, "--watched", file, "--json")
    assert done.returncode == code
    (found,) = json.loads(done.stdout)
    assert (found["detail"] == "as noted") is (code == 1)


def test_the_command_with_a_note_that_is_none(server: FakeServer, tmp_path: Path) -> None:
    file = tmp_path / "note.json"
    file.write_text("garbage")
    assert cli("progress", "--url", server.url, "--watched", file).returncode == 0
    assert cli("progress", "--url", server.url, "--watched", tmp_path / "none").returncode == 0


def test_the_command_keeps_the_key_to_itself(server: FakeServer, tmp_path: Path) -> None:
    server.key = "another-key"
    file = tmp_path / "key"
    file.write_text(KEY)
    done = cli("progress", "--url", server.url, "--api-key-file", file, "--json", *QUICK_WORDS)
    assert done.returncode == 0
    assert json.loads(done.stdout)[0]["verdict"] == "refused"
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("--busy", "1"), ("--interval", "0"), ("--quiet", "nan"), ("--deadline", "soon"),
        ("--deadline", "-1"), ("--url", "nowhere"), ("--nonsense",), ("--timeout", "5"),
    ],
)  # fmt: skip
def test_wrong_usage_of_the_command(words: tuple[str, ...]) -> None:
    done = cli("progress", *words)
    assert done.returncode == 2
    assert "usage:" in done.stderr


def test_the_completion_of_a_model_that_only_reasons_is_an_answer(server: FakeServer) -> None:
    server.chat = lambda _: answer(200, completion(1, {"content": None, "reasoning": "W"}))
    assert healthchecks.progress(target(server), QUICK).ok
