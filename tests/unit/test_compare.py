"""Comparisons: each verdict on results with known differences, and no verdict by chance."""

from __future__ import annotations

import json
import math
import random
import time
from typing import TYPE_CHECKING, Any

import pytest

from appliance.catalog import references
from appliance.cli.compare_view import comparison_table
from appliance.compare import arrivals, bench, intervals, metrics
from appliance.compare.intervals import Estimate
from appliance.compare.run import against, compare, find, read, touches
from appliance.errors import ApplianceError
from appliance.results import files
from appliance.results.model import EvalSettings, Flaw, Model, Parallel
from tests import made_results as made
from tests.made_results import Asked, Server

if TYPE_CHECKING:
    from pathlib import Path

    from appliance.compare.model import Comparison, Row
    from appliance.results.model import BenchRun, Result

TRIALS = 200
FULL = Asked(rate=None, concurrency=32)
# Of that many at 95 %, with two sides: what chance alone may give.
MOST_BY_CHANCE = 0.06


def rows(comparison: Comparison) -> dict[str, Row]:
    return {row.metric: row for group in comparison.groups for row in group.rows}


def runs(own: BenchRun, reference: BenchRun, **more: Any) -> dict[str, Row]:
    return rows(compare(made.bench(own, **more), made.bench(reference, name="other")))


def scores(own: Result, reference: Result) -> Row:
    (row,) = rows(compare(own, reference)).values()
    return row


def gsm8k(share: float, num: int = 100, **more: Any) -> Result:
    told = {"subset": "main", **more.pop("score", {})}
    return made.evaluation(made.score("gsm8k", share, num, **told), **more)


# Intervals


def test_wilson_and_newcombe_are_as_published() -> None:
    """The first example of Newcombe (1998), table II: 56 of 70 and 48 of 80, method 10."""
    found = intervals.difference(intervals.share(56 / 70, 70), intervals.share(48 / 80, 80))
    assert found == pytest.approx((0.0524, 0.3339), abs=5e-5)
    # His third: 6 of 7 and 2 of 7.
    found = intervals.difference(intervals.share(6 / 7, 7), intervals.share(2 / 7, 7))
    assert found == pytest.approx((0.0582, 0.8062), abs=5e-5)


@pytest.mark.parametrize(("value", "count"), [(0.0, 1), (1.0, 1), (1.0, 100), (0.0, 270)])
def test_a_share_at_its_end_has_an_interval(value: float, count: int) -> None:
    found = intervals.share(value, count)
    assert 0 <= found.low <= value <= found.high <= 1
    assert found.high > found.low


def test_a_quantile_s_interval_covers_it_as_often_as_it_says() -> None:
    draw = random.Random(4)  # noqa: S311
    for at, truth in ((0.5, 0.0), (0.9, 1.2816)):
        hits = 0
        for _ in range(TRIALS):
            found = intervals.quantile([[draw.gauss(0, 1)] for _ in range(200)], at)
            hits += found.low <= truth <= found.high
        assert hits >= 0.93 * TRIALS


def test_a_mean_s_interval_covers_it_as_often_as_it_says() -> None:
    draw = random.Random(5)  # noqa: S311
    hits = 0
    for _ in range(TRIALS):
        found = intervals.mean([[draw.expovariate(1)] for _ in range(100)])
        hits += found.low <= 1 <= found.high
    assert hits >= 0.92 * TRIALS


def test_the_99th_percentile_of_200_has_no_upper_end() -> None:
    draw = random.Random(6)  # noqa: S311
    few = intervals.quantile([[draw.random()] for _ in range(200)], 0.99)
    many = intervals.quantile([[draw.random()] for _ in range(600)], 0.99)
    assert few.high == math.inf
    assert few.low > 0.9
    assert many.high < 1
    # A low one has no lower end.
    assert intervals.quantile([[draw.random()] for _ in range(200)], 0.01).low == -math.inf


def test_values_that_hang_together_count_as_one() -> None:
    """100 tokens of 50 requests: as sure as of 50 values, if those of a request are equal."""
    draw = random.Random(7)  # noqa: S311
    levels = [draw.gauss(100, 10) for _ in range(50)]
    together = [[level] * 100 for level in levels]
    alone = [[level] for level in levels]
    for function in (
        intervals.mean,
        lambda blocks: intervals.quantile(blocks, 0.5),
    ):
        a, b = function(together), function(alone)
        assert (a.high - a.low) == pytest.approx(b.high - b.low, rel=0.35)


def test_blocks_of_several_lengths() -> None:
    blocks = [[10.0] * (1 + place % 5) for place in range(40)]
    found = intervals.mean(blocks)
    assert found == Estimate(10.0, 10.0, 10.0)
    assert intervals.quantile(blocks, 0.5) == Estimate(10.0, 10.0, 10.0)


def test_an_estimate_of_nothing_can_not_be_scaled() -> None:
    assert Estimate(0.0, 0.0, 1.0).scaled(5.0) == Estimate(5.0, -math.inf, math.inf)


def test_the_same_samples_give_the_same_interval() -> None:
    blocks = [[float(value % 17)] for value in range(60)]
    intervals._bootstrapped.cache_clear()
    first = intervals.mean(blocks)
    intervals._bootstrapped.cache_clear()
    assert intervals.mean(blocks) == first


# Accuracy


@pytest.mark.parametrize(
    ("own", "reference", "verdict"),
    [
        (0.98, 0.98, "same"),
        (0.95, 0.98, "same"),
        (0.88, 0.98, "worse"),
        (0.98, 0.85, "better"),
        (1.0, 0.0, "better"),
        (1.0, 1.0, "same"),
    ],
)
def test_scores_differ_by_more_than_chance(own: float, reference: float, verdict: str) -> None:
    row = scores(gsm8k(own), gsm8k(reference))
    assert row.verdict == verdict
    assert row.unit == "share"
    assert row.difference is not None
    assert row.difference.low is not None
    assert row.difference.high is not None
    assert row.difference.confidence == 0.95
    assert (row.difference.low <= 0 <= row.difference.high) == (verdict == "same")


