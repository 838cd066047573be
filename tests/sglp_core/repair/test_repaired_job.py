"""A whole job with repairs or healing: what is written is the changed model, and the report has every step."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import MixtralConfig, MixtralForCausalLM

from sglp_core import Calibration, Evaluation, Healing, Method, Target, compress
from sglp_core.data.token_windows import text_windows
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.reporting.markdown import figure
from sglp_core.run_context import RunContext
from tests.worker.tiny_model import write_text, write_tiny_model


@pytest.mark.parametrize("repair", ["none", "auto"])
def test_a_job_writes_the_repaired_model_and_reports_both(repair: str, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "dense")
    text = write_text(tmp_path / "text.txt")
    report = compress(
        model.as_uri(),
        Target("layers", 0.34),
        tmp_path / "out",
        options=Options(
            method=Method(protected=(0, 3, 5), repair=repair),
            calibration=Calibration(str(text), samples=16, sequence_length=16, batch_size=4),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.method.repair == repair
    changed = set(report.repair.changed_tensors)
    assert bool(changed) == any(attempt.accepted for attempt in report.repair.attempts)
    assert (changed == set()) == (repair == "none")
    assert [stage.stage for stage in report.stages] == ["dense", "pruned"] + ["repaired"] * bool(changed)
    dense, written = (load_file(d / "model.safetensors") for d in (model, tmp_path / "out/model"))
    for name, tensor in dense.items():
        parts = name.split(".")
        if parts[1] != "layers":
            continue
        new = report.layer_map.get(parts[2])
        if new is not None:
            same = torch.equal(written[".".join([*parts[:2], str(new), *parts[3:]])], tensor)
            assert same == (name not in changed)
    page = (tmp_path / "out/report.md").read_text()
    assert ("| repaired |" in page) == (repair == "auto")


def test_a_job_folds_a_repair_into_experts_which_are_stored_one_by_one(tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "dense")
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4}
    config = MixtralConfig(vocab_size=vocabulary, num_key_value_heads=2, num_local_experts=4, pad_token_id=2, **sizes)
    mixtral = MixtralForCausalLM(config)
    with torch.no_grad():
        for parameter in mixtral.model.layers.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    mixtral.save_pretrained(model)
    report = compress(
        model.as_uri(),
        Target("layers", 0.34),
        tmp_path / "out",
        options=Options(
            method=Method(protected=(0, 5)),
            calibration=Calibration(
                str(write_text(tmp_path / "text.txt")), samples=64, sequence_length=32, batch_size=8
            ),
            evaluation=Evaluation(samples=4, controls=False),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.verification.passed
    tried = {attempt.kind for attempt in report.repair.attempts if attempt.built}
    assert "compensate + least_squares" in tried
    changed = report.repair.changed_tensors
    experts = {name.split(".")[2] for name in changed if name.endswith(".mlp.experts.down_proj")}
    assert experts
    dense, written = (load_file(d / "model.safetensors") for d in (model, tmp_path / "out/model"))
    for old, new in report.layer_map.items():
        for expert in range(4):
            for weight in ("w1", "w2", "w3"):
                name = f"block_sparse_moe.experts.{expert}.{weight}.weight"
                same = torch.equal(written[f"model.layers.{new}.{name}"], dense[f"model.layers.{old}.{name}"])
                assert same == (weight != "w2" or old not in experts)


@pytest.mark.parametrize("own_data", [False, True])
@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
def test_a_job_writes_the_healed_model_and_reports_every_step(trained: Any, own_data: bool, tmp_path: Path) -> None:
    model = write_tiny_model(tmp_path / "dense")
    source, size = (str(write_text(tmp_path / "own.txt", lines=300)), 6) if own_data else ("calibration", None)
    report = compress(
        model.as_uri(),
        Target("layers", 0.34),
        tmp_path / "out",
        options=Options(
            method=Method(repair="none"),
            calibration=Calibration(
                str(write_text(tmp_path / "text.txt")), samples=16, sequence_length=16, batch_size=4
            ),
            evaluation=Evaluation(samples=4, controls=False),
            healing=Healing(steps=24, learning_rate=1e-3, alpha=0.0, trained=trained, source=source, batch_size=size),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert report.verification.passed
    assert report.healing.kept_step > 0
    assert (report.healing.source, report.healing.batch_size) == (source, size)
    assert report.healing.trained_windows == (144 if own_data else 12)
    assert report.healing.trained == trained
    gain = report.healing.gain
    assert gain is not None
    assert gain.mean is not None
    best = next(point for point in report.healing.curve if point.step == report.healing.kept_step)
    assert gain.mean == pytest.approx(report.healing.curve[0].loss - best.loss, abs=1e-9)
    assert (report.healing.learning_rate, report.healing.resumed_from_step) == (1e-3, 0)
    losses = [point.loss for point in report.healing.curve]
    assert min(losses) < losses[0]
    assert [stage.stage for stage in report.stages] == ["dense", "pruned", "healed"]
    assert report.stages[2].perplexity < report.stages[1].perplexity
    dense, written = (load_file(d / "model.safetensors") for d in (model, tmp_path / "out/model"))
    kept_layers = {name.split(".")[2] for name in written if ".layers." in name}
    assert written.keys() == {n for n in dense if ".layers." not in n or n.split(".")[2] in kept_layers}
    for name in report.healing.trained_tensors:
        parts = name.split(".")
        if parts[1] == "layers":
            parts[2] = str(report.layer_map[parts[2]])
        assert not torch.equal(written[".".join(parts)], dense[name])
    page = (tmp_path / "out/report.md").read_text()
    assert "| healed |" in page
    assert f"Healing ({trained}, alpha 0) trained" in page
    assert "resumed" not in page
    assert f"A gain of {figure(gain.mean)} nats a position" in page
    assert f"(95 %: {figure(gain.low)} to {figure(gain.high)}) on 4 held-out samples" in page
    assert ("may be chance" in page) == (gain.low <= 0)
    assert "the best of 8 judgements on the same samples" in page
    # What has ended is forgotten.
    assert list((tmp_path / "cache/healings").iterdir()) == []


def test_epochs_are_over_all_samples_of_the_source(tmp_path: Path) -> None:
    model, own = write_tiny_model(tmp_path / "dense"), write_text(tmp_path / "own.txt", lines=40)
    loaded = load_model(model.as_uri(), Options(calibration=Calibration(sequence_length=16)), RunContext())
    windows = len(text_windows(own, loaded.processor, 10**6, 16, 0))
    report = compress(
        model.as_uri(),
        Target("layers", 0.34),
        tmp_path / "out",
        options=Options(
            method=Method(repair="none"),
            calibration=Calibration(str(write_text(tmp_path / "text.txt")), 16, 16, batch_size=4),
            evaluation=Evaluation(samples=4, controls=False),
            healing=Healing(epochs=2, alpha=0.5, source=str(own), batch_size=5),
        ),
        context=RunContext(cache=tmp_path / "cache"),
    )
    assert 10 < windows < 1000
    assert report.healing.trained_windows == windows
    assert report.healing.curve[-1].step == math.ceil(2 * windows / 5)
    assert (report.healing.epochs, report.healing.alpha) == (2, 0.5)
