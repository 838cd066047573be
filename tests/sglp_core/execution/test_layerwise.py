"""Layers that return something beside their hidden states run one by one where nothing is made of it."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from sglp_core.execution.layer_call import NotLayerwise
from sglp_core.execution.layerwise import Layerwise
from sglp_core.execution.weights import ResidentWeights
from sglp_core.tasks import Batch


class Layer(nn.Module):
    """Returns a bias, as the layers of T5 do, beside its hidden states."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, hidden_states: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if bias is None:
            bias = hidden_states.mean(-1, keepdim=True)
        return hidden_states + self.linear(hidden_states) + bias, bias


class Model(nn.Module):
    device, dtype, config = torch.device("cpu"), torch.float32, transformers.PretrainedConfig()

    def __init__(self, *, passes_on: bool) -> None:
        super().__init__()
        self.passes_on = passes_on
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.layers = nn.ModuleList(Layer() for _ in range(3))

    def forward(self, input_ids: Tensor) -> Any:
        hidden, bias = self.embedding(input_ids), None
        for layer in self.layers:
            hidden, bias = layer(hidden, bias=2 * bias if self.passes_on and bias is not None else None)
        return SimpleNamespace(logits=self.head(hidden))


def layerwise_logits(model: Model, batch: Batch) -> Tensor:
    layerwise = Layerwise(model, model.layers, ResidentWeights(model))
    entered = layerwise.enter(batch)
    hidden = entered.hidden
    for layer, call in zip(model.layers, entered.calls, strict=True):
        hidden = call.run(layer, hidden)
    return layerwise.exit(batch, hidden)


@torch.no_grad()
def test_what_layers_return_beside_their_hidden_states_must_not_reach_other_layers() -> None:
    ids = torch.randint(20, (2, 5), generator=torch.Generator().manual_seed(0))
    batch = Batch({"input_ids": ids}, ids)
    model = Model(passes_on=False)
    torch.testing.assert_close(layerwise_logits(model, batch), model(ids).logits)
    with pytest.raises(NotLayerwise, match="passes on what its layers return"):
        layerwise_logits(Model(passes_on=True), batch)