def test_what_a_hundred_questions_can_not_tell() -> None:
    row = scores(gsm8k(0.9), gsm8k(0.9))
    assert "less than about 9 points" in row.reason
    assert "100 questions" in row.reason


def test_other_numbers_of_questions_are_compared_and_said() -> None:
    row = scores(gsm8k(0.9, 1319), gsm8k(0.9, 100))
    assert row.verdict == "same"
    assert "1319 and 100 questions" in row.reason


def test_the_same_questions_make_the_interval_a_careful_one() -> None:
    same = {"questions_sha256": "a" * 64}
    row = scores(gsm8k(0.9, score=same), gsm8k(0.9, score=same))
    assert "the same questions" in row.reason
    row = scores(gsm8k(0.9, score=same), gsm8k(0.9))
    assert "the same questions" not in row.reason


@pytest.mark.parametrize("truth", [0.44, 0.9, 0.98])
def test_equal_models_differ_by_chance_as_seldom_as_it_says(truth: float) -> None:
    """Not by trials: over all outcomes of 100 questions on both sides."""
    count = 100
    chances = [
        math.comb(count, right) * truth**right * (1 - truth) ** (count - right)
        for right in range(count + 1)
    ]
    shares = [intervals.share(right / count, count) for right in range(count + 1)]
    wrong = 0.0
    for one, a in zip(shares, chances, strict=True):
        for other, b in zip(shares, chances, strict=True):
            low, high = intervals.difference(one, other)
            wrong += 0 if low <= 0 <= high else a * b
    assert wrong <= MOST_BY_CHANCE


def test_equal_models_seldom_differ_and_unequal_ones_mostly_do() -> None:
    draw = random.Random(4)  # noqa: S311

    def answered(truth: float, num: int) -> Result:
        return gsm8k(sum(draw.random() < truth for _ in range(num)) / num, num)

    for truth in (0.44, 0.9, 0.98):
        other = sum(
            scores(answered(truth, 100), answered(truth, 100)).verdict != "same"
            for _ in range(TRIALS)
        )
        assert other <= MOST_BY_CHANCE * TRIALS
    found = [scores(answered(0.7, 200), answered(0.9, 200)).verdict for _ in range(TRIALS)]
    assert found.count("worse") >= 0.97 * TRIALS


@pytest.mark.parametrize(
    ("own", "reference", "why"),
    [
        ({"system": made.system(model=Model(id="x/tiny", weights="real"))}, {}, "model x/tiny"),
        (
            {"system": made.system(model=Model(id=made.MODEL, weights="dummy"))},
            {},
            "This run had dummy weights",
        ),
        (
            {},
            {"system": made.system(model=Model(id=made.MODEL, weights="dummy"))},
            "The reference had dummy weights",
        ),
        ({"score": {"modalities": ["audio", "image"]}}, {}, "audio and image against none"),
        ({"num": 0}, {}, "This run asked no question"),
        ({}, {"num": 0}, "The reference asked no question"),
        ({"share": 1.5}, {}, "no score between 0 and 1"),
        ({"share": math.nan}, {}, "no score between 0 and 1"),
        ({"score": {"metric": "f1"}}, {}, "does not have it"),
        ({"score": {"subset": "other"}}, {}, "does not have it"),
        (
            {"evaluation": EvalSettings(dataset_args={"gsm8k": {"few_shot_num": 0}})},
            {"evaluation": EvalSettings(dataset_args={"gsm8k": {"few_shot_num": 4}})},
            "put differently: few_shot_num 0 against 4",
        ),
    ],
    ids=range(11),
)
def test_scores_that_can_not_be_compared(
    own: dict[str, Any], reference: dict[str, Any], why: str
) -> None:
    a = gsm8k(own.pop("share", 0.9), own.pop("num", 100), **own)
    b = gsm8k(reference.pop("share", 0.9), reference.pop("num", 100), **reference)
    for row in rows(compare(a, b)).values():
        assert row.verdict == "not-comparable"
        assert why in row.reason
        assert row.difference is None


def test_a_model_is_known_by_its_folder_too() -> None:
    folder = Model(id="/models/Qwen3-Omni-30B-A3B-Thinking/", weights="real")
    assert scores(gsm8k(0.9, system=made.system(model=folder)), gsm8k(0.9)).verdict == "same"
    other = Model(id="someone/Qwen3-Omni-30B-A3B-Thinking", weights="real")
    row = scores(gsm8k(0.9, system=made.system(model=other)), gsm8k(0.9))
    assert row.verdict == "not-comparable"


def test_media_that_are_told_decide_and_not_the_arguments() -> None:
    """The same media, asked for in another way, are the same questions."""
    audio = {"omni_bench": {"extra_params": {"use_image": True, "use_audio": True}}}
    image = {"omni_bench": {"extra_params": {"use_image": True, "use_audio": False}}}

    def asked(args: dict[str, Any], media: list[Any] | None) -> Result:
        one = made.score("omni_bench", 0.5, 100, modalities=media)
        return made.evaluation(one, evaluation=EvalSettings(dataset_args=args))

    both = asked(audio, ["image", "audio"]), asked(image, ["image"])
    assert "other media: audio and image against image" in scores(*both).reason
    unknown = scores(asked(audio, None), asked(image, None))
    assert "other media: audio and image against image" in unknown.reason
    # evalscope asks with both, unless told otherwise.
    left = scores(asked({}, None), asked(image, ["image"]))
    assert "other media: audio and image against image" in left.reason
    assert scores(asked({}, ["image"]), asked(image, ["image"])).verdict == "same"
    half = compare(asked(image, None), asked(image, ["image"]))
    assert rows(half)["omni_bench/mean_acc/default"].verdict == "same"
    untold = asked(image, None).model_copy(update={"evaluation": None})
    half = compare(untold, asked(image, ["image"]))
    assert half.groups[0].caveats == ("A side does not tell how the questions were asked.",)


