import numpy as np
import pytest
from transformers import LlamaConfig

from sglp_core.analysis.result import Analysis
from sglp_core.analysis.segmentation import Segmentation
from sglp_core.errors import TargetUnreachable
from sglp_core.options import Target
from sglp_core.planning.choose import TRIAL_PASSES, TRIALS_A_LAYER, search_budget
from sglp_core.planning.proposals import propose
from sglp_core.structure.layer_stack import measure_stack
from sglp_core.structure.runs import Segment

CONFIG = LlamaConfig(
    vocab_size=50,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    architectures=["LlamaForCausalLM"],
)


def analysis(segments: tuple[Segment, ...] = (Segment(0, 3), Segment(3, 6))) -> Analysis:
    rng = np.random.default_rng(0)
    runs = np.triu(np.ones((7, 7)), 1) * 10
    # Only together do layers 2 and 3 cost nothing, and they lie in two segments.
    runs[2, 4] = 0
    similarity = np.eye(6)
    # The stream is most alike before and after layers 3 and 4, then 1 and 2, then 2 and 3.
    similarity[2, 4], similarity[0, 2], similarity[1, 3] = 0.9, 0.8, 0.7
    return Analysis(
        stack=measure_stack(CONFIG, 16),
        similarity=similarity,
        segmentation=Segmentation(segments, (1.0,) * 6),
        importance={"rising": np.arange(6.0), "falling": np.arange(6.0)[::-1], "random": rng.random(6)},
        run_importance={"pair": runs},
        estimator="unbiased",
        kernel="linear",
        n_samples=4,
        sample_unit="token position",
    )


def test_every_criterion_proposes_inside_the_segments_and_over_the_stack() -> None:
    found = {
        n: p.removed_layers for names, p in propose(analysis(), Target("layers", 2 / 6), {0, 5}).items() for n in names
    }
    assert found["rising/stack"] == (1, 2)
    assert found["falling/stack"] == (3, 4)
    assert found["pair_of_runs/stack"] == found["pair_of_runs/segments"] == (2, 3)
    # Both segments have a cheapest layer that is free.
    assert found["rising/segments"] == (1, 3)
    assert set(found) == {
        f"{n}/{w}" for n in ("rising", "falling", "random", "pair_of_runs") for w in ("stack", "segments")
    } | {"similarity/single_cut", "pair/single_cut"}


def test_cuts_between_ends_that_are_alike_are_proposed_and_none_with_a_protected_layer() -> None:
    def cuts(count: int, protected: set[int]) -> list[tuple[int, ...]]:
        found = propose(analysis(), Target("layers", count / 6), protected)
        return [plan.removed_layers for names, plan in found.items() if "similarity/single_cut" in names]

    assert sorted(cuts(2, {0, 5})) == [(1, 2), (2, 3), (3, 4)]
    assert sorted(cuts(2, {0, 3, 5})) == [(1, 2)]
    # Of five, the two that are least alike are left out.
    assert len(cuts(1, {0})) == 3


def test_every_measure_of_runs_proposes_its_cheapest_cuts() -> None:
    found = propose(analysis(), Target("layers", 2 / 6), {0})
    cuts = [plan.removed_layers for names, plan in found.items() if "pair/single_cut" in names]
    # Of four, all but layers 2 and 3 cost the same, and the last of those is one too many.
    assert sorted(cuts) == [(1, 2), (2, 3), (3, 4)]


def test_the_stack_still_proposes_where_the_segments_leave_too_little() -> None:
    single = tuple(Segment(i, i + 1) for i in range(6))
    found = propose(analysis(single), Target("layers", 2 / 6), {0, 5})
    assert not any(name.endswith("/segments") for names in found for name in names)
    with pytest.raises(TargetUnreachable, match=r"largest reachable ratio is 0\.6667"):
        propose(analysis(), Target("layers", 5 / 6), {0, 5})


@pytest.mark.parametrize(("layers", "removed", "parts"), [(30, 3, 64), (30, 10, 16), (30, 10, 64), (12, 2, 64)])
def test_with_the_repairs_a_search_costs_at_most_a_tenth_of_greedy(layers: int, removed: int, parts: int) -> None:
    spared = 2.5
    budget = search_budget(layers, removed, parts, spared)
    # Greedy removal runs the model without one layer 30 times, then without two 29 times, and so on.
    greedy = sum((layers - done) * (layers - done - 1) / layers for done in range(removed)) * parts
    assert budget == 0 or TRIAL_PASSES * budget + spared * parts <= greedy / 10
    assert budget <= TRIALS_A_LAYER * layers
    assert (budget > 0) == (layers == 30)
