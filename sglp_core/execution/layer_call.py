"""What a layer is called with beside the hidden states, and how that is repeated for several variants at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from sglp_core.structure.layer_calls import KeywordArguments, layer_output

# Everything else may be a place where layers leave something for each other, as a cache is.
PLAIN = (Tensor, bool, int, float, str, torch.dtype, torch.device, type(None))


class NotLayerwise(Exception):
    """Why a model cannot be run layer by layer; the message completes "the model …"."""


# The dimension of a tensor along which the samples of a batch lie; None where it is the same for all of them.
SampleDimension = int | None


@dataclass(frozen=True)
class LayerCall:
    """The arguments of a layer beside the hidden states: masks, positions and whatever else its family uses.

    `named` says that the hidden states are passed as a keyword argument. `samples` has the sample dimension of every
    tensor among the arguments, or is None where they cannot be repeated.
    """

    rest: tuple[Any, ...]
    kwargs: KeywordArguments
    named: bool
    samples: tuple[SampleDimension, ...] | None

    def run(self, layer: nn.Module, hidden: Tensor) -> Tensor:
        """The layer's output for these hidden states. Raises `NotLayerwise` where it leaves something for others."""
        output = layer(hidden_states=hidden, **self.kwargs) if self.named else layer(hidden, *self.rest, **self.kwargs)
        if any(isinstance(value, Mapping) and value for value in self.kwargs.values()):
            raise NotLayerwise("has layers that leave something for each other")
        return layer_output(output)

    def repeated(self, copies: int) -> "LayerCall":
        """The call for the same samples several times after each other."""
        assert self.samples is not None
        leaves, spec = pytree.tree_flatten((self.rest, self.kwargs))
        repeated = [
            leaf if dimension is None else torch.cat([leaf] * copies, dimension)
            for leaf, dimension in zip(leaves, self.samples, strict=True)
        ]
        rest, kwargs = pytree.tree_unflatten(repeated, spec)
        return LayerCall(rest, kwargs, self.named, self.samples)


def plain_leaves(rest: tuple[Any, ...], kwargs: KeywordArguments) -> list[Any]:
    """The values among the arguments, in a fixed order.

    Raises `NotLayerwise` where one of them is an object in which layers may leave something for each other.
    """
    leaves = pytree.tree_leaves((rest, kwargs), is_leaf=lambda value: value is None)
    strange = next((leaf for leaf in leaves if not isinstance(leaf, PLAIN) and not _is_empty(leaf)), None)
    if strange is not None:
        raise NotLayerwise(f"passes a {type(strange).__name__} to its layers")
    return pytree.tree_leaves((rest, kwargs))


def sample_dimensions(
    leaves: Sequence[Any], with_one_more: Sequence[Any], samples: int
) -> tuple[SampleDimension, ...] | None:
    """The sample dimension of every argument, from those of a batch and those of the batch with one sample more."""
    found: list[SampleDimension] = []
    if len(leaves) != len(with_one_more):
        return None
    for leaf, larger in zip(leaves, with_one_more, strict=True):
        if not isinstance(leaf, Tensor) or not isinstance(larger, Tensor):
            if isinstance(leaf, Tensor) or isinstance(larger, Tensor) or not (leaf == larger or _is_empty(leaf)):
                return None
            found.append(None)
            continue
        if leaf.ndim != larger.ndim:
            return None
        differing = [d for d, (a, b) in enumerate(zip(leaf.shape, larger.shape, strict=True)) if a != b]
        if not differing:
            found.append(None)
        elif len(differing) == 1 and leaf.shape[differing[0]] * (samples + 1) == larger.shape[differing[0]] * samples:
            # Where a sample has several entries, as one for each head, those of a sample lie together.
            found.append(differing[0])
        else:
            return None
    return tuple(found)


def _is_empty(value: object) -> bool:
    """Whether it is a mapping in which nothing was left; `LayerCall.run` looks whether that stays so."""
    return isinstance(value, Mapping) and not value
