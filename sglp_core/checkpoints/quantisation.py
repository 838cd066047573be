"""Recognise quantised weights by the configuration and by the names and types of the stored tensors."""

from collections.abc import Mapping
from typing import Any

from sglp_core.errors import UnsupportedArchitecture

FLOATS = {"F16", "BF16", "F32", "F64"}
# What some schemes store beside a matrix or instead of it, by the end of the tensor's name.
MARKS = {
    "qweight": "GPTQ or AWQ",
    "SCB": "bitsandbytes, 8 bits",
    "absmax": "bitsandbytes, 4 bits",
    "weight_scale_inv": "FP8 with a scale for each block",
    "weight_packed": "compressed-tensors",
    "W_q": "HQQ",
}


def refuse_quantised(config: Mapping[str, Any], tensor_types: Mapping[str, str]) -> None:
    """Raise `UnsupportedArchitecture` for a model with quantised weights, naming the scheme.

    `config` is the content of config.json, `tensor_types` the safetensors type of each stored tensor.
    """
    scheme = _stated_scheme(config) or _scheme_of_tensors(tensor_types)
    if scheme:
        raise UnsupportedArchitecture(
            f"the weights are quantised ({scheme}), and layers are measured and repaired in weights that are not; give "
            "the model that was quantised, and quantise the smaller one"
        )


def _stated_scheme(config: Mapping[str, Any]) -> str | None:
    for name in ("quantization_config", "compression_config", "quantization"):
        stated = config.get(name)
        if isinstance(stated, dict) and stated:
            method = stated.get("quant_method") or ("MLX" if name == "quantization" else "a scheme without a name")
            four = "4" if stated.get("load_in_4bit") else "8" if stated.get("load_in_8bit") else None
            bits = stated.get("bits") or stated.get("w_bit") or four
            return f"{method}, {bits} bits" if bits else str(method)
    parts = (part for part in config.values() if isinstance(part, dict))
    return next((scheme for part in parts if (scheme := _stated_scheme(part))), None)


def _scheme_of_tensors(tensor_types: Mapping[str, str]) -> str | None:
    for name, dtype in tensor_types.items():
        mark = name.rpartition(".")[2]
        if mark in MARKS:
            return MARKS[mark]
        if mark == "scales" and tensor_types.get(f"{name.removesuffix('scales')}weight") == "U32":
            return "MLX"
        # Masks and counters are stored as integers as well, but under other names.
        if dtype.startswith(("F8", "F4")) or (mark == "weight" and dtype not in FLOATS):
            return f"weights of the type {dtype}"
    return None
