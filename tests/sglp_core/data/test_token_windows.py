"""Calibration windows: reproducible, cut by the tokenizer's own rules, from every documented source."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from sglp_core.data import token_windows
from sglp_core.data.self_generated import self_generated_windows
from sglp_core.data.token_windows import Windows, batches, special_tokens, text_windows
from sglp_core.errors import BadCalibration
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.options import Calibration
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import IGNORED

WORDS = [f"w{i}" for i in range(40)]
SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "mask_token": "<mask>"}
VOCABULARY = {word: i for i, word in enumerate([*SPECIAL.values(), *WORDS])}
BOS, EOS, PAD, MASK = (VOCABULARY[SPECIAL[f"{name}_token"]] for name in ("bos", "eos", "pad", "mask"))
TEXTS = [" ".join(WORDS[(7 * i + j) % 40] for j in range(30)) for i in range(12)]


def tokenizer_with(template: str) -> Any:
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **SPECIAL)


PLAIN, BEGUN, BOTH = (tokenizer_with(template) for template in ("$A", "<s> $A", "<s> $A </s>"))


@pytest.fixture(scope="module")
def causal() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def masked() -> Any:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2
    )
    return BertForMaskedLM(config).eval()


def write(model: Any, tokenizer: Any, task: Any, seed: int = 0, count: int = 5) -> Windows:
    calibration = Calibration(sequence_length=12, batch_size=2, seed=seed)
    return self_generated_windows(LayeredModel(model, find_stack(model), task), tokenizer, calibration, count)


@pytest.mark.parametrize(("tokenizer", "expected"), [(PLAIN, ([], [])), (BEGUN, ([BOS], [])), (BOTH, ([BOS], [EOS]))])
def test_special_tokens_are_what_the_tokenizer_itself_adds(tokenizer: Any, expected: Any) -> None:
    assert special_tokens(tokenizer) == expected


def test_self_written_text_is_the_same_for_a_seed_and_another_for_another(causal: Any) -> None:
    first = write(causal, BEGUN, "causal_lm")
    assert torch.equal(first.input_ids, write(causal, BEGUN, "causal_lm").input_ids)
    assert not torch.equal(first.input_ids, write(causal, BEGUN, "causal_lm", seed=1).input_ids)


def test_writing_leaves_the_random_state_of_the_caller_alone(causal: Any) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    write(causal, BEGUN, "causal_lm")
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("tokenizer", [PLAIN, BEGUN, BOTH])
def test_self_generated_windows_have_special_tokens_only_at_their_ends(causal: Any, tokenizer: Any) -> None:
    prefix, suffix = special_tokens(tokenizer)
    windows = write(causal, tokenizer, "causal_lm")
    assert windows.input_ids.shape == (5, 12)
    for row in windows.input_ids.tolist():
        body = row[len(prefix) : len(row) - len(suffix)]
        assert row == prefix + body + suffix
        assert min(body) >= len(SPECIAL)


def test_a_masked_model_fills_every_mask(masked: Any) -> None:
    windows = write(masked, BOTH, "masked_lm")
    assert windows.input_ids.shape == (5, 12)
    assert not (windows.input_ids == MASK).any()
    assert windows.input_ids[:, 0].tolist() == [BOS] * 5
    assert torch.equal(windows.input_ids, write(masked, BOTH, "masked_lm").input_ids)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """The same documents in every format."""
    paths = {kind: tmp_path / f"text.{kind}" for kind in ("txt", "jsonl", "parquet")}
    paths["txt"].write_text("\n\n".join(TEXTS))
    paths["jsonl"].write_text("\n".join(json.dumps({"id": 1, "text": text}) for text in TEXTS))
    pq.write_table(pa.table({"id": list(range(len(TEXTS))), "text": TEXTS}), paths["parquet"])
    return paths


def test_the_format_of_a_text_does_not_matter(files: dict[str, Path]) -> None:
    found = [text_windows(path, BEGUN, 6, 16, seed=0) for path in files.values()]
    assert found[0].digest == found[1].digest == found[2].digest
    assert found[0].input_ids.shape == (6, 16)


def test_text_windows_begin_as_the_tokenizer_begins_and_hold_the_text(files: dict[str, Path]) -> None:
    windows = text_windows(files["txt"], BEGUN, 1000, 16, seed=0)
    assert set(windows.input_ids[:, 0].tolist()) == {BOS}
    stream = [token for text in TEXTS for token in [*(VOCABULARY[word] for word in text.split()), EOS]]
    cut = {tuple(stream[i : i + 15]) for i in range(0, len(stream), 15)}
    assert {
        tuple(row[1:][m[1:] == 1].tolist()) for row, m in zip(windows.input_ids, windows.attention_mask, strict=True)
    } <= cut


def test_the_order_of_windows_comes_from_the_seed(files: dict[str, Path]) -> None:
    digests = {text_windows(files["txt"], BEGUN, 6, 16, seed).digest for seed in (0, 0, 1)}
    assert len(digests) == 2


def test_padding_is_masked_and_never_a_label(tmp_path: Path) -> None:
    file = tmp_path / "short.txt"
    file.write_text(" ".join(WORDS[:10]))
    windows = text_windows(file, BEGUN, 4, 64, seed=0)
    assert windows.attention_mask.sum().item() == 12  # one BOS, ten words, one separator
    (batch,) = batches(windows, "causal_lm", BEGUN, 8, seed=0)
    assert (batch.labels != IGNORED).sum().item() == 12
    assert (windows.input_ids[windows.attention_mask == 0] == PAD).all()


def test_a_masked_models_labels_are_the_masked_tokens_and_no_special_ones(files: dict[str, Path]) -> None:
    windows = text_windows(files["txt"], BOTH, 8, 32, seed=0)
    for batch, ids in zip(batches(windows, "masked_lm", BOTH, 4, 0), windows.input_ids.split(4), strict=True):
        chosen = batch.labels != IGNORED
        assert torch.equal(batch.inputs["input_ids"] == MASK, chosen)
        assert torch.equal(batch.labels[chosen], ids[chosen])
        assert not torch.isin(batch.labels[chosen], torch.tensor([BOS, EOS, PAD])).any()
        assert chosen.any(1).all()


@pytest.mark.parametrize(
    ("name", "content", "word"),
    [
        ("empty.txt", b"", "no text"),
        ("blank.txt", b" \n\n \n", "no text"),
        ("few.txt", b"w1 w2", "tokens"),
        ("latin.txt", b"\xff\xfe\x00", "cannot be read"),
        ("broken.jsonl", b'{"text": ', "cannot be read"),
        ("numbers.jsonl", b'{"x": 1}\n', "text field"),
        ("broken.parquet", b"PAR1", "cannot be read"),
        ("text.csv", b"a,b", ".parquet"),
    ],
)
def test_an_unusable_file_is_refused(tmp_path: Path, name: str, content: bytes, word: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadCalibration, match=word):
        text_windows(tmp_path / name, BEGUN, 4, 16, seed=0)


def test_a_window_with_no_room_for_text_is_refused(causal: Any) -> None:
    with pytest.raises(BadCalibration, match="room"):
        self_generated_windows(
            LayeredModel(causal, "model.layers", "causal_lm"), BOTH, Calibration(sequence_length=3), 1
        )


def test_a_long_document_is_tokenized_in_parts_that_give_the_same_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(" ".join(TEXTS) for _ in range(3)))
    whole = text_windows(tmp_path / "text.txt", PLAIN, 50, 16, seed=0)
    longest = []

    def spy(text: str, **arguments: Any) -> Any:
        longest.append(len(text))
        return PLAIN(text, **arguments)

    spy.eos_token_id, spy.pad_token_id = EOS, PAD  # type: ignore[attr-defined]
    monkeypatch.setattr(token_windows, "CHARACTERS_AT_ONCE", 100)
    parts = text_windows(tmp_path / "text.txt", spy, 50, 16, seed=0)
    assert torch.equal(parts.input_ids, whole.input_ids)
    assert max(longest) < 110
