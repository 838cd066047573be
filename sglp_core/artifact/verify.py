"""Verify that the written artifact is the planned model, by reloading it in a fresh process with the stock class.

The logits of three models must agree: the dense model with the removed layers bypassed, the pruned model in memory, and
the reloaded artifact. Decoding with the KV cache must equal decoding without it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, TypedDict

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor

from sglp_core.artifact.shared_maps import map_weights_shared
from sglp_core.checkpoints.strict_json import JsonObject
from sglp_core.errors import SGLPError, VerificationFailed
from sglp_core.evaluation.logits import TOLERANCES, difference, probe_logits
from sglp_core.execution.available_memory import give_back_what_is_freed
from sglp_core.fresh_process import FreshProcesses
from sglp_core.structure.layer_signature import layer_signatures
from sglp_core.structure.model_class import meta_model, model_class
from sglp_core.tasks import Task

# Tolerances on a CPU, where sums are in the same order: there, all models of our tests agree exactly.
SAME_SUMS = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-4, torch.bfloat16: 1e-3}
DECODED_TOKENS = 16
# Fewer, because each token reads all weights from disk; an error in the cache shows at the second token.
OFFLOADED_DECODED_TOKENS = 3
PROMPT_TOKENS = 8


@dataclass(frozen=True)
class Verification:
    """Differences are relative to the largest logit; `cached_decoding_equal` is None without generation.

    `other_layers` are the numbers of layers that the written configuration builds with another signature than before.
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
        """What does not agree, one sentence each; empty where everything does."""
        problems = []
        if self.missing or self.unexpected:
            problems.append(f"tensors missing {list(self.missing)[:5]}, unexpected {list(self.unexpected)[:5]}")
        if self.other_layers:
            problems.append(f"config.json builds the layers {list(self.other_layers)[:5]} differently than before")
        # "Not at most" instead of "more than", so that NaN counts as a difference.
        if not self.reload_difference <= self.tolerance:
            problems.append(f"reloaded logits differ by {self.reload_difference:.2e} (allowed {self.tolerance:.0e})")
        if not self.bypass_difference <= self.tolerance:
            problems.append(f"logits differ from the bypassed dense model by {self.bypass_difference:.2e}")
        if self.cached_decoding_equal is False:
            problems.append("decoding with the cache differs from decoding without it")
        return problems


@dataclass(frozen=True)
class Written:
    """An artifact on disk with a probe input and the logits that it must reproduce, of the pruned and bypassed model.

    An `offloaded` artifact is reloaded with its weights left on disk, for models that do not fit in memory.
    `signatures` are those of the layers at `path` before (`layer_signature.py`); both are empty where layers are in
    stages.
    """

    directory: Path
    task: Task
    probe: dict[str, Tensor]
    pruned_logits: Tensor
    bypassed_logits: Tensor
    offloaded: bool = False
    on_cpu: bool = True
    path: str = ""
    signatures: tuple[str, ...] = ()


class _Request(TypedDict):
    """Files of one artifact; the fresh process writes `logits`, and offloads weights to the folder `offload`."""

    directory: str
    probe: str
    logits: str
    decode: bool
    path: str
    offload: str | None


class _Answer(TypedDict):
    """The answer for one artifact, with the signatures of the layers at the requested path."""

    signatures: Sequence[str]
    missing: list[str]
    unexpected: list[str]
    cached_decoding_equal: bool | None


def verify(artifacts: Sequence[Written], fresh: FreshProcesses) -> list[Verification]:
    """Reload every artifact in one fresh process and compare. Raises `VerificationFailed` where one cannot be used."""
    scratch = fresh.scratch
    requests: list[_Request] = []
    for number, written in enumerate(artifacts):
        save_file({k: v.contiguous() for k, v in written.probe.items()}, scratch / f"probe-{number}.safetensors")
        requests.append(
            {
                "directory": str(written.directory.resolve()),
                "probe": str(scratch / f"probe-{number}.safetensors"),
                "logits": str(scratch / f"logits-{number}.safetensors"),
                "decode": written.task == "causal_lm",
                "path": written.path,
                "offload": str(scratch / f"offload-{number}") if written.offloaded else None,
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
                other_layers=_other_layers(written.signatures, answer["signatures"]),
            )
        )
    return results


def _other_layers(before: Sequence[str], written: Sequence[str]) -> tuple[int, ...]:
    if not before:
        return ()
    return tuple(number for number, (old, new) in enumerate(zip_longest(before, written)) if old != new)


def require(verification: Verification) -> None:
    """Raise `VerificationFailed` with all problems, if there are any."""
    if verification.problems:
        raise VerificationFailed("the written model is not the planned one: " + "; ".join(verification.problems))


def _reload(request: _Request) -> _Answer:
    config = transformers.AutoConfig.from_pretrained(request["directory"])
    stock = model_class(config)
    offload = request["offload"]
    placed = {"device_map": {"": "disk"}, "offload_folder": offload} if offload else {}
    if offload:
        give_back_what_is_freed()
        map_weights_shared()
    model, info = stock.from_pretrained(request["directory"], dtype="auto", output_loading_info=True, **placed)
    model.eval()
    tokens = OFFLOADED_DECODED_TOKENS if offload else DECODED_TOKENS
    probe = load_file(request["probe"])
    save_file({"logits": probe_logits(model, probe).contiguous()}, request["logits"])
    path = request["path"]
    return {
        "signatures": layer_signatures(meta_model(config).get_submodule(path)) if path else (),
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
        # The two ways add numbers in different orders, so tied logits may give different tokens; that is not an error.
        first = int((cached != plain).nonzero()[0])
        logits = model(input_ids=plain[None, :first], use_cache=False).logits[0, -1].float()
        gap = (logits.max() - logits[cached[first]]) / logits.abs().max()
        if gap > TOLERANCES[model.dtype]:
            return False
    return True


def handle(request: JsonObject) -> JsonObject:
    """Called in the fresh process: reload each artifact of the request and answer for each."""
    return {"artifacts": [_reload(artifact) for artifact in request["artifacts"]]}
