"""Finds the writes of each layer of a stack when they are first needed, and keeps them."""

from dataclasses import replace

from sglp_core.repair.residual_stream import calls_of
from sglp_core.repair.residual_writes import LayerWrites, Write, find_projection, find_writes
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch

PROBE_ROWS, PROBE_TOKENS = 2, 16


class WriteFinder:
    """The writes of the layers of a model with one stack, found on a probe of a few positions of a batch."""

    def __init__(self, model: LayeredModel, batch: Batch) -> None:
        self.layered, self.model, self.path, self.layers = model, model.model, model.path, model.layers
        probe = batch.rows(0, PROBE_ROWS)
        short = {n: t[:, :PROBE_TOKENS] if t.ndim == 2 else t for n, t in probe.inputs.items()}
        self.probe = replace(probe, inputs=short)
        self._calls = calls_of(model, self.probe)
        self._writes: dict[int, LayerWrites] = {}

    def writes(self, index: int) -> LayerWrites:
        """Raises `CannotFold`."""
        if index not in self._writes:
            self._writes[index] = find_writes(self.layers[index], f"{self.path}.{index}", self._calls[index])
        return self._writes[index]

    def projection_before(self, index: int, norm: Write) -> Write:
        """The projection whose output that norm of the layer takes. Raises `CannotFold`."""
        name = f"{self.path}.{index}"
        return find_projection(self.layers[index], name, self._calls[index], norm.module.removeprefix(f"{name}."))
