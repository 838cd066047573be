"""Which parameters make the output of a block of experts, found by what they do and not by what they are called.

The output of such a block is a sum over experts: a weight of the router times a down projection of what that expert
computes. A map of the output is the same map of every down projection, stored one by one or all as one tensor. So a
parameter belongs to them if mapping it along one of its axes maps its share of the output, and the output is all theirs
if nothing is left when they are zero.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sglp_core.execution.weight_changes import swapped
from sglp_core.repair.writes.residual_writes import CannotFold, LayerCall, Mixture, OutputParameter
from sglp_core.structure.layer_calls import layer_output


@torch.no_grad()
def find_mixture(block: nn.Module, prefix: str, call: LayerCall, tolerance: float) -> Mixture | None:
    """The parameters of a float64 block that make its output; None where they do not make all of it linearly.

    `block` is a copy, in which parameters that are zero get other values. Names begin with `prefix`. Raises
    `CannotFold` where a parameter does nothing in this call, nor any like it.
    """
    for parameter in block.parameters():
        if not parameter.any():
            parameter.normal_(generator=torch.Generator(parameter.device).manual_seed(0))
    probe = _Probe(block, call, tolerance)
    if not probe.output.any():
        return None
    axes: dict[str, int | None] = {}
    idle: list[str] = []
    for name, parameter in block.named_parameters():
        if probe.size in parameter.shape:
            without = probe.run({name: torch.zeros_like(parameter)})
            if torch.equal(without, probe.output):
                idle.append(name)
            else:
                axes[name] = probe.axis(name, without)
    # Experts that no position of the probe was sent to are like the others of their list.
    like = {_place(block, name): axis for name, axis in axes.items()}
    for name in idle:
        if _place(block, name) not in like:
            raise CannotFold(f"{prefix}{name} does nothing on the probe, so whether its output is written is not known")
        axes[name] = like[_place(block, name)]
    parameters = tuple(OutputParameter(name, axis) for name, axis in axes.items() if axis is not None)
    if not probe.makes_all(parameters):
        return None
    named = {each: replace(each, name=prefix + each.name) for each in parameters}
    for each in parameters:
        reach = probe.reach(each)
        if reach:
            return Mixture(tuple(named.values()), named[each], reach)
    return Mixture(tuple(named.values()))


def along(channels: Tensor, tensor: Tensor, axis: int) -> Tensor:
    """Values `[D]` in the shape in which they count along one axis of a tensor; a single number as it is."""
    if channels.ndim == 0:
        return channels
    shape = [1] * tensor.ndim
    shape[axis] = len(channels)
    return channels.view(shape)


class _Probe:
    """The block's output `[..., D]` on one call, as it is and with other parameters."""

    def __init__(self, block: nn.Module, call: LayerCall, tolerance: float) -> None:
        self._block, self._call, self._tolerance = block, call, tolerance
        self.output = self.run({})
        self.size = self.output.shape[-1]
        generator = torch.Generator().manual_seed(0)
        self._factors = (0.5 + torch.rand(self.size, generator=generator, dtype=torch.float64)).to(self.output.device)

    def run(self, changes: dict[str, Tensor]) -> Tensor:
        with swapped(self._block, changes):
            return layer_output(self._block(*self._call.args, **self._call.kwargs)).clone()

    def axis(self, name: str, without: Tensor) -> int | None:
        """The axis along which a map of the parameter maps its share: what the output has beyond that `without` it."""
        parameter, share = self._block.get_parameter(name), self.output - without
        expected = self._mapped(share, -1)
        for axis in range(parameter.ndim):
            if parameter.shape[axis] == self.size:
                mapped = self.run({name: self._mapped(parameter, axis)}) - without
                if self._near(mapped, expected, share):
                    return axis
        return None

    def makes_all(self, parameters: tuple[OutputParameter, ...]) -> bool:
        """Whether mapping all of them maps the output, and nothing is left without them."""
        tensors = {each: self._block.get_parameter(each.name) for each in parameters}
        mapped = self.run({each.name: self._mapped(tensor, each.axis) for each, tensor in tensors.items()})
        without = self.run({each.name: torch.zeros_like(tensor) for each, tensor in tensors.items()})
        expected = self._mapped(self.output, -1)
        return self._near(mapped, expected, self.output) and self._near(without, 0 * without, self.output)

    def reach(self, parameter: OutputParameter) -> float:
        """How much of a constant that is added along its axis is added to the output; 0 if that differs by position."""
        tensor = self._block.get_parameter(parameter.name)
        constant = self._factors * self.output.std()
        change = self.run({parameter.name: tensor + along(constant, tensor, parameter.axis)}) - self.output
        reach = float((change @ constant).mean() / (constant @ constant))
        same = self._near(change, (reach * constant).expand_as(change), constant)
        return reach if same and abs(reach) > self._tolerance else 0.0

    def _near(self, measured: Tensor, expected: Tensor, scale: Tensor) -> bool:
        return float((measured - expected).abs().max()) <= self._tolerance * float(scale.abs().max())

    def _mapped(self, tensor: Tensor, axis: int) -> Tensor:
        """A map of the channels that no elementwise operation and no mere permutation commutes with."""
        return tensor.roll(1, axis) * along(self._factors, tensor, axis)


def _place(block: nn.Module, name: str) -> str:
    """The name with a star for the number of an item in a module list."""
    parts = name.split(".")
    for position in range(1, len(parts)):
        if isinstance(block.get_submodule(".".join(name.split(".")[:position])), nn.ModuleList):
            parts[position] = "*"
    return ".".join(parts)
