"""What belongs to a model's tokenizer, processor and licence travels with it; the rest is named."""

from pathlib import Path

import transformers

from sglp_core.artifact.files import copy_processor_files
from sglp_core.checkpoints.carried_files import ModelFiles, model_files
from sglp_core.loading.source import Source
from tests.worker.tiny_model import write_tokenizer

CARRIED = {
    # Tokenizers of all kinds.
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "tokenizer.model.v3", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "bpe.codes", "dict.txt", "tekken.json", "spm.model",
    "spiece.model", "sentencepiece.bpe.model", "source.spm", "qwen.tiktoken",
    # Templates.
    "chat_template.jinja", "chat_template.json", "additional_chat_templates/tool_use.jinja",
    # Processors.
    "preprocessor_config.json", "processor_config.json", "image_processor_config.json",
    "video_preprocessor_config.json",
    # Licences and what stands beside them.
    "LICENSE", "LICENSE.txt", "LICENCE.md", "LICENSE-2.0.txt", "MODEL_LICENSE", "license.pdf", "NOTICE", "COPYING",
    "USE_POLICY.md",
}  # fmt: skip
REWRITTEN = {
    "config.json", "generation_config.json", "README.md", "model.safetensors.index.json",
    "model-00001-of-00002.safetensors",
}  # fmt: skip
LEFT_BEHIND = {
    # Code, also under names that begin like a tokenizer's.
    "tokenizer.py", "tokenization_own.py", "modeling_own.py", "custom_generate/generate.py",
    "custom_generate/README.md",
    "tokenizer.pkl", "pytorch_model.bin", "consolidated.safetensors", "training_args.bin", "trainer_state.json",
    "policy.safetensors", "onnx/tokenizer.json", "onnx/model.onnx", "figure.png", "additional_chat_templates/notes.txt",
}  # fmt: skip


def write(folder: Path, names: set[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}")


def test_every_file_is_carried_or_rewritten_or_named_as_left_behind(tmp_path: Path) -> None:
    write(tmp_path / "dense", CARRIED | REWRITTEN | LEFT_BEHIND)
    kinds = (tuple(sorted(names)) for names in (CARRIED, REWRITTEN, LEFT_BEHIND))
    assert model_files(tmp_path / "dense") == ModelFiles(*kinds)
    (tmp_path / "smaller").mkdir()
    copy_processor_files(Source(tmp_path / "dense", "safetensors", "", None), tmp_path / "smaller")
    copied = [file for file in (tmp_path / "smaller").rglob("*") if file.is_file()]
    assert {file.relative_to(tmp_path / "smaller").as_posix() for file in copied} == CARRIED
    assert all((tmp_path / "smaller" / name).read_text() == f"content of {name}" for name in CARRIED)


def test_a_tokenizer_keeps_all_its_chat_templates(tmp_path: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(write_tokenizer(tmp_path / "dense"))
    tokenizer.chat_template = {"default": "{{ messages }}", "tool_use": "{{ tools }}", "rag": "{{ documents }}"}
    tokenizer.save_pretrained(tmp_path / "dense")
    assert (tmp_path / "dense/additional_chat_templates/rag.jinja").is_file()
    (tmp_path / "smaller").mkdir()
    copy_processor_files(Source(tmp_path / "dense", "safetensors", "", None), tmp_path / "smaller")
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "smaller")
    assert again.chat_template == tokenizer.chat_template
