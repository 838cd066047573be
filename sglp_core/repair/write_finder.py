"""The writes of all layers of a stack, and whether each layer undoes a factor of the stream that enters it."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sglp_core.evaluation.logits import difference
from sglp_core.execution.layer_call import LayerCall as WalkCall
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.layerwise import Layerwise
from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.fold import shrink
from sglp_core.repair.writes.find import find_projection, find_writes
from sglp_core.repair.writes.residual_writes import CannotFold, LayerCall, LayerWrites, Write
from sglp_core.tasks import Batch

PROBE_ROWS, PROBE_TOKENS = 2, 16
# A stream smaller by this factor may make a difference of this size, relative, because of the epsilon of the norms. A
# power of two is rounded to the same digits, so that half types show no other difference.
FACTOR = 2.0
FOLD_TOLERANCE = 5e-2


class WriteFinder:
    """The writes of the layers of a model with one stack, found on a probe of a few positions of a batch.

    They are found while the layers are on the device for something else, so a finder that is made early costs no pass
    over the weights.
    """

    def __init__(self, model: LayeredModel, batch: Batch) -> None:
        self.layered, self.path = model, model.path
        probe = batch.rows(0, PROBE_ROWS)
        short = {n: t[:, :PROBE_TOKENS] if t.ndim == 2 else t for n, t in probe.inputs.items()}
        labels = probe.labels[:, :PROBE_TOKENS] if probe.labels.ndim == 2 else probe.labels
        self._probe = Batch(short, labels)
        self._seen: _Survey | None = None

    @property
    def model(self) -> Any:
        """The module whose writes are found; not held here, so that its weights go when the model is released."""
        return self.layered.model

    @property
    def layers(self) -> nn.ModuleList:
        """Its layers."""
        return self.layered.layers

    def start(self, batches: Sequence[Batch] = ()) -> None:
        """Look at each layer when it is next on the device, rather than in a pass over the weights for this alone.

        The `batches` enter the model with the probe, so that what comes before the layers is needed once for all.
        """
        if self._seen is None:
            entered = self.layered.entered([*batches, self._probe])[-1]
            # It may have been kept elsewhere.
            self._seen = _Survey(entered.calls, entered.hidden.to(self.layered.device))
            self._layerwise.visit_layers(partial(self._look_at, self._seen))

    def writes(self, index: int) -> LayerWrites:
        """Raises `CannotFold`."""
        writes = self._survey.writes[index]
        if isinstance(writes, CannotFold):
            raise CannotFold(str(writes))
        return writes

    def require_undone(self, layers: Iterable[int]) -> None:
        """Raise `CannotFold` where one of the layers, or what follows them (numbered as one more layer), gives
        something else on a stream that is multiplied by a factor, when its writes are too."""
        for index in layers:
            error = self._survey.errors[index]
            if isinstance(error, CannotFold):
                raise CannotFold(str(error))
            if not error <= FOLD_TOLERANCE:
                raise CannotFold(f"what follows the cut does not undo a factor: outputs differ by {error:.1e}")

    def undoes_factors(self) -> bool:
        """Whether every layer, and what follows them, gives the same on a stream that is multiplied by a factor, when
        writes are too."""
        try:
            self.require_undone(range(len(self.layers) + 1))
        except CannotFold:
            return False
        return not any(writes.whole for writes in map(self.writes, range(len(self.layers))))

    def projection_before(self, index: int, norm: Write) -> Write:
        """The projection whose output that norm of the layer takes. Raises `CannotFold`."""
        name = f"{self.path}.{index}"
        with self._layerwise.layer(index) as layer:
            call = self._survey.calls[index]
            return find_projection(layer, name, call, norm.module.removeprefix(f"{name}."))

    @property
    def _layerwise(self) -> Layerwise:
        assert self.layered.layerwise is not None
        return self.layered.layerwise

    @property
    def _survey(self) -> "_Survey":
        """What is known of all layers; those that no walk has come to yet are brought to the device now."""
        self.start()
        assert self._seen is not None
        survey = self._seen
        for index in range(len(survey.writes), len(self.layers)):
            with self._layerwise.layer(index):
                assert len(survey.writes) == index + 1
        if len(survey.errors) == len(self.layers):
            with self._layerwise.outside(), torch.no_grad():
                hidden = survey.hidden
                logits, of_smaller = (self._layerwise.exit(self._probe, each) for each in (hidden, hidden / FACTOR))
            survey.errors.append(difference(of_smaller, logits))
        return survey

    @torch.no_grad()
    def _look_at(self, survey: "_Survey", index: int) -> None:
        """Take the probe through a layer that is on the device."""
        layer, call, hidden = self.layers[index], survey.entry[index], survey.hidden
        args = () if call.named else (hidden, *call.rest)
        kwargs = {**call.kwargs, "hidden_states": hidden} if call.named else call.kwargs
        survey.calls.append(LayerCall(args, kwargs))
        survey.hidden = call.run(layer, hidden)
        writes: LayerWrites | CannotFold
        try:
            writes = find_writes(layer, f"{self.path}.{index}", survey.calls[index])
        except CannotFold as reason:
            writes = reason.kept()
        survey.writes.append(writes)
        survey.errors.append(self._error(writes, partial(call.run, layer), hidden, survey.hidden))

    def _error(
        self, writes: LayerWrites | CannotFold, run: Callable[[Tensor], Tensor], hidden: Tensor, after: Tensor
    ) -> float | CannotFold:
        """How far the layer with smaller writes on a smaller stream is from its smaller output, or why they cannot be
        made smaller."""
        if isinstance(writes, CannotFold):
            return writes
        if writes.whole:
            return 0.0
        try:
            smaller = shrink(self.model, writes, FACTOR)
        except CannotFold as reason:
            return reason.kept()
        with swapped(self.model, smaller):
            return difference(FACTOR * run(hidden / FACTOR), after)


@dataclass
class _Survey:
    """By layer: its call on the probe, its writes, and how far it is from undoing a factor, or why that was not
    measured; the last error is that of what follows the layers. `hidden` leaves the last layer that was seen, and
    `entry` has the calls as the walk has them."""

    entry: Sequence[WalkCall]
    hidden: Tensor
    calls: list[LayerCall] = field(default_factory=list)
    writes: list[LayerWrites | CannotFold] = field(default_factory=list)
    errors: list[float | CannotFold] = field(default_factory=list)
