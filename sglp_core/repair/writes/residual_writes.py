"""What a layer adds to the residual stream, and which parameters make it. `write_finder.py` finds it."""

from dataclasses import dataclass
from typing import Any, Literal

from sglp_core.structure.layer_calls import KeywordArguments


class CannotFold(Exception):
    """Why a repair cannot be folded into this layer; the message is a reason for the report."""

    def kept(self) -> "CannotFold":
        """The same reason without its traceback and cause, which keep everything alive that they went through."""
        return CannotFold(str(self))


@dataclass(frozen=True)
class OutputParameter:
    """A parameter whose `axis` is the channels of what it makes: mapping it along that axis maps what it makes."""

    name: str
    axis: int


@dataclass(frozen=True)
class Mixture:
    """The parameters that make the output of a block of experts: the down projections of all of them, and their biases.

    A constant added to all rows of the `bias` changes the block's output by `bias_reach` times that constant at every
    position; None where there is no such parameter. `shared` is the projection of an expert that takes part at every
    position with the same weight, if there is one.
    """

    parameters: tuple[OutputParameter, ...]
    bias: OutputParameter | None = None
    bias_reach: float = 0.0
    shared: "Write | None" = None


@dataclass(frozen=True)
class Write:
    """A module whose output times `gain` is added to the residual stream.

    `operation` says how its parameters make the output: `linear` (`nn.Linear`), `conv1d` (transformers' `Conv1D`, whose
    weight is `[in, out]`), `norm`: (weight + `offset`) · normalised (+ bias), elementwise, or `mixture`, with the
    parameters of that.
    """

    module: str
    gain: float
    operation: Literal["linear", "conv1d", "norm", "mixture"]
    offset: float = 0.0
    mixture: Mixture | None = None


@dataclass(frozen=True)
class LayerWrites:
    """The writes of one layer, the last first; `whole` where the last one alone is the layer's output (post-norm)."""

    modules: tuple[Write, ...]
    whole: bool


@dataclass(frozen=True)
class LayerCall:
    """The arguments of one call of a layer, or of a module in it."""

    args: tuple[Any, ...]
    kwargs: KeywordArguments
