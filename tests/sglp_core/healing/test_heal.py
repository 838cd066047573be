"""Healing trains a few tensors beside the dense model, and never hands back something worse."""

import copy
import math
import re
import time
from typing import Any

import pytest
import torch
from torch import Tensor

from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.errors import UnsupportedArchitecture
from sglp_core.evaluation.quality import evaluate
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import apply, swapped
from sglp_core.healing.heal import Training, heal, require_trainable
from sglp_core.healing.neighbouring_layers import names_near_cuts
from sglp_core.options import Healing
from sglp_core.removal.remove_layers import remove_layers
from sglp_core.structure.layer_stack import find_stack
from sglp_core.tasks import Batch, logits_of, loss_of, rebatch, split, task_of
from tests.sglp_core.recorded_progress import Recorder
from tests.sglp_core.small_models import batches, build


def weights_of(model: Any) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


LAYER = [
    *(f"self_attn.{p}_proj.weight" for p in "qkvo"),
    *(f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")),
    "input_layernorm.weight",
    "post_attention_layernorm.weight",
]


@pytest.mark.parametrize("tied", [False, True])
def test_the_neighbours_of_each_cut_the_last_norm_and_a_head_of_its_own_are_trained(tied: bool) -> None:
    model = build(tie_word_embeddings=tied)
    found = names_near_cuts(LayeredModel(model, "model.layers", "causal_lm"), (2, 3, 5), batches(1)[0])
    expected = {f"model.layers.{layer}.{name}" for layer in (1, 4) for name in LAYER} | {"model.norm.weight"}
    assert set(found) == expected | (set() if tied else {"lm_head.weight"})


def test_a_head_of_several_layers_is_trained_but_for_what_the_embeddings_share() -> None:
    model = build("BertForMaskedLM")
    found = set(names_near_cuts(LayeredModel(model, find_stack(model), "causal_lm"), (2,), batches(1)[0]))
    assert {name for name in found if name.startswith("cls.")} == {
        "cls.predictions.transform.dense.weight",
        "cls.predictions.transform.dense.bias",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.transform.LayerNorm.bias",
    }
    assert {name.split(".")[3] for name in found if not name.startswith("cls.")} == {"1", "3"}


def test_logits_with_other_weights_are_those_of_the_model_with_the_weights_swapped() -> None:
    model, batch = build(), batches(1)[0]
    weights = {"model.layers.1.mlp.down_proj.weight": torch.randn(32, 48), "lm_head.weight": torch.randn(60, 32)}
    with torch.no_grad():
        found = logits_of(model, batch, weights)
        with swapped(model, weights):
            expected = logits_of(model, batch)
        assert not torch.allclose(logits_of(model, batch), expected)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("at_once", [24, 5])
def test_one_step_is_that_of_adamw_on_the_model_with_its_layers_really_removed(at_once: int) -> None:
    model, data = build(), list(rebatch(batches(), at_once))
    trained_on = next(rebatch(split(data)[0], 24))
    # All samples, so that their order does not matter.
    healing = Healing(1, 1e-4, 0.0, batch_size=24)
    healed = heal(LayeredModel(model, "model.layers", "causal_lm"), data, Variant((2, 3), {}), Training(healing, 5))
    pruned = copy.deepcopy(model)
    remove_layers(pruned, "model.layers", (2, 3))
    trained = {old: pruned.get_parameter(old.replace("layers.4", "layers.2")) for old in healed.trained_tensors}
    loss_of(logits_of(pruned, trained_on), trained_on.labels, "causal_lm").backward()
    torch.nn.utils.clip_grad_norm_(trained.values(), 1.0)
    torch.optim.AdamW(trained.values(), lr=1e-4, weight_decay=0.0).step()
    assert healed.step == 1
    for name, expected in trained.items():
        assert not torch.equal(healed.changes[name], model.get_parameter(name)), name
        torch.testing.assert_close(healed.changes[name], expected.detach(), rtol=0, atol=2e-6)


# Of the largest gradient of a tensor.
ROUNDED = 2**-7


@pytest.mark.parametrize("precision", ["full", "mixed"])
def test_one_step_of_all_that_stays_is_that_of_a_network_in_training_mode(precision: Any) -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[5], hidden_sizes=[4], num_labels=3)).eval()
    data = list(Batch({"pixel_values": torch.randn(16, 3, 8, 8)}, torch.arange(16) % 3).split(12))
    path = find_stack(model)
    layered = LayeredModel(model, path, "image_classification")
    healed = heal(layered, data, Variant((2,)), Training(_one_step(precision)))
    other = heal(layered, data, Variant((2,)), Training(_one_step("full" if precision == "mixed" else "mixed")))
    assert any(not torch.equal(tensor, healed.changes[name]) for name, tensor in other.changes.items())
    one = copy.deepcopy(model)
    remove_layers(one, path, (2,))
    one.train()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "mixed"):
        loss = loss_of(logits_of(one, data[0]), data[0].labels, "image_classification")
    loss.backward()
    torch.nn.utils.clip_grad_norm_(one.parameters(), 1.0)
    torch.optim.AdamW(one.parameters(), lr=1e-2, weight_decay=0.0).step()
    apply(model, healed.changes)
    remove_layers(model, path, (2,))
    assert healed.step == 1
    found, gradients = model.state_dict(), {name: each.grad for name, each in one.named_parameters()}
    for name, expected in one.state_dict().items():
        gradient = gradients.get(name)
        certain = torch.ones_like(expected, dtype=torch.bool)
        if precision == "mixed" and gradient is not None:
            # The first step of AdamW goes by the sign, and bfloat16 rounds the sums that a small gradient is left of.
            certain = gradient.abs() >= ROUNDED * gradient.abs().max()
            assert certain.float().mean() > 0.8
        torch.testing.assert_close(found[name][certain], expected[certain], rtol=0, atol=2e-5)


