"""Several variants of a model in one walk over its layers.

Variants share their hidden states until they differ. Those that keep a layer with the same weights go through it
together, as one batch.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sglp_core.execution.available_memory import free_bytes
from sglp_core.execution.intermediates import Intermediates
from sglp_core.execution.layered_model import LayeredModel
from sglp_core.execution.layerwise import Layerwise
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes, swapped
from sglp_core.tasks import IGNORED, WHOLE_SAMPLES, Batch

# Numbers in the hidden states of one call of a layer on the CPU: enough to keep it busy, few enough for its memory.
NUMBERS_AT_ONCE = 2**22
# As many logits, for all samples and variants of one call.
LOGITS_AT_ONCE = 2**24
# Of both on another device, where each takes so many bytes of its free memory.
NUMBERS_ON_DEVICE = 2**26
BYTES_A_NUMBER = 64
# Of both with weights on disk: a few windows of a small model, and one of a larger one.
NUMBERS_FROM_DISK = 2**19

# The hidden states of each batch, by its number.
States = dict[int, Tensor]


@dataclass(eq=False)
class Track:
    """A variant on its way through the layers: what is removed and changed, and its hidden states where it is.

    Tracks with the same object as `states` have not differed so far.
    """

    removed: frozenset[int]
    changes: dict[str, Tensor]
    states: States


class Piece(NamedTuple):
    """Labels of a part of a batch, and the logits of each variant in order; `first` is the number of its first sample
    in the batch."""

    first: int
    labels: Tensor
    logits: Iterator[Tensor]


class Walk:
    """One walk over the layers with some batches; call its methods in the order of the layers."""

    def __init__(self, model: LayeredModel, layerwise: Layerwise, batches: Sequence[Batch]) -> None:
        self.model, self.batches, self._layerwise = model, batches, layerwise
        self._path = model.path
        self._intermediates: Intermediates = model.intermediates
        self.entered = model.entered(batches)
        self._entry: States = {number: each.hidden for number, each in enumerate(self.entered)}

    def track(self, variant: Variant) -> Track:
        """A variant at the entry."""
        states, outside = self._entry, self._outside(variant.changes)
        if outside:
            with self.outside(), swapped(self.model.model, outside):
                entered = [self._layerwise.enter(each.batch) for each in self.entered]
            same = zip(entered, self.entered, strict=True)
            if not all(torch.equal(new.hidden, old.hidden.to(new.hidden.device)) for new, old in same):
                states = {number: self.keep(each.hidden) for number, each in enumerate(entered)}
        return Track(frozenset(variant.removed), dict(variant.changes), states)

    def keep(self, tensor: Tensor) -> Tensor:
        """The tensor, or a copy of it where there is room."""
        return self._intermediates.keep(tensor)

    @contextmanager
    def layer(self, index: int) -> Iterator[nn.Module]:
        """The layer with its weights on the device."""
        with self._layerwise.layer(index) as layer:
            yield layer

    @torch.no_grad()
    def advance(self, index: int, tracks: Iterable[Track]) -> None:
        """Take all tracks through one layer; those without it stay as they are."""
        together: dict[tuple[object, ...], dict[int, list[Track]]] = {}
        for track in tracks:
            if index not in track.removed:
                own = self.of_layer(index, track.changes)
                key = tuple((name, id(value)) for name, value in sorted(own.items()))
                together.setdefault(key, {}).setdefault(id(track.states), []).append(track)
        if not together:
            return
        with self.layer(index) as layer:
            for sharing in together.values():
                groups = list(sharing.values())
                with swapped(self.model.model, self.of_layer(index, groups[0][0].changes)):
                    after = self._through(index, layer, [group[0].states for group in groups])
                for group, states in zip(groups, after, strict=True):
                    for track in group:
                        track.states = states

    @torch.no_grad()
    def restore_lengths(self, index: int, dense: Track, tracks: Iterable[Track]) -> None:
        """Make the streams as long as the dense model's, on average, where a cut ends with this layer.

        Later layers then get what they get after `compensate` (sglp_core/repair), which makes their writes smaller.
        """
        ended = [track for track in tracks if index in track.removed and index + 1 not in track.removed]
        after: dict[int, tuple[States, States]] = {}
        for track in ended:
            before = track.states
            if id(before) not in after:
                after[id(before)] = before, {n: self._as_long(n, each, dense.states[n]) for n, each in before.items()}
            track.states = after[id(before)][1]

    def _as_long(self, number: int, hidden: Tensor, dense: Tensor) -> Tensor:
        hidden, dense = hidden.to(self.model.device), dense.to(self.model.device)
        counted, first = self.positions(number, hidden)
        ratio = dense.float().norm(dim=-1) / hidden.float().norm(dim=-1).clamp_min(1e-30)
        return self.keep(hidden * ratio[counted & ~first].mean().to(hidden.dtype))

    def positions(self, number: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Masks `[B, T]` of the positions of a batch that are not padding, and of the first position of each text."""
        mask = self.entered[number].batch.inputs.get("attention_mask")
        counted = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device) if mask is None else mask.bool()
        first = torch.zeros_like(counted)
        first[:, 0] = mask is not None
        return counted, first

    @torch.no_grad()
    def rerun(self, index: int, number: int, before: Tensor, changes: Changes) -> Tensor:
        """The output of a layer for one batch that enters it as `before`, with these changes of its weights."""
        hidden = before.to(self.model.device)
        with self.layer(index) as layer, swapped(self.model.model, self.of_layer(index, changes)):
            return self.entered[number].calls[index].run(layer, hidden)

    def exit(
        self, tracks: Sequence[Track], number: int, every: int = 1, *, divides_samples: bool = False
    ) -> Iterator[Piece]:
        """A few samples of a batch at a time, with the logits of each track; call inside `outside()`.

        Of a causal language model only every so many positions are computed, and labels are those that these predict,
        in their place. With `divides_samples`, only as many positions of it at a time as there is room for beside the
        head, where the weights are on disk; then the last row of every piece is the one before it once more.
        """
        labels, positions = self.entered[number].batch.labels, None
        divides_samples = divides_samples and not self.model.weights.in_memory
        if self.model.task == "causal_lm" and (divides_samples or every > 1):
            looked_at = torch.arange(every // 2, labels.shape[1], every, device=labels.device)
            if divides_samples:
                yield from self._exit_by_positions(tracks, number, looked_at)
                return
            labels, positions = _predicted(labels, looked_at)
        # The inputs enter the model once more with each track, and those of images are larger than their logits.
        inputs = max(each[0].numel() for each in self.entered[number].batch.inputs.values())
        numbers = max(inputs, self._logits_of_a_sample(labels))
        at_once = max(1, self._at_once(LOGITS_AT_ONCE) // numbers)
        for first in range(0, len(labels), at_once):
            samples = slice(first, first + at_once)
            tracks_at_once = max(1, at_once // len(labels[samples]))
            yield Piece(first, labels[samples], self._logits(tracks, number, samples, positions, tracks_at_once))

    def _logits_of_a_sample(self, labels: Tensor) -> int:
        if self.model.task in WHOLE_SAMPLES:
            # Two for each label, or for each token, of which the inputs have as many.
            return 2 * int(getattr(self.model.model.config, "num_labels", 1))
        return labels.shape[1] * self._layerwise.classes

    def _exit_by_positions(self, tracks: Sequence[Track], number: int, looked_at: Tensor) -> Iterator[Piece]:
        entered = self.entered[number]
        for sample in range(len(entered.batch.labels)):
            samples = slice(sample, sample + 1)
            for some in looked_at.split(self._layerwise.positions_at_once(1)):
                labels, positions = _predicted(entered.batch.labels[samples], some)
                yield Piece(sample, labels, self._logits(tracks, number, samples, positions, 1))

    @torch.no_grad()
    def _logits(
        self, tracks: Sequence[Track], number: int, samples: slice, positions: Tensor | None, at_once: int
    ) -> Iterator[Tensor]:
        batch = self.entered[number].batch.rows(samples.start, samples.stop)
        for group in self._with_same_exit(tracks, at_once):
            hidden = torch.cat([track.states[number][samples].to(self.model.device) for track in group])
            with swapped(self.model.model, self._outside(group[0].changes)):
                logits = self._layerwise.exit(batch.repeated(len(group)), hidden, positions)
            yield from logits.chunk(len(group))

    def _with_same_exit(self, tracks: Sequence[Track], at_once: int) -> Iterator[list[Track]]:
        """At most so many tracks in order at a time, which have the same weights outside of the layers."""
        group: list[Track] = []
        for track in tracks:
            if group and (len(group) == at_once or not _same_outside(self, group[0], track)):
                yield group
                group = []
            group.append(track)
        if group:
            yield group

    @contextmanager
    def outside(self) -> Iterator[None]:
        """What is outside of the layers has its weights on the device."""
        with self._layerwise.outside():
            yield

    def _through(self, index: int, layer: nn.Module, before: Sequence[States]) -> list[States]:
        after: list[States] = [{} for _ in before]
        numbers = self._at_once(NUMBERS_AT_ONCE)
        for number, entered in enumerate(self.entered):
            call = entered.calls[index]
            having = [(own, states[number]) for own, states in zip(after, before, strict=True) if number in states]
            at_once = max(1, numbers // max(1, entered.hidden.numel())) if call.samples else 1
            for first in range(0, len(having), at_once):
                part = having[first : first + at_once]
                hidden = torch.cat([state.to(self.model.device) for _, state in part])
                output = (call.repeated(len(part)) if len(part) > 1 else call).run(layer, hidden)
                for (own, _), piece in zip(part, output.chunk(len(part)), strict=True):
                    own[number] = self.keep(piece)
        return after

    def _at_once(self, on_cpu: int) -> int:
        if not self.model.weights.in_memory:
            return NUMBERS_FROM_DISK
        device = self.model.device
        return on_cpu if device.type == "cpu" else min(NUMBERS_ON_DEVICE, free_bytes(device) // BYTES_A_NUMBER)

    def of_layer(self, index: int, changes: Changes) -> dict[str, Tensor]:
        """Those of the changes that are of one layer."""
        prefix = f"{self._path}.{index}."
        return {name: value for name, value in changes.items() if name.startswith(prefix)}

    def _outside(self, changes: Changes) -> dict[str, Tensor]:
        return {name: value for name, value in changes.items() if not name.startswith(f"{self._path}.")}


def _predicted(labels: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Labels `[B, P + 1]` and the P + 1 positions of their logits.

    As in a whole text, the logits at one entry predict the label at the next, and the last predict nothing.
    """
    nothing = torch.full_like(labels[:, :1], IGNORED)
    predicted = torch.cat([labels[:, :1], torch.cat([labels, nothing], 1)[:, positions + 1]], 1)
    return predicted, torch.cat([positions, positions[-1:]])


def _same_outside(walk: Walk, one: Track, other: Track) -> bool:
    first, second = walk._outside(one.changes), walk._outside(other.changes)
    return first.keys() == second.keys() and all(first[name] is second[name] for name in first)
