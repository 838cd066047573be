"""A model gives the same numbers wherever its weights lie, and is never whole in memory where they lie on disk."""

from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
import torch

from sglp_core.analysis.criteria import CRITERIA
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.errors import OutOfMemory, UnsafeFormat
from sglp_core.evaluation.quality import evaluate, evaluate_samples
from sglp_core.execution.intermediates import Intermediates
from sglp_core.execution.layerwise import Layerwise
from sglp_core.execution.variant import Variant
from sglp_core.tasks import logits_of
from tests.sglp_core.execution.placements import CASES, batches_for, from_disk, from_memory, resident, save
from tests.sglp_core.recorded_progress import Recorder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scores_and_similarity_do_not_depend_on_the_placement(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model", dtype)
    data, expected = batches_for(model), SimilarityAccumulator()
    right = trace(resident(model), data, expected, seed=7)
    on_disk = from_disk(tmp_path / "model")
    for layered in (from_memory(model), on_disk):
        found, recorder = SimilarityAccumulator(), Recorder()
        left = trace(layered, data, found, 7, progress=recorder.phase())
        assert recorder.done == list(range(2 * len(layered.layers) + len(data) + 1))
        scores = [each for row in CRITERIA.values() for each in (row.scores, row.run_scores) if each is not None]
        assert len(scores) == 7
        for score in scores:
            np.testing.assert_allclose(score(left), score(right), rtol=1e-4, atol=1e-9)
        np.testing.assert_allclose(found.matrix(), expected.matrix(), rtol=1e-4)
        assert found.n_samples == expected.n_samples
    assert all(parameter.is_meta for parameter in on_disk.model.parameters())


@pytest.mark.parametrize("name", CASES)
def test_variants_are_judged_the_same_in_every_placement(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model")
    removed = {"two": (1, 3), "the same two": (3, 1), "ends": (0, 4), "one": (1,), "none": ()}
    variants = {name: Variant(layers) for name, layers in removed.items()}
    data = batches_for(model)
    expected = evaluate(resident(model), data, variants)
    assert expected["two"] == expected["the same two"] != expected["ends"]
    assert evaluate(from_memory(model), data, variants) == expected
    # From disk, sums are over fewer positions at a time.
    for each, quality in evaluate(from_disk(tmp_path / "model"), data, variants).items():
        assert astuple(quality) == pytest.approx(astuple(expected[each]), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_sums_of_each_sample_are_the_same_where_it_comes_in_parts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, variants = save(name, tmp_path / "model"), {"pruned": Variant((1, 3))}
    data, on_disk = batches_for(model), from_disk(tmp_path / "model")
    expected = evaluate_samples(resident(model), data, variants)
    monkeypatch.setattr(Layerwise, "positions_at_once", lambda *_: 4)
    for each, sums in evaluate_samples(on_disk, data, variants).items():
        torch.testing.assert_close(sums, expected[each], rtol=1e-5, atol=1e-5)


def test_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    save("LlamaForCausalLM", tmp_path / "model")
    on_disk = from_disk(tmp_path / "model")
    assert on_disk.layerwise is not None

    def in_memory() -> set[str]:
        return {name for name, parameter in on_disk.model.named_parameters() if not parameter.is_meta}

    assert in_memory() == set()
    with on_disk.layerwise.layer(2):
        assert {name.split(".mlp")[0].split(".self_attn")[0] for name in in_memory()} <= {
            "model.layers.2", "model.layers.2.input_layernorm.weight", "model.layers.2.post_attention_layernorm.weight",
        }  # fmt: skip
    with on_disk.layerwise.outside():
        assert in_memory() == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert in_memory() == set()


def test_hidden_states_in_files_leave_nothing_on_disk(tmp_path: Path) -> None:
    hidden = torch.randn(2, 3, 4).to(torch.bfloat16)
    intermediates = Intermediates(torch.device("cpu"), tmp_path, in_files=True)
    kept = intermediates.keep(hidden)
    assert torch.equal(kept, hidden)
    assert kept.data_ptr() != hidden.data_ptr()
    assert list(tmp_path.iterdir()) == []


def test_memory_for_hidden_states_is_given_back(tmp_path: Path) -> None:
    intermediates = Intermediates(torch.device("cpu"), tmp_path)
    room = intermediates.room
    kept = [intermediates.keep(torch.ones(1000)) for _ in range(3)]
    assert intermediates.room == room - 3 * 4000
    kept.clear()
    assert intermediates.room == room


def test_of_a_slice_only_the_slice_is_kept(tmp_path: Path) -> None:
    intermediates = Intermediates(torch.device("cpu"), tmp_path)
    whole = torch.arange(1000.0)
    kept = intermediates.keep(whole[:10])
    assert torch.equal(kept, whole[:10])
    assert kept.untyped_storage().nbytes() == 40


def test_a_model_that_works_between_its_layers_is_run_whole_or_refused(tmp_path: Path) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model")
    on_disk = from_disk(tmp_path / "model")
    for layered in (on_disk, resident(model)):
        layered.layers[3].register_forward_pre_hook(lambda _m, args: (args[0] * 2, *args[1:]))
    assert resident(model).layerwise is None
    with pytest.raises(OutOfMemory, match="between the layers 2 and 3"):
        on_disk.layerwise  # noqa: B018


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model")
    model.base_model.save_pretrained(tmp_path / "headless")
    config = (tmp_path / "model/config.json").read_text()
    (tmp_path / "headless/config.json").write_text(config)
    with pytest.raises(UnsafeFormat, match=r"hold no lm_head\.weight"):
        evaluate(from_disk(tmp_path / "headless"), batches_for(model), {})


@pytest.mark.parametrize("name", CASES)
def test_the_whole_model_gives_its_logits_in_every_placement(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model", torch.bfloat16)
    (batch, *_) = batches_for(model)
    with torch.no_grad():
        expected = logits_of(resident(model).model, batch)
        for layered in (from_memory(model), from_disk(tmp_path / "model")):
            with layered.whole() as whole:
                assert torch.equal(logits_of(whole, batch), expected)
            assert layered.weights.bytes_onloaded >= layered.weights.total_bytes > 0
