"""Prove that the written artifact is the planned model: reloaded in a fresh process with the stock class.

Three things must agree: the dense model with the removed layers bypassed, the pruned model in memory, and the
reloaded artifact. Decoding with the cache must equal decoding without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sglp_core.errors import SGLPError, VerificationFailed
from sglp_core.evaluation.logits import TOLERANCES, difference, probe_logits
from sglp_core.fresh_process import FreshProcesses
from sglp_core.structure.layer_signature import layouts_of
from sglp_core.structure.model_class import meta_model, model_class
from sglp_core.tasks import Task

# The same sums in the same order: on a CPU every model of our tests agrees to the last bit.
SAME_SUMS = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-4, torch.bfloat16: 1e-3}
DECODED_TOKENS = 16
# Every token reads all weights from disk, and a wrong cache shows at the second.
OFFLOADED_DECODED_TOKENS = 3
PROMPT_TOKENS = 8


@dataclass(frozen=True)
class Verification:
    """Differences are relative to the largest logit; `cached_decoding_equal` is None without generation.

    `other_layers` are the numbers of those that the written configuration makes other than they were, but for weights.
    """

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reload_difference: float
    bypass_difference: float
    tolerance: float
    cached_decoding_equal: bool | None
    other_layers: tuple[int, ...] = ()

    @property
    def problems(self) -> list[str]:
        found = []
        if self.missing or self.unexpected:
            found.append(f"tensors missing {list(self.missing)[:5]}, unexpected {list(self.unexpected)[:5]}")
        if self.other_layers:
            found.append(f"by config.json the layers {list(self.other_layers)[:5]} are other than they were")
        # Written so that a NaN counts as a difference.
        if not self.reload_difference <= self.tolerance:
            found.append(f"reloaded logits differ by {self.reload_difference:.2e} (allowed {self.tolerance:.0e})")
        if not self.bypass_difference <= self.tolerance:
            found.append(f"logits differ from the bypassed dense model by {self.bypass_difference:.2e}")
        if self.cached_decoding_equal is False:
            found.append("decoding with the cache differs from decoding without it")
        return found


@dataclass(frozen=True)
class Written:
    """An artifact on disk with what it must reproduce: a probe input and two sets of logits, in memory and bypassed.

    An `offloaded` one is reloaded with its weights left on disk, for models that do not fit in memory. `layouts` are
    what the layers at `path` were (`layout.py`), and empty where they stand in stages.
    """

    directory: Path
    task: Task
    probe: dict[str, Tensor]
    pruned_logits: Tensor
    bypassed_logits: Tensor
    offloaded: bool = False
    on_cpu: bool = True
    path: str = ""
    layouts: tuple[str, ...] = ()


def verify(artifacts: Sequence[Written], fresh: FreshProcesses) -> list[Verification]:
    """Reload every artifact in one fresh process and compare. Raises `VerificationFailed` where one cannot be used."""
    scratch = fresh.scratch
    requests: list[dict[str, Any]] = []
    for number, written in enumerate(artifacts):
        save_file({k: v.contiguous() for k, v in written.probe.items()}, scratch / f"probe-{number}.safetensors")
        requests.append(
            {
                "directory": str(written.directory.resolve()),
                "probe": str(scratch / f"probe-{number}.safetensors"),
                "logits": str(scratch / f"logits-{number}.safetensors"),
                "decode": written.task == "causal_lm",
                "path": written.path,
                "offload": str((scratch / f"offload-{number}").resolve()) if written.offloaded else None,
            }
        )
    try:
        answers = fresh.call(__name__, {"artifacts": requests})["artifacts"]
    except SGLPError as error:
        raise VerificationFailed(f"the written model cannot be loaded and run: {error}") from error
    results = []
    for written, request, answer in zip(artifacts, requests, answers, strict=True):
        reloaded = load_file(request["logits"])["logits"]
        results.append(
            Verification(
                missing=tuple(answer["missing"]),
                unexpected=tuple(answer["unexpected"]),
                reload_difference=difference(reloaded, written.pruned_logits),
                bypass_difference=difference(written.pruned_logits, written.bypassed_logits),
                tolerance=(SAME_SUMS if written.on_cpu else TOLERANCES)[written.pruned_logits.dtype],
                cached_decoding_equal=answer["cached_decoding_equal"],
                other_layers=_others(written.layouts, answer["layouts"]),
            )
        )
    return results


def _others(wanted: Sequence[str], found: Sequence[str]) -> tuple[int, ...]:
    if not wanted:
        return ()
    pairs = zip_longest(wanted, found)
    return tuple(number for number, (layer, written) in enumerate(pairs) if layer != written)


def require(verification: Verification) -> None:
    """Raise `VerificationFailed` unless everything agreed."""
    if verification.problems:
        raise VerificationFailed("the written model is not the planned one: " + "; ".join(verification.problems))


def _reload(request: dict[str, Any]) -> dict[str, Any]:
    config = transformers.AutoConfig.from_pretrained(request["directory"])
    stock = model_class(config)
    offload = request["offload"]
    placed = {"device_map": {"": "disk"}, "offload_folder": offload} if offload else {}
    model, info = stock.from_pretrained(request["directory"], dtype="auto", output_loading_info=True, **placed)
    model.eval()
    tokens = OFFLOADED_DECODED_TOKENS if offload else DECODED_TOKENS
    probe = load_file(request["probe"])
    save_file({"logits": probe_logits(model, probe).contiguous()}, request["logits"])
    layouts = layouts_of(meta_model(config).get_submodule(request["path"])) if request["path"] else ()
    return {
        "layouts": layouts,
        "missing": sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "cached_decoding_equal": _decodes_alike(model, probe["input_ids"], tokens) if request["decode"] else None,
    }


@torch.no_grad()
def _decodes_alike(model: Any, input_ids: Tensor, count: int) -> bool:
    prompt = input_ids[:, :PROMPT_TOKENS]

    def decode(use_cache: bool) -> Tensor:
        tokens: Tensor = model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            generation_config=transformers.GenerationConfig(
                do_sample=False,
                min_new_tokens=count,
                max_new_tokens=count,
                use_cache=use_cache,
                pad_token_id=0,
            ),
        )
        return tokens

    with_cache, without = decode(True), decode(False)
    for cached, plain in zip(with_cache, without, strict=True):
        if torch.equal(cached, plain):
            continue
        # Two ways of adding the same numbers may settle an exact tie differently; that alone is no error.
        first = int((cached != plain).nonzero()[0])
        logits = model(input_ids=plain[None, :first], use_cache=False).logits[0, -1].float()
        gap = (logits.max() - logits[cached[first]]) / logits.abs().max()
        if gap > TOLERANCES[model.dtype]:
            return False
    return True


def handle(request: dict[str, Any]) -> dict[str, Any]:
    """In the fresh process: reload each artifact and say what it gives."""
    return {"artifacts": [_reload(artifact) for artifact in request["artifacts"]]}
