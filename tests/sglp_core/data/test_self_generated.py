"""Text that a model writes comes from its own distribution, with every kind of cache and in batches of any size."""

from typing import Any

import pytest
import torch
import transformers
from transformers import PreTrainedTokenizerFast

from sglp_core.data import self_generated
from sglp_core.data.self_generated import self_generated_windows
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.options import Calibration
from sglp_core.structure.layer_stack import find_stack
from tests.round_trip.models import CASES, GROUPED, HYBRIDS
from tests.sglp_core.data.test_token_windows import BEGUN, BOTH
from tests.sglp_core.small_models import build

CAUSAL = [name for name in (*CASES, *HYBRIDS) if "Causal" in name or "LMHead" in name]
# The first two have states instead of keys and values, the last two return no cache.
OTHERS = {
    "MambaForCausalLM": GROUPED,
    "JambaForCausalLM": GROUPED,
    "RecurrentGemmaForCausalLM": GROUPED,
    "OpenAIGPTLMHeadModel": {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4},
}


def write(model: Any, count: int, length: int, batch_size: int = 8, tokenizer: PreTrainedTokenizerFast = BEGUN) -> Any:
    task: Any = "masked_lm" if isinstance(model, transformers.BertForMaskedLM) else "causal_lm"
    calibration = Calibration(sequence_length=length, batch_size=batch_size)
    return self_generated_windows(LayeredModel(model, find_stack(model), task), tokenizer, calibration, count).input_ids


@pytest.mark.parametrize("name", [*CAUSAL, *OTHERS])
def test_text_is_the_same_with_and_without_the_cache_of_a_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    stock = getattr(transformers, name)
    model = stock(stock.config_class(**(CASES | HYBRIDS | OTHERS)[name])).eval()
    expected, forward = write(model, 5, 24), model.forward
    # Returns no cache, so every token is computed again at every step.
    monkeypatch.setattr(model, "forward", lambda **inputs: forward(**{**inputs, "use_cache": False}))
    assert torch.equal(write(model, 5, 24), expected)


def test_tokens_are_as_frequent_as_the_model_says() -> None:
    model = build()
    model.lm_head.weight.data.mul_(10)
    ids = write(model, 4000, 4)
    with torch.no_grad():
        logits = model(input_ids=ids[:, :-1]).logits[:, 1:]
    logits[..., : len(BEGUN.all_special_ids)] = -torch.inf
    logits[..., len(BEGUN) :] = -torch.inf
    probabilities = logits.softmax(-1).flatten(0, 1)
    # Far from uniform, else this test could not tell.
    assert probabilities.max(-1).values.mean() > 3 / len(BEGUN)
    counted = torch.bincount(ids[:, 2:].flatten(), minlength=probabilities.shape[1])
    deviation = (probabilities * (1 - probabilities)).sum(0).sqrt()
    assert ((counted - probabilities.sum(0)).abs() <= 4 * deviation).all()


def test_the_settings_for_chats_that_come_with_a_model_do_not_change_its_text() -> None:
    model = build()
    expected = write(model, 5, 12)
    model.generation_config.update(do_sample=True, temperature=0.1, top_p=0.1, repetition_penalty=3.0)
    assert torch.equal(write(model, 5, 12), expected)


def test_text_does_not_depend_on_how_many_windows_are_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    causal, masked = build(), build("BertForMaskedLM")
    together = write(causal, 5, 12), write(masked, 5, 12, 8, BOTH)
    monkeypatch.setattr(self_generated, "CACHE_SHARE", 0.0)
    assert torch.equal(write(causal, 5, 12), together[0])
    assert torch.equal(write(masked, 5, 12, 1, BOTH), together[1])


def test_as_many_windows_are_written_at_once_as_have_room_for_their_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build()
    rows = []
    model.register_forward_pre_hook(lambda _, _args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True)
    config = model.config
    cache = 2 * 12 * config.num_hidden_layers * config.hidden_size * 4
    room = 3.5 * (cache + self_generated.SAMPLING_BYTES * len(BEGUN))
    monkeypatch.setattr(self_generated, "free_bytes", lambda _: int(room / self_generated.CACHE_SHARE))
    write(model, 5, 12)
    assert set(rows) == {1, 2, 3}
