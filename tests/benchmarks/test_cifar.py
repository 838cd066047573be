"""The published rule against its definition, and public checkpoints as model directories."""

from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from benchmarks.cifar_models import CLASSES, write_model
from benchmarks.subset_grad_norm import shares, subset_grad_norm
from sglp_core.architectures import CifarResNetConfig, CifarResNetForImageClassification
from sglp_core.structure.layer_stack import find_stack
from sglp_core.structure.runs import Segment
from sglp_core.tasks import Batch

DATA = Path(__file__).parents[3] / "shared/data"


def norm_without(state: dict[str, Any], block: tuple[int, ...], batch: Batch) -> float:
    """Gradient norm of a network built small, whose first stage has all blocks but those, with the trained weights."""
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[5 - len(block), 1], hidden_sizes=[4, 8]))
    kept = [i for i in range(5) if i not in block]
    names = {f"layer1.{old}.": f"layer1.{new}." for new, old in enumerate(kept)}
    small = {n: t for n, t in state.items() if not n.startswith("layer1.")}
    small |= {new + n[len(old) :]: t for old, new in names.items() for n, t in state.items() if n.startswith(old)}
    model.load_state_dict(small)
    loss = nn.functional.cross_entropy(model.train()(**batch.inputs).logits, batch.labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return float(torch.cat([gradient.flatten() for gradient in gradients]).norm())


def test_the_published_rule_keeps_the_subset_with_the_largest_gradient_norm() -> None:
    torch.manual_seed(0)
    model = CifarResNetForImageClassification(CifarResNetConfig(depths=[5, 1], hidden_sizes=[4, 8])).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    batch = Batch({"pixel_values": torch.randn(6, 3, 16, 16)}, torch.arange(6))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = subset_grad_norm(model, find_stack(model), [Segment(0, 5)], 2, batch, subsets=10)
    assert found == max(combinations(range(5), 2), key=lambda block: norm_without(state, block, batch))
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_segments_give_in_proportion_to_what_they_have_beyond_one_layer() -> None:
    assert shares([8, 4, 0], 6) == [4, 2, 0]
    assert shares([1, 1, 1], 2) == [1, 1, 0]
    with pytest.raises(ValueError, match="only 12 to give"):
        shares([8, 4, 0], 13)


def test_a_public_checkpoint_becomes_a_model_directory(tmp_path: Path) -> None:
    weights = DATA / "cifar10-resnets/resnet20.safetensors"
    if not weights.is_file():
        pytest.skip(f"there are no public CIFAR-10 weights in {DATA.name}")
    directory = write_model(weights, tmp_path / "resnet20")
    model, info = AutoModelForImageClassification.from_pretrained(directory, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.depths == [3, 3, 3]
    assert [model.config.id2label[number] for number in range(10)] == list(CLASSES)
    white = AutoImageProcessor.from_pretrained(directory)(torch.full((3, 32, 32), 255.0), return_tensors="pt")
    expected = (1 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(white["pixel_values"][0].mean((1, 2)), expected, atol=1e-4)