def _one_step(precision: Any) -> Healing:
    return Healing(1, 1e-2, 0.0, "all", precision=precision)


def test_two_steps_of_sgd_are_the_written_formulas_of_distillation_and_momentum() -> None:
    model, data = build(), batches()
    trained_on = next(rebatch(split(data)[0], 24))
    healing = Healing(
        2, 0.02, 0.3, "all", batch_size=24, optimizer="sgd", weight_decay=0.1, temperature=2.5, label_smoothing=0.2
    )
    healed = heal(LayeredModel(model, "model.layers", "causal_lm"), data, Variant((2, 3)), Training(healing, 5))
    with torch.no_grad():
        dense = logits_of(model, trained_on)[:, :-1].flatten(0, 1)
    student = copy.deepcopy(model)
    remove_layers(student, "model.layers", (2, 3))
    labels = trained_on.labels[:, 1:].flatten()
    weights = list(student.parameters())
    velocity = [torch.zeros_like(weight) for weight in weights]
    # Two steps are a warm-up of one and a decay of one, both at the peak.
    for _ in range(2):
        logits = logits_of(student, trained_on)[:, :-1].flatten(0, 1)
        teacher = (dense / 2.5).softmax(-1)
        divergence = (teacher * (teacher.log() - (logits / 2.5).log_softmax(-1))).sum(-1)
        surprise = -logits.log_softmax(-1)
        smoothed = 0.8 * surprise.gather(1, labels[:, None])[:, 0] + 0.2 * surprise.mean(-1)
        loss = (0.3 * 2.5**2 * divergence + 0.7 * smoothed).mean()
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        with torch.no_grad():
            for index, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
                decayed = gradient / norm.clamp(min=1) + 0.1 * weight
                velocity[index] = 0.9 * velocity[index] + decayed if velocity[index].any() else decayed
                weight.sub_(0.02 * (decayed + 0.9 * velocity[index]))
    assert healed.step == 2
    for name, expected in student.named_parameters():
        old = re.sub(r"layers\.([2-9])\.", lambda found: f"layers.{int(found[1]) + 2}.", name)
        torch.testing.assert_close(healed.changes[old], expected.detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("seconds", "least", "most"), [(1e-3, 1, 1), (4.0, 2, 38), (1000.0, 50, 50)])
def test_a_training_takes_the_steps_that_there_is_time_for(seconds: float, least: int, most: int) -> None:
    model, recorder = build(), Recorder()
    # At least a tenth of a second for a step, in which teacher and student are called.
    model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
    healing = Healing(50, 1e-9, max_seconds=seconds, batch_size=4)
    healed = heal(
        LayeredModel(model, "model.layers", "causal_lm"), batches(2), Variant((2,)), Training(healing), recorder.phase()
    )
    assert least <= healed.curve[-1].step <= most
    # The last one is the last that was announced.
    assert recorder.reports[-1].total == healed.curve[-1].step


def test_timing_a_step_changes_nothing() -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[5], hidden_sizes=[4], num_labels=3)).eval()
    data = list(Batch({"pixel_values": torch.randn(16, 3, 8, 8)}, torch.arange(16) % 3).split(12))
    layered = LayeredModel(model, find_stack(model), "image_classification")
    found = [
        heal(layered, data, Variant((2,)), Training(Healing(3, 1e-2, 0.0, "all", max_seconds=seconds))).changes
        for seconds in (None, 1000.0)
    ]
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_a_training_whose_loss_is_no_number_ends_and_changes_nothing() -> None:
    healing = Healing(24, 1e30, 0.0, "all", optimizer="sgd")
    healed = heal(LayeredModel(build(), "model.layers", "causal_lm"), batches(), Variant((2,)), Training(healing))
    assert [point.step for point in healed.curve] == [0, 3]
    assert math.isnan(healed.curve[1].loss)
    assert (healed.step, healed.changes) == (0, {})


