"""What a model is, is seen before a weight is read, by jobs and estimates alike: the answer says what to do."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from gguf import GGUFReader, GGUFWriter
from safetensors.torch import load_file, save_file

from sglp_core import Calibration, Evaluation, Method, Target, compress, estimate
from sglp_core.errors import SGLPError
from sglp_core.estimation.model_outline import read_outline
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from tests.hostile.gguf_files import SOUND
from tests.worker.tiny_model import write_text, write_tiny_model

TOKENS = 16
MATRIX = "model.layers.2.mlp.up_proj"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 123456\n"
Change = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]


def configured(**values: Any) -> Change:
    def change(model: Path) -> None:
        file = model / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def stored(change_tensors: Callable[[Tensors], object]) -> Change:
    def change(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change_tensors(tensors)
        save_file(tensors, model / "model.safetensors", {"format": "pt"})

    return change


def written(name: str, text: str) -> Change:
    def change(model: Path) -> None:
        (model / name).write_text(text)

    return change


def without_tokenizer(model: Path) -> None:
    for file in model.glob("tokenizer*"):
        file.unlink()


def quantised(**values: Any) -> Change:
    return configured(quantization_config=values)


def as_gptq(tensors: Tensors) -> None:
    del tensors[f"{MATRIX}.weight"]
    tensors[f"{MATRIX}.qweight"] = torch.zeros(4, 64, dtype=torch.int32)
    tensors[f"{MATRIX}.qzeros"] = torch.zeros(1, 8, dtype=torch.int32)
    tensors[f"{MATRIX}.scales"] = torch.zeros(1, 64)


def as_mlx(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = torch.zeros(64, 4, dtype=torch.uint32)
    tensors[f"{MATRIX}.scales"] = tensors[f"{MATRIX}.biases"] = torch.zeros(64, 1)
    tensors[f"{MATRIX}.biases"] = torch.zeros(64, 1)


def as_nf4(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = torch.zeros(1024, 1, dtype=torch.uint8)
    tensors[f"{MATRIX}.weight.absmax"] = torch.zeros(32)


def as_blocks_of_fp8(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = tensors[f"{MATRIX}.weight"].to(torch.float8_e4m3fn)
    tensors[f"{MATRIX}.weight_scale_inv"] = torch.ones(1, 1)


def as_plain_fp8(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = tensors[f"{MATRIX}.weight"].to(torch.float8_e4m3fn)


def as_integers(tensors: Tensors) -> None:
    tensors[f"{MATRIX}.weight"] = torch.zeros(64, 32, dtype=torch.int8)


UNSUPPORTED, ABSENT = "unsupported_architecture", "model_not_found"
REFUSED: dict[str, tuple[Change, str, str]] = {
    # A scheme that the configuration states.
    "GPTQ": (quantised(quant_method="gptq", bits=4), UNSUPPORTED, r"quantised \(gptq, 4 bits\)"),
    "bitsandbytes": (
        quantised(quant_method="bitsandbytes", load_in_4bit=True), UNSUPPORTED, r"\(bitsandbytes, 4 bits\)",
    ),
    "FP8": (quantised(quant_method="fp8", weight_block_size=[128, 128]), UNSUPPORTED, r"\(fp8\)"),
    "MLX": (configured(quantization={"group_size": 64, "bits": 4}), UNSUPPORTED, r"\(MLX, 4 bits\)"),
    "compressed-tensors, as it was once stated": (
        configured(compression_config={"quant_method": "compressed-tensors"}), UNSUPPORTED, r"\(compressed-tensors\)",
    ),
    "a scheme of the language model alone": (
        configured(text_config={"quantization_config": {"quant_method": "awq", "w_bit": 4}}),
        UNSUPPORTED, r"\(awq, 4 bits\)",
    ),
    # One that only the tensors show.
    "tensors of GPTQ": (stored(as_gptq), UNSUPPORTED, "GPTQ or AWQ"),
    "tensors of MLX": (stored(as_mlx), UNSUPPORTED, "MLX|U32"),
    "tensors of bitsandbytes": (stored(as_nf4), UNSUPPORTED, "bitsandbytes|U8"),
    "blocks of FP8": (stored(as_blocks_of_fp8), UNSUPPORTED, "F8_E4M3|FP8"),
    "FP8 without scales": (stored(as_plain_fp8), UNSUPPORTED, "F8_E4M3"),
    "weights that are integers": (stored(as_integers), UNSUPPORTED, "I8"),
    # Files that are not there.
    "weights that are a pointer": (written("model.safetensors", POINTER), ABSENT, "model.safetensors .*git lfs pull"),
    # As an estimate sees it in a bucket, where only the length of a header is read.
    "the start of a pointer": (
        written("model.safetensors", "version ".ljust(len(POINTER), "\0")), ABSENT, "model.safetensors .*git lfs pull",
    ),
    "a tokenizer that is a pointer": (written("tokenizer.json", POINTER), ABSENT, "tokenizer.json .*git lfs pull"),
    "no tokenizer": (without_tokenizer, ABSENT, "copy its files from the base"),
    # A class that is not named.
    "several classes of one type": (
        lambda model: transformers.BertConfig().save_pretrained(model), UNSUPPORTED, "`architectures`",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "model"))


def options(**more: Any) -> Options:
    return Options(calibration=Calibration(**{"sequence_length": TOKENS, **more}), evaluation=Evaluation(samples=4))


def refusals(model: Path, tmp_path: Path) -> list[SGLPError]:
    """What an estimate and a job say, none of which reads a weight."""
    refused = []
    with pytest.raises(SGLPError) as caught:
        read_outline(str(model), None, TOKENS, tmp_path / "cache", None)
    refused.append(caught.value)
    with pytest.raises(SGLPError) as caught:
        load_model(str(model), options(), RunContext(cache=tmp_path / "cache"))
    return [*refused, caught.value]


@pytest.mark.parametrize("name", REFUSED)
def test_it_is_refused_by_its_name(name: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change, code, message = REFUSED[name]
    change(model)
    monkeypatch.setattr("sglp_core.loading.loaded_model._load_weights", None)
    first, second = refusals(model, tmp_path)
    assert (first.code, str(first)) == (second.code, str(second))
    assert first.code == code
    with pytest.raises(SGLPError, match=message):
        raise first


def test_masks_and_counters_that_are_integers_do_not_make_a_model_quantised(model: Path, tmp_path: Path) -> None:
    def with_buffers(tensors: Tensors) -> None:
        tensors["model.layers.0.self_attn.mask"] = torch.ones(4, 4, dtype=torch.uint8)
        tensors["model.position_ids"] = torch.arange(4)

    stored(with_buffers)(model)
    loaded = load_model(str(model), options(), RunContext(cache=tmp_path / "cache"))
    assert loaded.tensors.ignored == ("model.layers.0.self_attn.mask", "model.position_ids")


def pointer(folder: Path) -> Path:
    file = folder / "model.gguf"
    file.write_text(POINTER)
    return file


def named_part(folder: Path) -> Path:
    file = folder / "model-00002-of-00003.gguf"
    file.write_bytes(SOUND)
    return file


def renamed_part(folder: Path) -> Path:
    """A part whose tensors are fewer than its layers, under another name."""
    file = folder / "model.gguf"
    writer = GGUFWriter(file, "llama")
    writer.add_block_count(80)
    writer.add_uint16("split.no", 0)
    writer.add_uint16("split.count", 3)
    writer.add_tensor("token_embd.weight", torch.zeros(64, 64).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert GGUFReader(file).get_field("split.count") is not None
    return file


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pointer, "git lfs pull"),
        (named_part, r"one of the 3 parts .*--merge model-00001-of-00003\.gguf"),
        (renamed_part, "one of the 3 parts"),
    ],
)
def test_a_gguf_file_that_is_not_the_whole_model_is_refused_by_its_name(
    make: Callable[[Path], Path], message: str, tmp_path: Path
) -> None:
    for refused in refusals(make(tmp_path), tmp_path):
        assert refused.code == ABSENT
        with pytest.raises(SGLPError, match=message):
            raise refused


def with_code(model: Path) -> None:
    configured(auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})(model)
    (model / "code.py").write_text("raise SystemExit('code of the model was run')")


NOTED: dict[str, tuple[Change, str]] = {
    "custom_code_ignored": (with_code, "transformers' LlamaForCausalLM is used"),
    "architecture_derived": (configured(architectures=None), "LlamaForCausalLM is the only language model"),
    "attention_chosen": (configured(attn_implementation="flash_attention_2"), "flash_attention_2"),
}


@pytest.mark.parametrize("code", NOTED)
def test_what_can_be_decided_is_decided_and_said(code: str, model: Path, tmp_path: Path) -> None:
    change, words = NOTED[code]
    change(model)
    (note,) = read_outline(str(model), None, TOKENS, tmp_path / "cache", None).notes
    assert note.code == code
    assert words in note.message


def test_a_job_carries_no_decision_into_the_smaller_model_and_reports_each(model: Path, tmp_path: Path) -> None:
    for change, _ in NOTED.values():
        change(model)
    (model / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n\nTrained by *somebody* on `text`.\n")
    text = write_text(tmp_path / "text.txt")
    report = compress(
        str(model),
        Target("layers", 0.25),
        tmp_path / "out",
        Options(
            method=Method(repair="none"),
            calibration=Calibration(str(text), samples=8, sequence_length=TOKENS, batch_size=4),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        RunContext(cache=tmp_path / "cache"),
    )
    notes = report.model.notes
    assert [note.code for note in notes] == list(NOTED)
    assert estimate(str(model), tmp_path / "estimate").model.notes == notes
    for page in ("out/report.md", "out/model/README.md", "estimate/report.md"):
        assert all(note.message in (tmp_path / page).read_text() for note in notes)
    ours, _, theirs = (tmp_path / "out/model/README.md").read_text().partition("# The model card of the original\n")
    assert (report.model.licence, "Licence: apache-2.0." in ours) == ("apache-2.0", True)
    assert theirs.endswith("\n\n# A model\n\nTrained by *somebody* on `text`.\n")
    config = json.loads((tmp_path / "out/model/config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert not {"auto_map", "attn_implementation"} & config.keys()
    assert report.files.left_behind == ("code.py",)
    assert {"tokenizer.json", "tokenizer_config.json"} <= set(report.files.carried)
    assert not (tmp_path / "out/model/code.py").exists()


def test_an_ordinary_model_has_nothing_to_note(model: Path) -> None:
    assert read_outline(str(model), None, TOKENS, model, None).notes == ()


def test_parameters_that_are_not_tied_any_more_count_in_an_estimate_as_in_a_job(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "model")
    configured(tie_word_embeddings=True)(model)
    outline = read_outline(str(model), None, TOKENS, tmp_path / "cache", None)
    loaded = load_model(str(model), options(), RunContext(cache=tmp_path / "cache"))
    assert outline.stack.total_parameters == loaded.stack.total_parameters
    assert loaded.stack.total_parameters == sum(
        each.numel() for each in load_file(model / "model.safetensors").values()
    )
