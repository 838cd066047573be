"""The form in which a repair can go into each layer of a stack: its writes, looked for when first asked for."""

from dataclasses import replace

from sglp_core.repair.residual_stream import calls_of
from sglp_core.repair.residual_writes import Write, Writes, find_inside, find_writes
from sglp_core.structure.layered_model import LayeredModel
from sglp_core.tasks import Batch

PROBE_ROWS, PROBE_TOKENS = 2, 16


class Forms:
    """The writes of the layers of a model with one stack, found on a probe of a few positions of a batch."""

    def __init__(self, model: LayeredModel, batch: Batch) -> None:
        self.layered, self.model, self.path, self.layers = model, model.model, model.path, model.layers
        probe = batch.rows(0, PROBE_ROWS)
        short = {n: t[:, :PROBE_TOKENS] if t.ndim == 2 else t for n, t in probe.inputs.items()}
        self.probe = replace(probe, inputs=short)
        self._calls = calls_of(model, self.probe)
        self._found: dict[int, Writes] = {}

    def writes(self, index: int) -> Writes:
        """Raises `NoForm`."""
        if index not in self._found:
            self._found[index] = find_writes(self.layers[index], f"{self.path}.{index}", self._calls[index])
        return self._found[index]

    def inside(self, index: int, norm: Write) -> Write:
        """The projection that goes into that norm. Raises `NoForm`."""
        name = f"{self.path}.{index}"
        return find_inside(self.layers[index], name, self._calls[index], norm.module.removeprefix(f"{name}."))