def test_how_the_model_was_run_is_a_caveat() -> None:
    own = made.evaluation(
        made.score("gsm8k", 0.9, 100),
        evaluation=EvalSettings(
            generation={"max_tokens": 2000, "temperature": 0.6},
            dataset_args={"gsm8k": {"few_shot_num": 4, "local_path": "/data"}},
            limit=100,
            evalscope="1.2.0",
        ),
    )
    reference = made.evaluation(made.score("gsm8k", 0.9, 100))
    comparison = compare(own, reference)
    assert rows(comparison)["gsm8k/mean_acc/default"].verdict == "same"
    assert comparison.groups[0].caveats == ("Generation: max_tokens 2000 against 10000.",)
    bare = compare(own.model_copy(update={"evaluation": None}), reference)
    assert bare.groups[0].caveats == ("A side does not tell how the questions were asked.",)


def test_another_choice_of_subsets_makes_another_overall_score() -> None:
    def asked(subsets: list[str] | None) -> Result:
        args = {"bbh": {"subset_list": subsets}} if subsets else {}
        return made.evaluation(
            made.score("bbh", 0.9, 20, subset="OVERALL"),
            made.score("bbh", 0.9, 10, subset="a"),
            evaluation=EvalSettings(dataset_args=args),
        )

    found = rows(compare(asked(["a", "b"]), asked(["a", "c"])))
    assert found["bbh/mean_acc/OVERALL"].verdict == "not-comparable"
    assert found["bbh/mean_acc/a"].verdict == "same"


def test_the_guide_s_scores() -> None:
    comparison = against(made.guide_scores(), "guide")
    found = rows(comparison)
    assert [row.verdict for row in found.values()] == ["same"] * 3
    assert list(found) == [
        "omni_bench/mean_acc/default",
        "gsm8k/mean_acc/main",
        "bbh/mean_acc/OVERALL",
    ]
    assert len(comparison.only_own) == 27
    assert comparison.only_reference == ()
    assert any("use_audio" in text for text in found["omni_bench/mean_acc/default"].flaws)
    assert any("10 of each of 27" in text for text in found["bbh/mean_acc/OVERALL"].flaws)
    worse = rows(against(made.guide_scores(gsm8k=0.80, bbh=0.70), "guide"))
    assert worse["gsm8k/mean_acc/main"].verdict == "worse"
    assert worse["bbh/mean_acc/OVERALL"].verdict == "worse"


def test_what_was_not_evaluated_here_has_a_row() -> None:
    comparison = against(gsm8k(0.97), "guide")
    found = rows(comparison)
    assert found["bbh/mean_acc/OVERALL"].verdict == "not-comparable"
    assert found["bbh/mean_acc/OVERALL"].reason == "This run does not have it."
    assert comparison.only_reference == ("omni_bench (mean_acc)", "bbh OVERALL (mean_acc)")


def test_what_is_left_to_the_default_is_the_default() -> None:
    def asked(args: dict[str, Any]) -> Result:
        return gsm8k(0.9, evaluation=EvalSettings(dataset_args={"gsm8k": args}))

    assert scores(asked({"few_shot_num": 4}), asked({})).verdict == "same"
    for name, value in (("few_shot_num", 0), ("system_prompt", "x"), ("prompt_template", "{q}")):
        row = scores(asked({name: value}), asked({}))
        assert row.verdict == "not-comparable"
        assert f"put differently: {name}" in row.reason
        assert scores(asked({}), asked({name: value})).verdict == "not-comparable"


def test_an_overall_score_of_few_subsets_is_not_that_of_all() -> None:
    def asked(names: list[str], *, listed: bool) -> Result:
        args = {"bbh": {"subset_list": names}} if listed else {}
        shown = [] if listed else [made.score("bbh", 0.9, 10, subset=name) for name in names]
        whole = made.score("bbh", 0.9, 20, subset="OVERALL")
        return made.evaluation(*shown, whole, evaluation=EvalSettings(dataset_args=args))

    few = asked(["navigate", "snarks"], listed=True)
    row = rows(against(few, "guide"))["bbh/mean_acc/OVERALL"]
    assert row.verdict == "not-comparable"
    assert "2 of 27 subsets" in row.reason
    a, b = (asked(names, listed=False) for names in (["navigate", "snarks"], ["navigate", "x"]))
    assert rows(compare(a, b))["bbh/mean_acc/OVERALL"].verdict == "not-comparable"
    assert rows(compare(a, few))["bbh/mean_acc/OVERALL"].verdict == "same"


@pytest.mark.parametrize(
    ("own", "why"),
    [
        ({"num": 9}, "Too few questions to judge: 9"),
        ({"score": {"metric": "mean_wer"}}, "less is better"),
    ],
)
def test_scores_that_can_not_be_judged(own: dict[str, Any], why: str) -> None:
    one = gsm8k(0.9, **own)
    row = scores(one, one)
    assert row.verdict == "not-comparable"
    assert why in row.reason


def test_a_score_that_stands_twice() -> None:
    one = made.score("gsm8k", 0.9, 100)
    row = scores(made.evaluation(one, one), made.evaluation(one))
    assert row.reason == "own has it more than once."


def test_other_questions_of_the_same_number_are_said() -> None:
    a, b = (gsm8k(0.9, score={"questions_sha256": text * 64}) for text in "ab")
    assert "not the same ones" in scores(a, b).reason


# Performance, what was asked