@pytest.mark.parametrize(("epochs", "size", "steps"), [(1, 4, 3), (2, 5, 5), (3, 12, 3)])
def test_epochs_are_as_many_steps_as_have_all_samples_so_often(epochs: int, size: int, steps: int) -> None:
    model, recorder = build(), Recorder()
    # 16 windows, of which 4 judge.
    data = list(next(rebatch(batches(), 16)).split(4))
    healing = Healing(learning_rate=1e-9, batch_size=size, epochs=epochs)
    heal(LayeredModel(model, "model.layers", "causal_lm"), data, Variant((2,)), Training(healing), recorder.phase())
    assert {report.total for report in recorder.reports} == {steps}


def test_every_sample_is_trained_on_before_any_comes_again() -> None:
    model, seen = build(), list[Tensor]()
    model.model.embed_tokens.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    data = [Batch({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, ids) for ids in _numbered(9).split(4)]
    training = Training(Healing(6, 1e-9, 0.0, batch_size=3), seed=1, data=data)
    heal(LayeredModel(model, "model.layers", "causal_lm"), batches(2), Variant((2,), {}), training)
    steps = torch.cat([ids[:, 0] for ids in seen if ids.shape == (3, 7)])
    first, second = steps[:9].tolist(), steps[9:].tolist()
    assert sorted(first) == sorted(second) == list(range(10, 19))
    assert first != second


@pytest.mark.parametrize("augmentation", ["none", "crop_and_flip"])
def test_the_dense_model_sees_the_images_that_the_student_sees(augmentation: Any) -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[5], hidden_sizes=[4], num_labels=3)).eval()
    layered, seen = LayeredModel(model, find_stack(model), "image_classification"), list[Tensor]()
    data = list(Batch({"pixel_values": torch.randn(16, 3, 8, 8)}, torch.arange(16) % 3).split(12))
    model.conv1.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    heal(layered, data, Variant((2,)), Training(Healing(1, alpha=1.0, trained="all", augmentation=augmentation)))
    teacher, student = (images for images in seen if len(images) == 12)
    assert torch.equal(teacher, student)
    whole = {image.numpy().tobytes() for image in data[0].inputs["pixel_values"]}
    assert ({image.contiguous().numpy().tobytes() for image in student} == whole) == (augmentation == "none")


def test_texts_are_not_cropped() -> None:
    model = LayeredModel(build(), "model.layers", "causal_lm")
    require_trainable(Healing(0, augmentation="crop_and_flip"), model)
    with pytest.raises(UnsupportedArchitecture, match="no images to crop and flip"):
        require_trainable(Healing(1, augmentation="crop_and_flip"), model)


@pytest.mark.parametrize(("name", "labels"), [("BertForQuestionAnswering", 2), ("BertForSequenceClassification", 1)])
def test_labels_that_are_no_classes_are_not_smoothed(name: str, labels: int) -> None:
    model = build(name, num_labels=labels)
    layered = LayeredModel(model, find_stack(model), task_of(type(model), model.config))
    require_trainable(Healing(0, label_smoothing=0.1), layered)
    require_trainable(Healing(1), layered)
    with pytest.raises(UnsupportedArchitecture, match="chooses no class"):
        require_trainable(Healing(1, label_smoothing=0.1), layered)


def _numbered(count: int) -> Tensor:
    """Windows of 7 tokens that each have another first token."""
    return torch.cat([torch.arange(10, 10 + count)[:, None], torch.full((count, 6), 5)], 1)


