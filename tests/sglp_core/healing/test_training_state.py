"""A healing run that was stopped goes on where it was, to the same end, whatever was left on the disk."""

import math
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sglp_core import Calibration
from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.data.calibration_data import CalibrationData, prepare
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.healing import heal as healing_module
from sglp_core.healing.heal import Healed, Training, heal
from sglp_core.healing.training_state import Judgement, KeptState, TrainingState, kept_state
from sglp_core.loading import cache_key
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Healing, Options
from sglp_core.progress import Progress
from sglp_core.result_cache import Cache, CachedResult, key_digest
from sglp_core.run_context import RunContext
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import Batch
from tests.sglp_core.recorded_progress import Recorder
from tests.sglp_core.small_models import batches, build
from tests.worker.tiny_model import write_text, write_tiny_model

RATES = {"neighbours": 3e-3, "lora": 3e-3, "all": 3e-4}
WAYS = [(trained, alpha, "adamw", rate) for trained, rate in RATES.items() for alpha in (1.0, 0.0)]


class Killed(BaseException):
    """What no step of healing would catch, as it would not catch a SIGKILL."""


def place(directory: Path) -> KeptState:
    return KeptState(Cache(directory), {"run": 1})


def run(
    healing: Healing,
    kept: KeptState | None = None,
    kill_at: int | None = None,
    dtype: torch.dtype = torch.float32,
    model: Any = None,
) -> Healed:
    """Heal a new copy of the same model, as a new process would; the process ends as step `kill_at` is told."""

    def end(progress: Progress) -> None:
        if progress.done == kill_at:
            raise Killed

    model, given = (model or build()).to(dtype), {"model.norm.weight": torch.full((32,), 1.01, dtype=dtype)}
    return heal(
        LayeredModel(model, "model.layers", "causal_lm"),
        batches(),
        Variant((2, 3), given),
        Training(healing, seed=3, kept=kept),
        Recorder(end).phase(),
    )


def assert_same(found: Healed, expected: Healed) -> None:
    assert (found.step, found.curve, found.gain) == (expected.step, expected.curve, expected.gain)
    assert (found.gain is None) == (found.step == 0)
    assert found.trained_tensors == expected.trained_tensors
    assert found.changes.keys() == expected.changes.keys()
    assert all(torch.equal(tensor, expected.changes[name]) for name, tensor in found.changes.items())


@pytest.mark.parametrize(("trained", "alpha", "optimizer", "rate"), [*WAYS, ("all", 0.5, "sgd", 0.01)])
def test_a_run_that_is_stopped_again_and_again_ends_like_one_that_is_not(
    trained: Any, alpha: float, optimizer: Any, rate: float, tmp_path: Path
) -> None:
    healing = Healing(24, rate, alpha, trained, optimizer=optimizer)
    expected = run(healing)
    assert expected.resumed_from_step == 0
    kept = place(tmp_path)
    # Judged, and so kept, at every third step: before the first, right at one, behind one, and at the last.
    for kill_at, reached in ((2, 0), (9, 6), (14, 12), (24, 21)):
        with pytest.raises(Killed):
            run(healing, kept, kill_at)
        state = kept.find()
        assert (state.step if state else 0) == reached
    found = run(healing, kept)
    assert found.resumed_from_step == 21
    assert_same(found, expected)


def test_a_resumed_run_takes_as_many_steps_as_the_one_before_had_time_for(tmp_path: Path) -> None:
    kept, healing = place(tmp_path), Healing(1000, 1e-3, max_seconds=10.0, batch_size=4)
    slow = build()
    # At least a tenth of a second for a step, in which teacher and student are called.
    slow.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    with pytest.raises(Killed):
        run(healing, kept, 13, model=slow)
    state = kept.find()
    assert state is not None
    assert 13 <= state.steps <= 100
    # A run that is not slow would have the time for far more.
    healed = run(healing, kept)
    assert (healed.resumed_from_step, healed.curve[-1].step) == (state.step, state.steps)


@pytest.mark.parametrize("trained", ["neighbours", "lora"])
def test_best_weights_are_not_forgotten(trained: Any, tmp_path: Path) -> None:
    # The rate is such that the run gets better, and then worse.
    healing = Healing(64, 0.05 if trained == "lora" else 0.02, 0.0, trained)
    expected = run(healing)
    last = expected.curve[-1].step
    assert 0 < expected.step < last == healing.steps
    kept = place(tmp_path)
    with pytest.raises(Killed):
        run(healing, kept, last - 1)
    found = run(healing, kept)
    assert found.resumed_from_step == last - 8
    assert_same(found, expected)
    # What has ended is not trained again: it gives the same although no further step would be survived.
    again = run(healing, kept, last + 1)
    assert again.resumed_from_step == last
    assert_same(again, expected)