def test_a_run_against_the_guide() -> None:
    found = rows(against(made.bench(made.run()), "guide"))
    verdicts = {name: row.verdict for name, row in found.items()}
    assert verdicts == {
        "success_rate": "same",
        "request_throughput": "not-comparable",
        "output_throughput": "not-comparable",
        "total_token_throughput": "not-comparable",
        "duration": "not-comparable",
        "max_output_tokens_per_s": "not-comparable",
        "max_concurrent_requests": "not-comparable",
        "mean_ttft_ms": "same",
        "median_ttft_ms": "same",
        "p99_ttft_ms": "not-comparable",
        "mean_tpot_ms": "better",
        "median_tpot_ms": "better",
        "p99_tpot_ms": "not-comparable",
        "mean_itl_ms": "better",
        "median_itl_ms": "better",
        "p99_itl_ms": "better",
    }
    assert "Limited by the arrival rate" in found["duration"].reason
    assert "taken to spread as this run does" in found["mean_ttft_ms"].reason
    assert (
        "can't be told from 200 requests: it rests on the 3 slowest" in found["p99_ttft_ms"].reason
    )
    assert "would" not in found["p99_ttft_ms"].reason, "the guide has no more"
    assert any("arrive at 1 a second" in text for text in found["output_throughput"].flaws)
    assert found["mean_ttft_ms"].flaws == ()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dataset": "sharegpt"}, "dataset random against sharegpt"),
        ({"modality": "image"}, "modality text against image"),
        ({"input_len": 1024}, "input length 200 against 1024"),
        ({"output_len": None}, "output length 128 against not told"),
        ({"num_prompts": 1000}, "prompts 200 against 1000"),
        ({"request_rate": 4.0}, "request rate 1 against 4"),
        ({"request_rate": None}, "request rate 1 against all at once"),
        ({"max_concurrency": 8}, "concurrency limit no limit against 8"),
        ({"batch_size": 8}, "batch size not told against 8"),
        ("latency", "mode serve against latency"),
    ],
    ids=range(10),
)
def test_another_question_is_not_comparable(change: Any, why: str) -> None:
    own = made.run()
    if isinstance(change, str):
        other = own.model_copy(update={"mode": change})
    else:
        other = own.model_copy(update={"parameters": own.parameters.model_copy(update=change)})
    found = runs(own, other)
    assert found
    for row in found.values():
        assert row.verdict == "not-comparable"
        assert why in row.reason


@pytest.mark.parametrize(
    ("own", "reference", "alike"),
    [
        ((1000, None), (100, None), False),
        ((16, 64), (640, 64), False),
        ((200, 200), (200, None), True),
        ((200, 500), (200, None), True),
        ((400, 32), (200, 32), True),
    ],
)
def test_as_many_are_in_flight_as_there_are_prompts(
    own: tuple[int, int | None], reference: tuple[int, int | None], alike: bool
) -> None:
    pair = [
        made.run(asked=Asked(count=count, rate=None, concurrency=limit), itl=False)
        for count, limit in (own, reference)
    ]
    row = runs(*pair)["mean_ttft_ms"]
    assert (row.verdict != "not-comparable") == alike
    assert alike or "requests in flight" in row.reason


def test_another_model_is_not_comparable() -> None:
    tiny = made.system(model=Model(id="tiny-omni", weights="real"))
    found = runs(made.run(), made.run(seed=1), system=tiny)
    assert {row.verdict for row in found.values()} == {"not-comparable"}
    assert "model tiny-omni against Qwen" in found["mean_ttft_ms"].reason


def test_a_run_that_failed_as_a_whole() -> None:
    own = made.run().model_copy(update={"metrics": {}, "samples": {}, "error": "no connection"})
    found = runs(own, made.run())
    assert {row.verdict for row in found.values()} == {"not-comparable"}
    assert {row.reason for row in found.values()} == {"This run failed: no connection"}
    assert runs(made.run(), own)["mean_ttft_ms"].reason == "The reference failed: no connection"


def test_the_system_under_test_may_differ() -> None:
    other = made.system(
        release="v0.18.0",
        parallel=Parallel(tensor_parallel_size=4),
        versions={"vllm": "0.18.0", "other": "1"},
        model=Model(id=made.MODEL),
    )
    comparison = compare(made.bench(made.run()), made.bench(made.run(seed=1), system=other))
    assert rows(comparison)["mean_ttft_ms"].verdict == "same"
    assert comparison.caveats == (
        "release: v0.23.0 against v0.18.0.",
        "weights: real against not told.",
        "tensor parallel size: 2 against 4.",
        "expert parallel: on against not told.",
        "vllm: 0.23.0 against 0.18.0.",
    )
    assert comparison.groups[0].caveats == ("seed 0 against 1.",)


def test_a_metric_of_one_side_only() -> None:
    own = made.run()
    other = own.model_copy(update={"metrics": {**own.metrics, "p90_ttft_ms": 300.0}})
    found = runs(own, other)
    assert found["p90_ttft_ms"].reason == "This run does not have it."
    assert runs(other, own)["p90_ttft_ms"].reason == "The reference does not have it."
    nan = own.model_copy(update={"metrics": {**own.metrics, "mean_ttft_ms": math.nan}})
    assert runs(nan, own)["mean_ttft_ms"].own is None


# Performance, failed requests


def test_one_failed_request_hides_nothing() -> None:
    one = made.run(Server(fails=1).slower(3), FULL)
    comparison = compare(made.bench(one), made.bench(made.run(asked=FULL, seed=1)))
    found = rows(comparison)
    assert found["success_rate"].verdict == "same"
    assert found["success_rate"].reason.startswith("Failed: 1 of 200 requests against 0 of 200.")
    assert "deserves a look" in found["success_rate"].reason
    swapped = rows(compare(made.bench(made.run(asked=FULL, seed=1)), made.bench(one)))
    assert swapped["success_rate"].verdict == "same"
    for name in ("output_throughput", "mean_ttft_ms", "median_ttft_ms", "median_tpot_ms"):
        assert found[name].verdict == "worse", name
        assert swapped[name].verdict == "better", name
    assert "1 of 200 requests of this run failed" in comparison.groups[0].caveats[-1]
    bare = runs(made.bare(one), made.bare(made.run(asked=FULL, seed=1)))
    assert "Requests failed, and no samples" in bare["mean_ttft_ms"].reason


def test_what_failed_widens_an_interval() -> None:
    blocks = [[float(value)] for value in range(100)]
    found = intervals.mean(blocks)
    wide = intervals.without(found, blocks, None, 0.05)
    assert wide.low < found.low
    assert wide.high > found.high
    assert intervals.without(found, blocks, None, 0.0) == found
    middle = intervals.quantile(blocks, 0.5)
    shifted = intervals.without(middle, blocks, 0.5, 0.05)
    assert shifted.low < middle.low
    assert shifted.high > middle.high
    ends = [intervals.without(middle, blocks, at, 0.05) for at in (0.99, 0.01)]
    assert ends[0].high == math.inf
    assert ends[1].low == -math.inf