@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
@pytest.mark.parametrize("alpha", [1.0, 0.0])
def test_healing_makes_the_pruned_model_better_and_leaves_the_dense_one_as_it_was(alpha: float, trained: Any) -> None:
    model, data = build(), batches(16)
    before = weights_of(model)
    recorder = Recorder()
    healed = heal(
        LayeredModel(model, "model.layers", "causal_lm"),
        data,
        Variant((2, 3), {}),
        Training(Healing(24, 3e-3, alpha, trained), seed=0),
        recorder.phase(),
    )
    assert all(torch.equal(p, before[n]) and p.requires_grad and p.grad is None for n, p in model.named_parameters())
    assert recorder.done == list(range(len(recorder.done)))
    assert len(recorder.done) > healed.step
    figures = [point.kl if alpha else point.loss for point in healed.curve]
    assert [point.step for point in healed.curve][:3] == [0, 3, 6]
    assert min(figures) < figures[0]
    assert healed.curve[figures.index(min(figures))].step == healed.step

    judged = split(data)[1]
    variants = {"healed": Variant((2, 3), healed.changes)}
    quality = evaluate(LayeredModel(model, "model.layers", "causal_lm"), judged, variants)["healed"]
    assert quality.kl == pytest.approx(next(p.kl for p in healed.curve if p.step == healed.step))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_gain_is_that_of_the_kept_weights_window_by_window(alpha: float) -> None:
    model, data = build(), batches(16)
    given = {"model.norm.weight": torch.full((32,), 1.01)}
    training = Training(Healing(24, 3e-3, alpha))
    healed = heal(LayeredModel(model, "model.layers", "causal_lm"), data, Variant((2, 3), given), training)
    windows = next(rebatch(split(data)[1], 64))
    figures = []
    for changes in (given, healed.changes):
        with torch.no_grad():
            dense = logits_of(model, windows)[:, :-1].double().log_softmax(-1)
            cut = copy.deepcopy(model)
            apply(cut, changes)
            remove_layers(cut, "model.layers", (2, 3))
            pruned = logits_of(cut, windows)[:, :-1].double().log_softmax(-1)
        nats = -pruned.gather(-1, windows.labels[:, 1:, None])[..., 0]
        divergence = (dense.exp() * (dense - pruned)).sum(-1)
        figures.append((alpha * divergence + (1 - alpha) * nats).mean(1).numpy())
    differences = figures[0] - figures[1]
    assert healed.step > 0
    assert len(differences) == healed.judged_windows == 16
    assert healed.gain is not None
    assert healed.gain.low is not None
    assert healed.gain.high is not None
    # 2.131450 is Student's t of 15 degrees of freedom.
    margin = 2.131450 * differences.std(ddof=1) / 4
    assert healed.gain.mean == pytest.approx(differences.mean(), abs=1e-5)
    assert healed.gain.low == pytest.approx(differences.mean() - margin, abs=1e-5)
    assert healed.gain.high == pytest.approx(differences.mean() + margin, abs=1e-5)


def test_a_better_model_is_kept_although_it_may_be_by_chance() -> None:
    # Tokens drawn at random teach nothing of other ones.
    training, data = Training(Healing(8, 1e-3, 0.0)), batches(4)
    healed = heal(LayeredModel(build(), "model.layers", "causal_lm"), data, Variant((2, 3)), training)
    assert healed.step > 0
    assert healed.gain is not None
    assert healed.gain.low is not None
    assert healed.gain.low < 0 < healed.gain.mean


@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
def test_training_that_only_harms_gives_back_what_was_given(trained: Any) -> None:
    # Nothing diverges less from the dense model than itself.
    given: dict[str, Tensor] = {}
    healed = heal(
        LayeredModel(build(), "model.layers", "causal_lm"),
        batches(),
        Variant((), given),
        Training(Healing(80, 0.01, trained=trained)),
    )
    assert healed.changes is given
    assert (healed.step, healed.gain) == (0, None)
    assert [point.step for point in healed.curve] == [*range(0, 81, 10)]


def test_no_steps_and_no_second_window_train_nothing() -> None:
    model, given = build(), {"model.norm.weight": torch.ones(32)}
    assert (
        heal(
            LayeredModel(model, "model.layers", "causal_lm"), batches(), Variant((2,), given), Training(Healing())
        ).changes
        is given
    )
    one = [batches(1)[0].rows(0, 1)]
    assert (
        heal(LayeredModel(model, "model.layers", "causal_lm"), one, Variant((2,), given), Training(Healing(5))).changes
        is given
    )


@pytest.mark.parametrize("trained", ["neighbours", "lora", "all"])
def test_half_precision_is_trained_in_single_and_handed_back_in_half(trained: Any) -> None:
    model = build().bfloat16()
    healed = heal(
        LayeredModel(model, "model.layers", "causal_lm"),
        batches(),
        Variant((2, 3), {}),
        Training(Healing(16, 3e-3, trained=trained)),
    )
    assert healed.step > 0
    assert {tensor.dtype for tensor in healed.changes.values()} == {torch.bfloat16}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": -1}, "steps"),
        ({"learning_rate": 0.0}, "rate"),
        ({"alpha": 1.5}, "must lie between 0.0 and 1.0"),
        ({"temperature": math.nan}, "must lie between 0.1 and 100.0"),
        ({"label_smoothing": -0.1}, "must lie between 0.0 and 0.9"),
        ({"optimizer": "magic"}, "must be one of adamw, sgd"),
        ({"epochs": -1}, "must not be negative"),
        ({"max_seconds": 0.0}, "max_seconds must be a positive number"),
        ({"steps": 1, "epochs": 1}, "not both"),
        ({"source": "self"}, "a file or folder"),
        ({"batch_size": 0}, "at least one sample"),
        ({"trained": "some"}, "must be one of neighbours, lora, all"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Healing(**options)
