"""Repairs that were kept are the same to the bit, in whatever type the weights are stored."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sglp_core.execution.layered_model import LayeredModel
from sglp_core.pipeline.kept_repairs import find_or_repair
from sglp_core.repair.repair import Repaired, repair_plans
from sglp_core.result_cache import Cache
from tests.sglp_core.repair.repair_models import batches, build


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_kept_repairs_are_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    model = LayeredModel(build("llama").to(dtype), "model.layers", "causal_lm")
    made = repair_plans(model, batches(2), [(1, 2), (4,)], "auto")
    assert any(each.changes and each.quality for each in made)
    # A scalar, as batch norms have one, and a plan without a repair.
    scalar = {"scalar": torch.tensor(1.5, dtype=dtype)}
    repaired = [*(replace(each, changes={**each.changes, **scalar}) for each in made), Repaired({}, (), 0, 0)]
    assert find_or_repair(Cache(tmp_path), {"run": 1}, lambda: repaired) == repaired
    found = find_or_repair(Cache(tmp_path), {"run": 1}, list)
    assert [replace(each, changes={}) for each in found] == [replace(each, changes={}) for each in repaired]
    for each, kept in zip(repaired, found, strict=True):
        assert each.changes.keys() == kept.changes.keys()
        for name, tensor in each.changes.items():
            assert kept.changes[name].dtype == tensor.dtype
            assert torch.equal(kept.changes[name], tensor)
    assert find_or_repair(Cache(tmp_path), {"run": 2}, list) == []