def test_requests_that_nobody_tells_of_failed() -> None:
    run = made.run(asked=FULL)
    few = run.model_copy(update={"metrics": {**run.metrics, "completed": 150.0}})
    found = runs(few, run)
    assert found["success_rate"].verdict == "worse"
    assert found["success_rate"].own == 0.75
    assert "50 of 200 requests of this run failed" in found["median_tpot_ms"].reason


def test_failures_of_the_reference() -> None:
    found = runs(made.run(), made.run(Server(fails=30)))
    assert found["success_rate"].verdict == "better"
    assert "of the reference failed" in found["mean_ttft_ms"].reason
    few = runs(made.run(Server(fails=3)), made.run(Server(fails=2)))
    assert few["success_rate"].verdict == "same"
    untold = made.run()
    metrics_of = {k: v for k, v in untold.metrics.items() if k != "failed"}
    bare = runs(made.run(), untold.model_copy(update={"metrics": metrics_of}))
    assert bare["success_rate"].verdict == "same", "all that were asked were answered"
    asked = untold.parameters.model_copy(update={"num_prompts": None})
    unknown = untold.model_copy(update={"metrics": metrics_of, "parameters": asked})
    assert runs(made.run(), unknown)["success_rate"].verdict == "not-comparable"
    assert bare["mean_ttft_ms"].verdict == "same"


# Performance, throughput


def test_arrivals_limit_what_keeps_up_and_not_what_does_not() -> None:
    keeps = made.run()
    slow = made.run(Server(most=60))  # 128 tokens a second arrive.
    assert arrivals.load(keeps) == "limited"
    assert arrivals.load(slow) == "behind"
    found = runs(slow, keeps)
    for name in ("request_throughput", "output_throughput", "duration"):
        assert found[name].verdict == "worse"
        assert "arrive in about 200 s; this run took 433.2 s" in found[name].reason
    assert runs(keeps, slow)["output_throughput"].verdict == "better"
    both = runs(slow, made.run(Server(most=60), seed=3))
    assert both["output_throughput"].verdict == "same"
    assert against(made.bench(slow), "guide").counts["worse"] >= 4


def test_the_guide_kept_up() -> None:
    guide = references.reference("guide", "bench").runs[0]
    assert arrivals.load(guide) == "limited"


def test_a_rate_so_high_that_it_limits_nothing() -> None:
    fast = Asked(rate=1000.0)
    own = made.run(asked=fast)
    assert arrivals.load(own) == "free"
    found = runs(own, made.run(Server(most=500), asked=fast))
    assert found["output_throughput"].verdict == "better"


def test_a_load_that_can_not_be_told() -> None:
    own = made.bare(made.run())
    bare = own.model_copy(update={"metrics": {"output_throughput": 100.0}})
    assert arrivals.load(bare) == "unknown"
    assert "can't be told" in runs(bare, bare)["output_throughput"].reason
    lengthy = {"duration": 500.0, "completed": 200.0, "failed": 0.0, "output_throughput": 1.0}
    assert arrivals.load(own.model_copy(update={"metrics": lengthy})) == "unknown"
    # Without its duration, a run's length comes from its throughput.
    rate = {"completed": 200.0, "request_throughput": 0.94}
    assert arrivals.duration(own.model_copy(update={"metrics": rate})) == pytest.approx(212.8, 0.01)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.03, "same"), (1.2, "better"), (0.8, "worse")]
)
def test_throughput_at_full_load_differs_by_more_than_noise(factor: float, verdict: str) -> None:
    full = Asked(rate=None, concurrency=64)
    own = made.run(asked=full)
    changed = {
        name: own.metrics[name] * factor
        for name in ("request_throughput", "output_throughput", "total_token_throughput")
    }
    changed["duration"] = own.metrics["duration"] / factor
    faster = own.model_copy(update={"metrics": {**own.metrics, **changed}})
    found = runs(faster, own)
    for name in changed:
        assert found[name].verdict == verdict
        difference = found[name].difference
        assert difference is not None
        assert difference.confidence is None
    assert found["max_output_tokens_per_s"].verdict == "not-comparable"


def test_another_number_of_requests_takes_another_time() -> None:
    full = Asked(rate=None, concurrency=64)
    more = Asked(count=400, rate=None, concurrency=64)
    found = runs(made.run(asked=full), made.run(asked=more))
    assert found["duration"].reason == "Another number of requests."
    assert found["output_throughput"].verdict == "same"


def test_answers_of_another_length_are_other_work() -> None:
    full = Asked(rate=None, concurrency=64)
    own = made.run(asked=full)
    short = own.model_copy(
        update={"metrics": {**own.metrics, "total_output_tokens": 12_800.0}},
    )
    comparison = compare(made.bench(own), made.bench(short))
    found = rows(comparison)
    assert "Another number of tokens" in found["request_throughput"].reason
    assert "Another number of tokens" in found["duration"].reason
    assert found["output_throughput"].verdict == "same"
    assert found["mean_tpot_ms"].verdict == "same"
    assert comparison.groups[0].caveats == ("Generated tokens a request: 128 against 64.",)
    longer = own.model_copy(update={"metrics": {**own.metrics, "total_input_tokens": 80_000.0}})
    found = runs(own, longer)
    assert "The prompts were of another length" in found["mean_ttft_ms"].reason
    assert found["mean_tpot_ms"].verdict == "same"


def took(seconds: float, tpot: float, *, seed: int | None = None) -> BenchRun:
    """A run of the guide's question that tells its figures and no more."""
    asked = references.reference("guide", "bench").runs[0].parameters
    return made.run().model_copy(
        update={
            "parameters": asked.model_copy(update={"seed": seed}),
            "samples": {},
            "metrics": {
                "completed": 200.0,
                "failed": 0.0,
                "duration": seconds,
                "request_throughput": 200 / seconds,
                "output_throughput": 25_600 / seconds,
                "mean_tpot_ms": tpot,
            },
        }
    )


