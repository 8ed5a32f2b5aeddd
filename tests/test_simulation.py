"""The simulation of an engine against what queueing theory knows, and against sums done by hand."""

from __future__ import annotations

import random

import pytest

from heedful.benchmarks.simulation import Demand, EngineCosts, ModelCall, poisson, simulate

ONE = Demand((ModelCall(0, 1),))


def one(_: random.Random) -> Demand:
    return ONE


@pytest.mark.parametrize("busy", [0.3, 0.6, 0.8])
def test_one_at_a_time_waits_as_pollaczek_and_khinchine_say(busy: float) -> None:
    costs = EngineCosts([(1, 1.0)], 0.0, most_answers=1)
    served = simulate(costs, poisson(busy, 60_000, one))
    waited = sum(s.latency - 1 for s in served) / len(served)
    assert waited == pytest.approx(busy / (2 * (1 - busy)), rel=0.08)


def test_two_engines_share_what_one_would_queue() -> None:
    costs = EngineCosts([(1, 1.0)], 0.0, most_answers=1)
    together = [(0.0, ONE), (0.0, ONE)]
    assert max(s.ended for s in simulate(costs, together)) == pytest.approx(2)
    assert max(s.ended for s in simulate(costs, together, engines=2)) == pytest.approx(1)


def test_a_step_takes_what_the_curve_says() -> None:
    costs = EngineCosts([(1, 0.01), (3, 0.02)], 0.001)
    assert costs.step(1, 0) == costs.step(0, 0) == 0.01
    assert costs.step(2, 0) == pytest.approx(0.015)
    assert costs.step(5, 10) == pytest.approx(0.03 + 0.01)


def test_calls_come_one_after_the_other() -> None:
    """A prompt of 10 tokens, then 4 tokens: the step that reads writes the first of them."""
    costs = EngineCosts([(1, 0.01)], 0.001)
    call = ModelCall(10, 4)
    (alone,) = simulate(costs, [(0.0, Demand((call,)))])
    assert alone.latency == pytest.approx(0.01 + 4 * 0.01)
    (twice,) = simulate(costs, [(1.0, Demand((call, call), before=0.5))])
    assert twice.latency == pytest.approx(0.5 + 2 * alone.latency)


def test_answers_of_one_prompt_are_written_together_and_read_once() -> None:
    costs = EngineCosts([(1, 0.01), (4, 0.01)], 0.001)
    (four,) = simulate(costs, [(0.0, Demand((ModelCall(10, 4, answers=4),)))])
    assert four.latency == pytest.approx((10 + 3) * 0.001 + 4 * 0.01)


def test_a_long_prompt_is_read_in_pieces_while_others_write() -> None:
    costs = EngineCosts([(1, 0.01)], 0.0, most_tokens=10)
    reads, writes = Demand((ModelCall(95, 1),)), Demand((ModelCall(1, 20),))
    served = simulate(costs, [(0.0, writes), (0.0, reads)])
    # Nine tokens of the prompt beside one that is written, in each of eleven steps.
    assert [round(s.latency / 0.01) for s in served] == [11, 20]


def test_what_is_offered_beyond_saturation_is_not_served_faster() -> None:
    costs = EngineCosts([(1, 0.01), (8, 0.02)], 0.0, most_answers=8)
    work = Demand((ModelCall(1, 10),))
    served = simulate(costs, poisson(1000, 5000, lambda _: work))
    assert len(served) / max(s.ended for s in served) == pytest.approx(8 / (10 * 0.02), rel=0.02)
