"""Model folders that lie or reach out: each case turns a copy of a sound one into one and names the code it ends in."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]


def _configured(**values: Any) -> Change:
    return lambda model: _merge(model / "config.json", values)


def _merge(file: Path, values: dict[str, Any]) -> None:
    before = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({**before, **values}))


def _written(name: str, text: str) -> Change:
    def change(model: Path) -> None:
        (model / name).write_text(text)

    return change


def _raw(**values: str) -> Change:
    """Members of config.json as text that `json.dumps` would not write."""

    def change(model: Path) -> None:
        file = model / "config.json"
        members = ", ".join(f'"{name}": {value}' for name, value in values.items())
        kept = {name: value for name, value in json.loads(file.read_text()).items() if name not in values}
        file.write_text(json.dumps(kept)[:-1] + f", {members}}}")

    return change


def _code_in(name: str, **values: Any) -> Change:
    code = {"auto_map": {"AutoModel": "code.Model", "AutoTokenizer": "code.T"}}
    return lambda model: _merge(model / name, {**code, **values})


def _code_deep_in(model: Path) -> None:
    _merge(model / "config.json", {"more": [{"deep": {"auto_map": {"AutoConfig": "code.C"}}}]})


def _index(*shards: object, more: dict[str, str] | None = None, **members: Any) -> Change:
    """An index that puts the tensors into these shards, the first of them the real one."""

    def change(model: Path) -> None:
        weights = model / "model.safetensors"
        names = list(load_file(weights))
        weights.rename(model / "real.safetensors")
        places = {name: shards[number % len(shards)] for number, name in enumerate(names)}
        index = {"metadata": {}, "weight_map": {**places, **(more or {})}, **members}
        (model / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def _weights(change_tensors: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def change(model: Path) -> None:
        tensors = load_file(model / "model.safetensors")
        change_tensors(tensors)
        save_file(tensors, model / "model.safetensors", {"format": "pt"})

    return change


def _set(name: str, value: float) -> Change:
    def put(tensors: dict[str, torch.Tensor]) -> None:
        tensors[name].view(-1)[-1] = value

    return _weights(put)


def _link(name: str, to: str) -> Change:
    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        (model / name).symlink_to(to)

    return change


def _linked_folder(model: Path) -> None:
    outside = model.parent.parent / "outside"
    outside.mkdir()
    (outside / "secret.jinja").write_text("a secret")
    (model / "additional_chat_templates").symlink_to(outside)


def _pipe(name: str) -> Change:
    def change(model: Path) -> None:
        (model / name).unlink(missing_ok=True)
        os.mkfifo(model / name)

    return change


UNSAFE, FORBIDDEN, UNKNOWN, ABSENT = "unsafe_format", "source_forbidden", "unsupported_architecture", "model_not_found"
ATTENTION = "model.layers.2.self_attn.q_proj.weight"

FOLDERS: dict[str, tuple[Change, str, str]] = {
    # Code of the model's own, wherever transformers looks for it.
    "auto_map in config.json of a type of its own": (_code_in("config.json", model_type="own"), UNSAFE, "auto_map"),
    "auto_map in config.json of its own class": (_code_in("config.json", architectures=["Own"]), UNSAFE, "auto_map"),
    "auto_map deep in config.json": (_code_deep_in, UNSAFE, "auto_map"),
    "auto_map in tokenizer_config.json": (_code_in("tokenizer_config.json"), UNSAFE, "auto_map"),
    "auto_map in generation_config.json": (_code_in("generation_config.json"), UNSAFE, "auto_map"),
    "auto_map in processor_config.json": (_code_in("processor_config.json"), UNSAFE, "auto_map"),
    "auto_map in preprocessor_config.json": (_code_in("preprocessor_config.json"), UNSAFE, "auto_map"),
    "auto_map in video_preprocessor_config.json": (_code_in("video_preprocessor_config.json"), UNSAFE, "auto_map"),
    "auto_map in a configuration of another name": (_code_in("feature_config.json"), UNSAFE, "auto_map"),
    "attention by a kernel of a hub": (_configured(attn_implementation="org/kernel"), UNSAFE, "org/kernel"),
    "attention by a kernel for one part": (
        _configured(attn_implementation={"": "sdpa", "text_config": "org/kernel@main:run"}), UNSAFE, "org/kernel",
    ),
    "attention by a kernel in a part": (_configured(text_config={"attn_implementation": "org/k"}), UNSAFE, "org/k"),
    # JSON.
    "config.json is a list": (_written("config.json", "[]"), UNSAFE, "not a JSON object"),
    "config.json is no JSON": (_written("config.json", "{'a': 1}"), UNSAFE, "not valid JSON"),
    "config.json nested 100,000 deep": (_raw(x="[" * 100_000 + "]" * 100_000), UNSAFE, "config.json"),
    "config.json nested 500 deep": (_raw(x="[" * 500 + "]" * 500), UNSAFE, "nested"),
    "config.json with a number of 5,000 digits": (_raw(vocab_size="9" * 5000), UNSAFE, "config.json"),
    "config.json with 1e400 layers": (_raw(num_hidden_layers="1e400"), UNKNOWN, "num_hidden_layers"),
    "config.json with NaN": (_raw(rms_norm_eps="NaN"), UNSAFE, "NaN"),
    "config.json names a member twice": (_raw(x="1, \"x\": 2"), UNSAFE, "twice"),
    "config.json is larger than 64 MB": (_raw(x='"' + "x" * 64_000_001 + '"'), UNSAFE, "larger"),
    "tokenizer.json is no JSON": (_written("tokenizer.json", "{"), UNSAFE, "tokenizer.json"),
    "tokenizer.json is a list": (_written("tokenizer.json", "[]"), ABSENT, "tokenizer"),
    "tokenizer.json is empty": (_written("tokenizer.json", "{}"), ABSENT, "tokenizer"),
    "no tokenizer": (lambda model: [file.unlink() for file in model.glob("tokenizer*")] and None, ABSENT, "tokenizer"),
    "tokenizer.json nested 100,000 deep": (
        _written("tokenizer.json", '{"model": ' + "[" * 100_000 + "]" * 100_000 + "}"), UNSAFE, "tokenizer.json",
    ),
    "generation_config.json is no JSON": (_written("generation_config.json", "{"), UNSAFE, "generation_config.json"),
    # Configurations of models that nobody has the weights of.
    "a million layers": (_configured(num_hidden_layers=10**6), UNSAFE, "layers"),
    "10**12 layers": (_configured(num_hidden_layers=10**12), UNSAFE, "layers"),
    "10**30 layers": (_configured(num_hidden_layers=10**30), UNSAFE, "layers"),
    "no layers": (_configured(num_hidden_layers=0), UNKNOWN, ""),
    "minus six layers": (_configured(num_hidden_layers=-6), UNKNOWN, ""),
    "true layers": (_configured(num_hidden_layers=True), UNKNOWN, ""),
    "layers in words": (_configured(num_hidden_layers="six"), UNKNOWN, ""),
    "a vocabulary of 10**12": (_configured(vocab_size=10**12), UNSAFE, "parameters"),
    "a hidden size of 2**31": (_configured(hidden_size=2**31), UNSAFE, "parameters"),
    "a hidden size of 10**30": (_configured(hidden_size=10**30), UNKNOWN, ""),
    "an intermediate size of 10**9": (_configured(intermediate_size=10**9), UNSAFE, "parameters"),
    "half the hidden size": (_configured(hidden_size=16), UNSAFE, "shape"),
    "no heads": (_configured(num_attention_heads=0), UNKNOWN, ""),
    "minus one as the hidden size": (_configured(hidden_size=-1), UNKNOWN, ""),
    "one layer more than there are weights for": (_configured(num_hidden_layers=7), UNSAFE, "model.layers.6"),
    "a model type that is a path": (_configured(model_type="../../x"), UNKNOWN, ""),
    "an architecture that is no class": (_configured(architectures=["os"]), UNKNOWN, ""),
    "architectures that are numbers": (_configured(architectures=[1]), UNKNOWN, ""),
    "architectures in a text": (_configured(architectures="LlamaForCausalLM"), UNKNOWN, ""),
    "a dtype that is none": (_configured(dtype="os"), UNKNOWN, "config.json"),
    "a quantization that needs another library": (
        _configured(quantization_config={"quant_method": "gptq", "bits": 4}), UNKNOWN, "quant",
    ),
    # Shards.
    "a shard of the folder above": (_index("real.safetensors", "../x.safetensors"), UNSAFE, "outside"),
    "a shard by an absolute path": (_index("real.safetensors", "/etc/passwd"), UNSAFE, "outside"),
    "a shard in a folder below": (_index("real.safetensors", "a/x.safetensors"), UNSAFE, "outside"),
    "a shard named by two dots": (_index("real.safetensors", ".."), UNSAFE, "outside"),
    "a shard with NUL in its name": (_index("real.safetensors", "x\0.safetensors"), UNSAFE, "outside"),
    "a shard that is a number": (_index("real.safetensors", 1), UNSAFE, "outside"),
    "a shard that is a list": (_index("real.safetensors", []), UNSAFE, "outside"),
    "a shard that is not there": (_index("real.safetensors", "x.safetensors"), ABSENT, "not there"),
    "a shard that is no safetensors file": (_index("real.safetensors", "config.json"), UNSAFE, "config.json"),
    "an index whose map is a list": (_index("real.safetensors", weight_map=[1]), UNSAFE, "no shards"),
    "an index of tensors that are not there": (
        _index("real.safetensors", more={"model.more": "real.safetensors"}), UNSAFE, "model.more",
    ),
    # Weights.
    "a weight that is NaN": (_set(ATTENTION, float("nan")), UNSAFE, ATTENTION),
    "a weight that is infinite": (_set(ATTENTION, float("inf")), UNSAFE, ATTENTION),
    "a weight that is minus infinite": (_set("model.norm.weight", float("-inf")), UNSAFE, "model.norm.weight"),
    "a tensor that is missing": (_weights(lambda tensors: tensors.pop(ATTENTION)), UNSAFE, ATTENTION),
    "a tensor of another shape": (
        _weights(lambda tensors: tensors.update({ATTENTION: torch.zeros(2, 2)})), UNSAFE, "shape",
    ),
    "no tensors at all": (_weights(dict.clear), UNSAFE, ""),
    # Links, and what is no file.
    "a tokenizer that is a link to a file elsewhere": (_link("tokenizer.json", "/etc/passwd"), FORBIDDEN, "roots"),
    "a tokenizer that is a link to an endless device": (_link("tokenizer.json", "/dev/zero"), FORBIDDEN, "roots"),
    "a licence that is a link upwards": (_link("LICENSE", "../../../../../../etc/passwd"), FORBIDDEN, "roots"),
    "a link to nowhere": (_link("LICENSE", "nowhere"), ABSENT, "LICENSE"),
    "a link to itself": (_link("LICENSE", "LICENSE"), ABSENT, "LICENSE"),
    "a folder of chat templates that is a link": (_linked_folder, FORBIDDEN, "roots"),
    "a tokenizer that is a pipe": (_pipe("tokenizer.json"), UNSAFE, "tokenizer.json"),
    "a generation config that is a pipe": (_pipe("generation_config.json"), UNSAFE, "generation_config.json"),
    # Names that would be headers, keys and paths later.
    "a file name with a line break": (_written("tokenizer\r\nSet-Cookie: a=b", "x"), UNSAFE, "name"),
    "a file name that is not UTF-8": (_written("tokenizer\udcff", "x"), UNSAFE, "name"),
}  # fmt: skip


# Seen by the values, which an estimate does not read.
OF_VALUES = {"a weight that is NaN", "a weight that is infinite", "a weight that is minus infinite"}
# Seen where the weights are loaded, which for a streamed model is later.
OF_WEIGHTS = OF_VALUES | {
    "a tensor that is missing", "a tensor of another shape", "half the hidden size",
    "one layer more than there are weights for",
}  # fmt: skip


def make(name: str, good: Path, to: Path) -> Path:
    """Write a case and return its folder."""
    shutil.copytree(good, to)
    FOLDERS[name][0](to)
    return to