def test_an_overloaded_server_s_own_slowness_is_no_excuse() -> None:
    """Its time per token has grown with its load: that of the other side shows what is usual."""
    found = rows(against(made.bench(took(322, 979)), "guide"))
    assert found["output_throughput"].verdict == "worse"
    assert found["request_throughput"].verdict == "worse"
    both = runs(took(427, 1797), took(322, 979))
    assert both["output_throughput"].verdict == "worse"
    assert runs(took(322, 979), took(427, 1797))["output_throughput"].verdict == "better"
    # Samples tell too: of the fastest.
    slow = made.run().model_copy(update={"metrics": took(322, 979).metrics})
    assert arrivals.load(slow) == "behind"


def test_a_run_may_take_its_last_request_s_time_longer() -> None:
    # 200 s, three deviations of 14 s, and 127 tokens at 100 ms.
    assert arrivals.load(took(254, 100)) == "limited"
    assert arrivals.load(took(256, 100)) == "behind"
    assert arrivals.load(took(256, 200)) == "limited"


def test_arrivals_by_chance_make_a_difference() -> None:
    """A tenth is nothing, unless the arrivals were the same."""
    for seeds, verdict in (((None, None), "not-comparable"), ((1, 2), "not-comparable")):
        mine, theirs = took(235, 100, seed=seeds[0]), took(210, 100, seed=seeds[1])
        assert runs(mine, theirs)["output_throughput"].verdict == verdict
    mine, theirs = took(235, 100, seed=3), took(210, 100, seed=3)
    assert runs(mine, theirs)["output_throughput"].verdict == "worse"
    # The side that was behind adds none of it, and the one that kept up does, either way round.
    behind, kept = took(257, 100), took(235, 100)
    assert runs(behind, kept)["output_throughput"].verdict == "same"
    assert runs(kept, behind)["output_throughput"].verdict == "same"
    assert runs(took(300, 100), took(270, 100))["output_throughput"].verdict == "worse"


def queued(seed: int, slots: int) -> BenchRun:
    """A run on a server that answers so many at a time, each in 12.8 s."""
    draw = random.Random(seed)  # noqa: S311
    run = made.run(Server(tpot=99), seed=seed, itl=False)
    free, now, waits = [0.0] * slots, 0.0, []
    for _ in range(200):
        now += draw.expovariate(1.0)
        start = max(now, min(free))
        free[free.index(min(free))] = start + 12.8
        waits.append((start - now) * 1000 + 200 * draw.lognormvariate(0, 0.1))
    metrics = {**run.metrics, **made.figures("ttft_ms", waits), "duration": max(free)}
    samples = {**run.samples, "ttft_ms": waits}
    return run.model_copy(update={"metrics": metrics, "samples": samples})