def test_with_long_ways_between_judgements_it_is_kept_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healing_module, "KEPT_EVERY_SECONDS", 0.0)
    healing = Healing(24, 3e-3)
    kept = place(tmp_path)
    with pytest.raises(Killed):
        run(healing, kept, 12)
    found = run(healing, kept)
    assert found.resumed_from_step == 11
    assert_same(found, run(healing))


@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
def test_half_precision_is_resumed_bit_for_bit(trained: Any, tmp_path: Path) -> None:
    healing = Healing(16, 3e-3, trained=trained)
    with pytest.raises(Killed):
        run(healing, place(tmp_path), 9, torch.bfloat16)
    found = run(healing, place(tmp_path), dtype=torch.bfloat16)
    assert found.resumed_from_step == 8
    assert_same(found, run(healing, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5000] + bytes([content[5000] ^ 1]) + content[5001:],
    ],
)
def test_a_damaged_state_is_as_none(damage: Callable[[bytes], bytes], tmp_path: Path) -> None:
    healing = Healing(16, 3e-3)
    kept = place(tmp_path)
    with pytest.raises(Killed):
        run(healing, kept, 9)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    found = run(healing, kept)
    assert found.resumed_from_step == 0
    assert_same(found, run(healing))


def test_a_state_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    optimizer = {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, 3)}, 5: {"step": torch.tensor(2.0)}}
    curve = (Judgement(0, 0.1, math.inf, 0.5, 0.25), Judgement(3, 1 / 3, 1e-17, 0.75, 1 / 3))
    tensors = {"a.weight": torch.randn(2, 3), "best/b.weight": torch.randn(4)}
    before, after = torch.randn(2, 4, 5, dtype=torch.float64)
    state = TrainingState(3, 7, tensors, optimizer, {"a.weight": torch.randn(2, 3)}, curve, before, after)
    place(tmp_path).keep(state)
    found = place(tmp_path).find()
    assert found is not None
    assert (found.step, found.steps, found.curve) == (3, 7, curve)
    assert torch.equal(found.before, before)
    assert torch.equal(found.after, after)
    for group in ("tensors", "best"):
        assert getattr(found, group).keys() == getattr(state, group).keys()
        assert all(torch.equal(t, getattr(state, group)[n]) for n, t in getattr(found, group).items())
    assert {(n, k): v.tolist() for n, held in found.optimizer.items() for k, v in held.items()} == {
        (n, k): v.tolist() for n, held in optimizer.items() for k, v in held.items()
    }
    place(tmp_path).drop()
    assert place(tmp_path).find() is None
    place(tmp_path).drop()


def test_a_state_too_large_to_keep_is_not_written(tmp_path: Path) -> None:
    cache = Cache(tmp_path, limit_bytes=1000)
    cache.keep({"n": 0}, CachedResult({"small": np.zeros(10)}, {}))
    cache.keep({"n": 1}, CachedResult({"large": np.zeros(1000)}, {}))
    assert cache.find({"n": 0}) is not None
    assert cache.find({"n": 1}) is None


def test_the_statistics_of_batch_norms_are_resumed_bit_for_bit(tmp_path: Path) -> None:
    images = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(32) % 3
    # The class is how bright an image is, which can be learned.
    data = list(Batch({"pixel_values": images + labels[:, None, None, None]}, labels).split(8))

    def healed(kept: KeptState | None = None, kill_at: int | None = None) -> Healed:
        def end(progress: Progress) -> None:
            if progress.done == kill_at:
                raise Killed

        torch.manual_seed(0)
        config = CifarResNetConfig(depths=[5], hidden_sizes=[4], num_labels=3)
        model = CifarResNetForImageClassification(config).eval()
        torch.nn.init.normal_(model.linear.weight)
        layered = LayeredModel(model, find_stack(model), "image_classification")
        training = Training(Healing(16, 3e-2, 0.0, "all"), 3, kept)
        return heal(layered, data, Variant((2,)), training, Recorder(end).phase())

    kept = place(tmp_path)
    with pytest.raises(Killed):
        healed(kept, 7)
    found = healed(kept)
    assert found.resumed_from_step == 6
    assert any("running_var" in name for name in found.changes)
    assert_same(found, healed())


def test_two_at_once_end_the_same(tmp_path: Path) -> None:
    healing = Healing(24, 3e-3)
    kept = place(tmp_path)
    with pytest.raises(Killed):
        run(healing, kept, 9)
    # Built here, because building draws from the one generator of the process.
    models = [build() for _ in range(2)]
    with ThreadPoolExecutor() as pool:
        both = list(pool.map(lambda model: run(healing, kept, model=model), models))
    expected = run(healing)
    for found in both:
        assert_same(found, expected)


