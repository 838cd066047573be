"""Inputs that must be refused. Each function writes one below a folder and returns its path."""

import json
import pickle
import shutil
import struct
from pathlib import Path

import torch
import transformers


class Bomb:
    """Unpickling it creates a file: the canary that says code of a model was run."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path(self._canary),)  # type: ignore[return-value]


def pickle_named_safetensors(good: Path, folder: Path, canary: Path) -> Path:
    model = _copy(good, folder / "pickle-named-safetensors")
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    return model


def torch_archive_named_safetensors(good: Path, folder: Path, canary: Path) -> Path:
    model = _copy(good, folder / "archive-named-safetensors")
    torch.save({"x": Bomb(canary)}, model / "model.safetensors")
    return model


def only_pickle_weights(good: Path, folder: Path, canary: Path) -> Path:
    model = _copy(good, folder / "only-pickle")
    (model / "model.safetensors").unlink()
    torch.save({"x": Bomb(canary)}, model / "pytorch_model.bin")
    return model


def pickle_named_gguf(folder: Path, canary: Path) -> Path:
    file = folder / "pickle.gguf"
    file.write_bytes(pickle.dumps(Bomb(canary)))
    return file


def lying_header(good: Path, folder: Path) -> Path:
    """A header that describes more bytes than the file has."""
    model = _copy(good, folder / "lying-header")
    file = model / "model.safetensors"
    content = file.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    last = max((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"][1])
    header[last]["shape"][0] *= 1000
    header[last]["data_offsets"][1] += 1 << 40
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])
    return model


def endless_header(good: Path, folder: Path) -> Path:
    """A header whose length field has the largest value of 63 bits."""
    model = _copy(good, folder / "endless-header")
    file = model / "model.safetensors"
    file.write_bytes(struct.pack("<Q", 2**63) + file.read_bytes()[8:])
    return model


def truncated_weights(good: Path, folder: Path) -> Path:
    model = _copy(good, folder / "truncated")
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return model


def truncated_gguf(folder: Path) -> Path:
    """The start of a GGUF file that announces tensors it does not have."""
    import gguf

    file = folder / "truncated.gguf"
    writer = gguf.GGUFWriter(folder / "whole.gguf", "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", torch.zeros(64, 64).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file.write_bytes((folder / "whole.gguf").read_bytes()[:-4096])
    return file


def auto_map(good: Path, folder: Path) -> Path:
    """A configuration that wants the model's own code to run."""
    model = _copy(good, folder / "auto-map")
    config = json.loads((model / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "code.Model"}, "architectures": ["Model"]}
    (model / "config.json").write_text(json.dumps(config))
    (model / "code.py").write_text("raise SystemExit('code of the model was run')")
    return model


def adapter_beside(good: Path, folder: Path) -> Path:
    """A good model with an adapter of peft beside it, which transformers would load by default."""
    model = _copy(good, folder / "adapter-beside")
    (model / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/etc", "peft_type": "LORA"}))
    return model


def unknown_type(good: Path, folder: Path) -> Path:
    model = _copy(good, folder / "unknown-type")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "model_type": "from_the_future"}))
    return model


def value_of_another_type(good: Path, folder: Path) -> Path:
    """Its configuration has words where a number belongs."""
    copy = _copy(good, folder / "value-of-another-type")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "hidden_size": "a few"}))
    return copy


def without_a_stack(folder: Path) -> Path:
    """A convolutional network: known to transformers, without one repeated stack."""
    model = folder / "without-a-stack"
    config = transformers.MobileNetV1Config(num_labels=3)
    transformers.MobileNetV1ForImageClassification(config).save_pretrained(model)
    transformers.MobileNetV1ImageProcessor().save_pretrained(model)
    return model


def link_that_leaves(folder: Path, outside: Path) -> Path:
    link = folder / "link-that-leaves"
    link.symlink_to(outside, target_is_directory=True)
    return link


def weights_that_leave(good: Path, folder: Path, outside: Path) -> Path:
    """A model directory whose weights are a link to a file elsewhere."""
    model = _copy(good, folder / "weights-that-leave")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(outside / "model.safetensors")
    return model


def _copy(good: Path, to: Path) -> Path:
    shutil.copytree(good, to)
    return to