def test_requests_that_waited_for_each_other_tell_little(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Equal servers near their limit: two of three would differ, by other arrivals alone."""
    monkeypatch.setattr(intervals, "RESAMPLES", 100)
    wrong = 0
    for trial in range(40):
        slots = (13, 14, 16, 20)[trial % 4]
        found = runs(queued(2 * trial, slots), queued(2 * trial + 1, slots))
        wrong += found["mean_ttft_ms"].verdict in {"better", "worse"}
        wrong += found["median_ttft_ms"].verdict in {"better", "worse"}
    assert wrong <= 2
    row = runs(queued(1, 13), queued(2, 13))["mean_ttft_ms"]
    assert "Requests waited for each other" in row.reason
    # The same arrivals are the same load, and a server far beyond its limit is none by chance.
    assert runs(queued(1, 13), queued(1, 13))["mean_ttft_ms"].verdict == "same"
    row = runs(queued(1, 6), made.run(Server(tpot=99), seed=2))["mean_ttft_ms"]
    assert row.verdict == "worse"


# Performance, latency


def test_equal_servers_seldom_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do they without the noise between runs, but for the 5 % that a 95 % interval leaves."""
    monkeypatch.setattr(intervals, "RESAMPLES", 400)
    names = ("mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms")
    different = {noise: dict.fromkeys(names, 0) for noise in (bench.NOISE, 0.0)}
    for trial in range(TRIALS):
        pair = [made.run(Server(spread=0.4), seed=2 * trial + k, itl=False) for k in (0, 1)]
        for noise, counts in different.items():
            monkeypatch.setattr(bench, "NOISE", noise)
            found = runs(*pair)
            for name in names:
                counts[name] += found[name].verdict in {"better", "worse"}
    noisy, bare = different.values()
    assert all(count <= MOST_BY_CHANCE * TRIALS for count in noisy.values()), noisy
    assert all(0.01 * TRIALS <= count <= 0.08 * TRIALS for count in bare.values()), bare


def test_a_fifth_is_nearly_always_found() -> None:
    names = ("mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms", "median_tpot_ms")
    found = dict.fromkeys(names, 0)
    trials = 60
    for trial in range(trials):
        own = made.run(Server().slower(1.2), seed=500 + trial, itl=False)
        row = runs(own, made.run(seed=900 + trial, itl=False))
        for name in names:
            found[name] += row[name].verdict == "worse"
    assert all(count >= 0.97 * trials for count in found.values()), found


def test_inter_token_latency_is_drawn_by_request() -> None:
    """Tokens of a request are alike: 25,400 of them do not tell 25,400 times as much."""
    draw = random.Random(8)  # noqa: S311
    server = made.run(seed=3)
    per_request = [50 * draw.lognormvariate(0, 0.3) for _ in range(200)]
    samples = {**server.samples, "itl_ms": [one for one in per_request for _ in range(127)]}
    values = {**server.metrics, **made.figures("itl_ms", samples["itl_ms"])}
    alike = server.model_copy(update={"samples": samples, "metrics": values})
    row = runs(alike, alike)["mean_itl_ms"]
    assert row.difference is not None
    assert row.difference.high is not None
    # 50 ms, 0.3 spread, 200 requests, both sides, and the noise between runs.
    expected = math.hypot(1.96 * 50 * 0.32 * math.sqrt(2 / 200), 0.05 * 52)
    assert row.difference.high == pytest.approx(expected, rel=0.2)


def test_a_99th_percentile_needs_enough_requests() -> None:
    asked = Asked(count=1000, rate=None, concurrency=32)
    own = made.run(asked=asked, itl=False)
    same = runs(own, made.run(asked=asked, seed=1, itl=False))["p99_ttft_ms"]
    assert same.verdict == "same"
    slow = made.run(Server().slower(1.5), asked, seed=1, itl=False)
    assert runs(own, slow)["p99_ttft_ms"].verdict == "better"
    # One end is open, and the other is far enough away.
    few = made.run(Server().slower(3), Asked(rate=None, concurrency=32), itl=False)
    row = runs(few, own)["p99_ttft_ms"]
    assert row.verdict == "worse"
    assert row.difference is not None
    assert row.difference.high is None


def test_a_99th_percentile_of_few_is_told_where_it_can_be() -> None:
    own, slow = (made.run(Server().slower(f), FULL, itl=False) for f in (1.0, 3.0))
    row = runs(slow, own)["p99_ttft_ms"]
    assert row.verdict == "worse"
    assert "more requests of this run than chance allows" in row.reason
    assert runs(own, slow)["p99_ttft_ms"].verdict == "better"
    # The guide has no samples: own's lower end is beyond what it may be.
    row = rows(against(made.bench(made.run(Server().slower(3))), "guide"))["p99_ttft_ms"]
    assert row.verdict == "worse"
    assert row.difference is not None
    assert row.difference.low is not None
    assert row.difference.high is None


def test_the_upper_ends_of_equal_samples_seldom_differ() -> None:
    draw = random.Random(9)  # noqa: S311
    wrong = 0
    for _ in range(TRIALS):
        a, b = ([draw.lognormvariate(0, 0.5) for _ in range(200)] for _ in range(2))
        wrong += intervals.heavier(a, b, 0.99, 0.0) or intervals.heavier(b, a, 0.99, 0.0)
    assert wrong <= MOST_BY_CHANCE * TRIALS


def test_a_reference_without_samples_spreads_as_this_run_does() -> None:
    own, other = made.run(), made.run(Server().slower(1.2), seed=1)
    found = runs(own, made.bare(other))
    assert found["mean_ttft_ms"].verdict == "better"
    assert "The reference has no samples" in found["median_ttft_ms"].reason
    found = runs(made.bare(own), other)
    assert found["median_ttft_ms"].verdict == "better"
    assert "This run has no samples" in found["median_ttft_ms"].reason


def test_standard_deviations_stand_in_for_samples_of_a_mean() -> None:
    own, other = made.run(), made.run(Server().slower(1.2), seed=1)
    found = runs(made.bare(own, std=True), made.bare(other, std=True))
    assert found["mean_ttft_ms"].verdict == "better"
    assert found["median_ttft_ms"].verdict == "not-comparable"
    found = runs(made.bare(own), made.bare(other))
    assert found["mean_ttft_ms"].verdict == "not-comparable"
    assert "Neither side has samples" in found["mean_ttft_ms"].reason


def test_without_samples_only_gross_differences_are_told() -> None:
    own = made.bare(made.run())
    found = runs(own, made.bare(made.run(Server().slower(3), seed=1)))
    for name in ("mean_ttft_ms", "median_tpot_ms", "p99_ttft_ms"):
        assert found[name].verdict == "better"
        difference = found[name].difference
        assert difference is not None
        assert difference.confidence is None
    guide = references.reference("guide", "bench")
    found = rows(compare(guide, guide))
    latencies = {row.verdict for name, row in found.items() if name.endswith("_ms")}
    assert latencies == {"same"}
    assert compare(guide, guide).caveats[-1].startswith("Of guide: One run")


def test_too_few_samples_have_no_interval() -> None:
    few = Asked(count=5)
    found = runs(made.run(asked=few), made.run(asked=few, seed=1))
    assert found["mean_ttft_ms"].verdict == "not-comparable"
    assert "Too few requests to judge: 5" in found["mean_ttft_ms"].reason
    assert (
        "Too few requests to judge: 5"
        in runs(
            made.run(asked=Asked(count=5, rate=None)), made.run(asked=Asked(count=5, rate=None))
        )["output_throughput"].reason
    )
    assert found["success_rate"].verdict == "not-comparable"


def test_samples_of_something_else_are_not_used() -> None:
    own = made.run()
    wrong = own.model_copy(update={"metrics": {**own.metrics, "median_ttft_ms": 150.0}})
    row = runs(wrong, wrong)["median_ttft_ms"]
    assert row.verdict == "not-comparable"
    assert "The samples of this run do not give this figure: 150 ms is told" in row.reason
    for value in (0.0, -1.0):
        none = own.model_copy(update={"metrics": dict.fromkeys(own.metrics, value)})
        found = runs(own, none)
        found.pop("success_rate", None)
        assert {row.verdict for row in found.values()} == {"not-comparable"}


def test_latency_of_a_batch() -> None:
    draw = random.Random(2)  # noqa: S311

    def batch(factor: float) -> BenchRun:
        samples = [factor * draw.gauss(2000, 20) for _ in range(30)]
        ordered = sorted(samples)
        return made.run().model_copy(
            update={
                "mode": "latency",
                "metrics": {
                    "avg_latency": math.fsum(samples) / 30_000,
                    "p50_latency": intervals.at_share(ordered, 0.5) / 1000,
                    "p99_latency": intervals.at_share(ordered, 0.99) / 1000,
                },
                "samples": {"latency_ms": samples},
            }
        )

    found = runs(batch(1.0), batch(1.2))
    assert found["avg_latency"].verdict == "better"
    assert found["avg_latency"].unit == "s"
    assert found["p50_latency"].verdict == "better"
    # All of one are slower than nearly all of the other: that much 30 tell.
    assert found["p99_latency"].verdict == "better"
    alike = runs(batch(1.0), batch(1.0))["p99_latency"]
    assert alike.verdict == "not-comparable"
    assert "can't be told from 30 iterations" in alike.reason
    assert "About 390 on each side would" in alike.reason
    assert runs(batch(1.0), batch(1.01))["avg_latency"].verdict == "same"


@pytest.mark.parametrize(
    ("name", "title", "unit"),
    [
        ("mean_ttft_ms", "Mean TTFT", "ms"),
        ("p99_itl_ms", "P99 ITL", "ms"),
        ("p99.9_e2el_ms", "P99.9 request latency", "ms"),
        ("avg_latency", "Mean batch latency", "s"),
        ("output_throughput", "Output throughput", "tokens/s"),
    ],
)
def test_metrics_by_vllm_s_names(name: str, title: str, unit: str) -> None:
    one = metrics.metric(name)
    assert one is not None
    assert (one.title, one.unit) == (title, unit)


@pytest.mark.parametrize("name", ["std_ttft_ms", "p100_ttft_ms", "p0_ttft_ms", "completed", "x"])
def test_what_is_not_judged(name: str) -> None:
    assert metrics.metric(name) is None


# Whole results


def test_runs_of_sweeps_are_matched_by_what_they_asked() -> None:
    own, other = made.sweep(), made.sweep(Server(most=600), seed=5)
    shuffled = other.model_copy(update={"runs": [*reversed(other.runs[1:])]})
    comparison = compare(own, shuffled)
    assert [(group.own, group.reference) for group in comparison.groups] == [
        (f"concurrency {2**k}",) * 2 for k in range(1, 9)
    ]
    assert comparison.only_own == ("concurrency 1",)
    assert comparison.only_reference == ()
    last = {row.metric: row.verdict for row in comparison.groups[-1].rows}
    assert last["output_throughput"] == "better"


def test_runs_are_matched_by_label_where_several_asked_the_same() -> None:
    one, two = made.run(label="one"), made.run(label="two")
    comparison = compare(made.bench(one, two), made.bench(two, one))
    assert [(group.own, group.reference) for group in comparison.groups] == [
        ("one", "one"),
        ("two", "two"),
    ]


def test_runs_of_one_label_that_asked_differently_say_why() -> None:
    wide = made.run(asked=Asked(concurrency=8))
    other = made.run(asked=Asked(concurrency=8), label="other")
    comparison = compare(made.bench(wide, other), made.bench(made.run()))
    assert comparison.groups[0].own == "guide"
    assert {row.verdict for row in comparison.groups[0].rows} == {"not-comparable"}
    assert comparison.only_own == ("other",)


def test_results_with_nothing_in_common() -> None:
    comparison = compare(made.bench(), made.bench())
    assert comparison.groups == ()
    assert comparison.counts == {"better": 0, "same": 0, "worse": 0, "not-comparable": 0}
    sweep = compare(made.sweep(), references.reference("guide", "bench"))
    assert sweep.groups == ()
    assert len(sweep.only_own) == 9
    assert sweep.only_reference == ("guide",)
    assert compare(made.evaluation(), made.evaluation()).groups[0].rows == ()


def test_two_kinds_have_nothing_in_common() -> None:
    with pytest.raises(ApplianceError) as caught:
        compare(made.bench(made.run()), made.guide_scores())
    assert caught.value.id == "result-invalid"
    assert "`bench`" in caught.value.message


def test_a_file_of_the_other_kind_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    files.write(made.guide_scores(), tmp_path / "eval.json")
    with pytest.raises(ApplianceError) as caught:
        find(str(tmp_path / "eval.json"), made.bench())
    assert caught.value.id == "result-invalid"
    assert read(str(tmp_path / "eval.json"), made.bench()).kind == "eval"


def test_a_reference_is_a_name_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = made.bench(made.run())
    files.write(made.bench(made.run(seed=1), name="earlier"), tmp_path / "guide")
    assert find("guide", own).source is not None
    assert find("./guide", own).name == "earlier"
    assert against(own, str(tmp_path / "guide")).reference == "earlier"
    with pytest.raises(ApplianceError) as caught:
        find("giude", own)
    assert caught.value.id == "result-invalid"
    assert "guide" in caught.value.remedy


def test_flaws_are_of_metrics_by_pattern() -> None:
    (row, *_) = compare(made.bench(made.run()), made.bench(made.run())).groups[0].rows
    assert touches(Flaw(metrics=["success*"], text="x"), row)
    assert not touches(Flaw(metrics=["*"], text="x"), row)


def test_a_comparison_is_a_document() -> None:
    comparison = against(made.bench(made.run()), "guide")
    read = json.loads(json.dumps(comparison.as_dict(), allow_nan=False))
    assert read["counts"]["better"] == 5
    assert read["groups"][0]["rows"][7]["metric"] == "mean_ttft_ms"
    difference = read["groups"][0]["rows"][9]["difference"]
    assert difference["low"] < 0
    assert (difference["high"], difference["confidence"]) == (None, None)


def test_a_large_comparison_is_quick() -> None:
    own, other = made.bench(made.run()), made.bench(made.run(seed=1))
    began = time.monotonic()
    compare(own, other)
    assert time.monotonic() - began < 2


# On a terminal


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    comparison_table(against(made.bench(made.run()), "guide"))
    out = capsys.readouterr().out
    assert "own against guide: 5 better, 3 same within noise, 8 not comparable." in out
    assert "▲ better [5]" in out
    assert "[2] Limited by the arrival rate" in out
    assert "release: v0.23.0 against v0.13.0rc1." in out
    assert max(len(line) for line in out.splitlines()) <= 110
    assert "\x1b" not in out


def test_the_table_takes_strange_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = "[bold]x[/bold] :smile: \x1b[31m\u202e"
    own = made.bench(made.run(label=name), made.run(label="b"), name=name)
    comparison_table(compare(own, made.bench(made.run(label=name), made.run(label="b"))))
    out = capsys.readouterr().out
    assert "[bold]x[/bold] :smile: [31m against own" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    comparison_table(against(made.guide_scores(), "guide"))
    assert "and 19 more" in " ".join(capsys.readouterr().out.split())
    comparison_table(compare(made.bench(), made.bench()))
    assert "nothing that both have" in capsys.readouterr().out