def test_a_run_goes_on_on_another_machine_from_whichever_state_is_further(tmp_path: Path) -> None:
    healing = Healing(24, 3e-3)
    expected = run(healing)
    told: list[Path] = []
    received = tmp_path / "received"
    received.mkdir()

    def machine(name: str) -> KeptState:
        return KeptState(Cache(tmp_path / name, received=received, on_keep=told.append), {"run": 1})

    def move() -> None:
        shutil.copy(told[-1], received)

    # Kept at every third step.
    with pytest.raises(Killed):
        run(healing, machine("one"), 11)
    assert len(told) == 3
    move()
    with pytest.raises(Killed):
        run(healing, machine("two"), 17)
    assert len(told) == 3 + 2
    # What was received is now the older one, then the newer one, then a damaged one.
    state = machine("two").find()
    assert state is not None
    assert state.step == 15
    move()
    assert run(healing, machine("one"), None).resumed_from_step == 15
    found = run(healing, machine("two"))
    assert found.resumed_from_step == 15
    assert_same(found, expected)
    machine("two").drop()
    (file,) = received.iterdir()
    content = file.read_bytes()
    file.write_bytes(content[:-300] + bytes(300))
    assert machine("two").find() is None


def test_the_state_of_another_run_is_not_received(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(Healing(24, 3e-3), KeptState(Cache(tmp_path), {"run": 1}), 11)
    other = KeptState(Cache(tmp_path / "two", received=tmp_path), {"run": 2})
    (file,) = tmp_path.glob("*.npz")
    file.rename(file.with_name(f"{key_digest(other.key)}.npz"))
    assert other.find() is None


def test_the_state_of_other_code_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = RunContext(cache=tmp_path)
    loaded = load_model(
        str(write_tiny_model(tmp_path / "model")), Options(calibration=Calibration(sequence_length=16)), context
    )
    calibration = Calibration(str(write_text(tmp_path / "text.txt")), samples=16, sequence_length=16, batch_size=4)
    data, healing = prepare(loaded, calibration, None, context), Healing(8, 1e-3, 0.0)
    pruned = Variant((2, 3))
    with monkeypatch.context() as older:
        older.setattr(cache_key, "code_digest", lambda _package: "older")
        kept = kept_state(loaded, data, pruned, healing, context)
    # It had no sums of each sample.
    kept.cache.keep(
        kept.key, CachedResult({"tensors/lm_head.weight": np.zeros(3)}, {"step": 8, "steps": 8, "curve": []})
    )
    assert len(list((tmp_path / "healings").iterdir())) == 1
    training = Training(healing, data.seed, kept_state(loaded, data, pruned, healing, context))
    healed = heal(loaded, data.calibration(loaded), pruned, training)
    assert healed.resumed_from_step == 0
    assert [point.step for point in healed.curve] == list(range(9))


def test_another_plan_repair_data_or_setting_is_another_run(tmp_path: Path) -> None:
    loaded = load_model(
        str(write_tiny_model(tmp_path / "model")),
        Options(calibration=Calibration(sequence_length=16)),
        RunContext(cache=tmp_path),
    )
    text = str(write_text(tmp_path / "text.txt"))
    # Of the same name on another day.
    others = [str(write_text(tmp_path / f"{lines}.txt", lines)) for lines in (50, 60)]

    def drawn(own: Healing = Healing(), **changes: Any) -> CalibrationData:
        calibration = Calibration(text, **{"samples": 8, "sequence_length": 16, "batch_size": 4, **changes})
        return prepare(loaded, calibration, None, RunContext(cache=tmp_path), own)

    ones = {"model.norm.weight": torch.ones(32, dtype=torch.bfloat16)}
    places = [
        (drawn(), (2, 3), ones, Healing(5)),
        (drawn(samples=9), (2, 3), ones, Healing(5)),
        (drawn(batch_size=2), (2, 3), ones, Healing(5)),
        (drawn(seed=1), (2, 3), ones, Healing(5)),
        *((drawn(Healing(5, source=other)), (2, 3), ones, Healing(5, source="file:///x")) for other in others),
        (drawn(), (2, 4), ones, Healing(5)),
        (drawn(), (2, 3), {}, Healing(5)),
        (drawn(), (2, 3), {"model.norm.weight": torch.full((32,), 2.0, dtype=torch.bfloat16)}, Healing(5)),
        (drawn(), (2, 3), ones, Healing(6)),
        (drawn(), (2, 3), ones, Healing(5, trained="lora")),
        (drawn(), (2, 3), ones, Healing(5, alpha=0.0)),
    ]
    names = [
        key_digest(kept_state(loaded, data, Variant(removed, changes), healing, RunContext(cache=tmp_path)).key)
        for data, removed, changes, healing in places
    ]
    assert len(set(names)) == len(places)
    again = {name: tensor.clone() for name, tensor in ones.items()}
    assert (
        key_digest(kept_state(loaded, drawn(), Variant((2, 3), again), Healing(5), RunContext(cache=tmp_path)).key)
        == names[0]
    )
