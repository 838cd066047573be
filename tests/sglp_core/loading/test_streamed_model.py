"""A model whose weights stay on disk gives the numbers that it gives in memory, and is never whole in memory."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from sglp_core.analysis.criteria import CRITERIA
from sglp_core.analysis.similarity import SimilarityAccumulator
from sglp_core.analysis.tracing import trace
from sglp_core.errors import UnsafeFormat, UnsupportedArchitecture
from sglp_core.evaluation.quality import evaluate
from sglp_core.loading.streamed_model import StreamedModel
from sglp_core.removal.variant import Variant
from sglp_core.structure.layer_stack import find_stack, layers_of
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch, logits_of, task_of
from tests.sglp_core.recorded_progress import Recorder

SMALL = {"vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 5, "num_attention_heads": 4}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0}
CASES: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": GROUPED,
    "Gemma3ForCausalLM": {**GROUPED, "sliding_window": 8},
    "MixtralForCausalLM": {**GROUPED, "num_local_experts": 4},
    "GPT2LMHeadModel": {
        "vocab_size": 99,
        "n_embd": 32,
        "n_layer": 5,
        "n_head": 4,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "OPTForCausalLM": {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "BertForMaskedLM": SMALL,
    "DistilBertForMaskedLM": {"vocab_size": 99, "dim": 32, "hidden_dim": 48, "n_layers": 5, "n_heads": 4},
    "ViTForImageClassification": {**SMALL, "image_size": 16, "patch_size": 8},
}


def save(name: str, directory: Path, dtype: torch.dtype = torch.float32) -> Any:
    """A random model on disk in several shards; returns it as stock loading gives it."""
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**CASES[name])).to(dtype)
    model.config.dtype = dtype
    # Freshly drawn layers hardly do anything; these do.
    for parameter in layers_of(model, find_stack(model)).parameters():
        parameter.data.mul_(3)
    model.save_pretrained(directory, max_shard_size="40KB")
    return stock.from_pretrained(directory, dtype="auto").eval()


def batches_for(model: Any) -> list[Batch]:
    """Three batches, one of another size and one with padding."""
    generator = torch.Generator().manual_seed(1)
    if model.main_input_name == "pixel_values":
        images = torch.randn(16, 3, 16, 16, generator=generator, dtype=torch.float32).to(model.dtype)
        return [Batch({"pixel_values": part}, torch.arange(len(part)) % 2) for part in images.split(6)]
    ids = torch.randint(5, 99, (5, 16), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 11:] = 0
    parts = zip(ids.split(2), mask.split(2), strict=True)
    return [Batch({"input_ids": i, "attention_mask": m}, i.masked_fill(m == 0, -100)) for i, m in parts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CASES)
def test_scores_and_similarity_are_those_of_the_model_in_memory(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model", dtype)
    streamed = StreamedModel(tmp_path / "model", tmp_path)
    found, expected = (SimilarityAccumulator() for _ in range(2))
    task, data = task_of(type(model)), batches_for(model)
    recorder = Recorder()
    left = trace(LayeredModel(streamed, streamed.path, task), data, found, 7, progress=recorder.phase())
    right = trace(LayeredModel(model, find_stack(model), task), data, expected, seed=7)
    assert recorder.done == list(range(len(data) + 1))
    scores = [each for row in CRITERIA.values() for each in (row.scores, row.run_scores) if each is not None]
    assert len(scores) == 7
    for score in scores:
        np.testing.assert_allclose(score(left), score(right), rtol=1e-4, atol=1e-9)
    np.testing.assert_allclose(found.matrix(), expected.matrix(), rtol=1e-4)
    assert found.n_samples == expected.n_samples
    assert all(parameter.is_meta for parameter in streamed.model.parameters())


@pytest.mark.parametrize("name", ["LlamaForCausalLM", "GPT2LMHeadModel", "BertForMaskedLM"])
def test_variants_are_judged_as_in_memory(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path / "model")
    streamed = StreamedModel(tmp_path / "model", tmp_path)
    removed = {"two": (1, 3), "the same two": (3, 1), "ends": (0, 4), "one": (1,), "none": ()}
    variants = {name: Variant(layers) for name, layers in removed.items()}
    task, data = task_of(type(model)), batches_for(model)
    found = evaluate(LayeredModel(streamed, streamed.path, task), data, variants)
    expected = evaluate(LayeredModel(model, find_stack(model), task), data, variants)
    assert found.keys() == expected.keys()
    for variant, quality in expected.items():
        for figure, value in quality.to_dict().items():
            assert found[variant].to_dict()[figure] == pytest.approx(value, rel=1e-5, abs=1e-7)
    assert found["two"] == found["the same two"] != found["ends"]


def test_only_what_is_asked_for_is_in_memory(tmp_path: Path) -> None:
    save("LlamaForCausalLM", tmp_path / "model")
    streamed = StreamedModel(tmp_path / "model", tmp_path)

    def in_memory() -> set[str]:
        return {name for name, parameter in streamed.model.named_parameters() if not parameter.is_meta}

    assert in_memory() == set()
    with streamed.layer(2):
        assert {name.split(".mlp")[0].split(".self_attn")[0] for name in in_memory()} <= {
            "model.layers.2", "model.layers.2.input_layernorm.weight", "model.layers.2.post_attention_layernorm.weight",
        }  # fmt: skip
    with streamed.outside():
        assert in_memory() == {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}
    assert in_memory() == set()


def test_hidden_states_leave_nothing_on_disk(tmp_path: Path) -> None:
    save("LlamaForCausalLM", tmp_path / "model")
    (tmp_path / "scratch").mkdir()
    streamed = StreamedModel(tmp_path / "model", tmp_path / "scratch")
    hidden = torch.randn(2, 3, 4).to(torch.bfloat16)
    kept = streamed.keep(hidden)
    assert torch.equal(kept, hidden)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_model_that_works_between_its_layers_is_refused(tmp_path: Path) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model")
    streamed = StreamedModel(tmp_path / "model", tmp_path)
    last = streamed.layers[3]
    last.register_forward_pre_hook(lambda _m, args: (args[0] * 2, *args[1:]))
    with pytest.raises(UnsupportedArchitecture, match="between the layers 2 and 3"):
        streamed.stack_inputs(batches_for(model))


def test_a_checkpoint_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    model = save("LlamaForCausalLM", tmp_path / "model")
    model.base_model.save_pretrained(tmp_path / "headless")
    config = (tmp_path / "model/config.json").read_text()
    (tmp_path / "headless/config.json").write_text(config)
    with pytest.raises(UnsafeFormat, match=r"hold no lm_head\.weight"):
        StreamedModel(tmp_path / "headless", tmp_path).stack_inputs(batches_for(model))


def test_logits_are_those_of_the_model_in_memory_to_the_bit(tmp_path: Path) -> None:
    model = save("GPT2LMHeadModel", tmp_path / "model", torch.bfloat16)
    streamed = StreamedModel(tmp_path / "model", tmp_path)
    (batch, *_) = batches_for(model)
    with torch.no_grad():
        (stack_input,) = streamed.stack_inputs([batch])
        hidden = stack_input.hidden
        for index, call in enumerate(stack_input.calls):
            with streamed.layer(index) as layer:
                hidden = call.run(layer, hidden)
        with streamed.outside():
            assert torch.equal(streamed.logits(batch, hidden), logits_of(model, batch))
