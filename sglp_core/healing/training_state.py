"""The state of a healing, kept on disk, so that a run whose process was killed resumes and ends the same."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from sglp_core.data.calibration_data import CalibrationData
from sglp_core.execution.variant import Variant
from sglp_core.execution.weight_changes import Changes
from sglp_core.loading.cache_key import common_key
from sglp_core.loading.loaded_model import LoadedModel
from sglp_core.options import Healing
from sglp_core.result_cache import Cache, CachedResult, Key
from sglp_core.run_context import RunContext

# A state has four float32 values for each trained parameter; this is enough for half a billion parameters.
LIMIT_BYTES = 8 << 30


@dataclass(frozen=True)
class Judgement:
    """What held-out samples say after a number of steps: `loss` and `kl` in nats a position, and shares of positions.

    `accuracy` is the share whose most likely answer is the label, `agreement` that whose is the dense model's.
    """

    step: int
    loss: float
    kl: float
    accuracy: float
    agreement: float


@dataclass(frozen=True)
class TrainingState:
    """The trained tensors after `step` of `steps` steps, the optimiser's state of each by its number, and the curve.

    `best` are the tensors that did best so far, empty where none did better than the start. The order of the data and
    the learning rate follow from the step. `before` and `after` are the sums of each held-out sample
    (`evaluate_samples`) before the first step, and with the tensors that did best so far.
    """

    step: int
    steps: int
    tensors: Mapping[str, Tensor]
    optimizer: Mapping[int, Mapping[str, Tensor]]
    best: Mapping[str, Tensor]
    curve: tuple[Judgement, ...]
    before: Tensor
    after: Tensor


@dataclass(frozen=True)
class KeptState:
    """The entry of the cache with the state of one run. Runs of the same key may share it: they compute the same."""

    cache: Cache
    key: Key

    def find(self) -> TrainingState | None:
        """The state after most steps, on the CPU; None where there is none, or none that can be read."""
        here, received = replace(self.cache, received=None), self.cache.received
        places = [here, *([Cache(received)] if received else [])]
        # By their facts, because a state may be so large that two do not fit into memory.
        for place in sorted(places, key=self._step_in, reverse=True):
            entry = place.find(self.key)
            if entry is not None:
                return _from_cached(entry)
        return None

    def keep(self, state: TrainingState) -> None:
        """Replace the kept state by this one."""
        self.cache.keep(self.key, _to_cached(state))

    def drop(self) -> None:
        """Remove the kept state, once the run has ended."""
        self.cache.drop(self.key)

    def _step_in(self, place: Cache) -> int:
        facts = place.find_facts(self.key)
        return -1 if facts is None else int(facts["step"])


def kept_state(
    loaded: LoadedModel, data: CalibrationData, pruned: Variant, settings: Healing, context: RunContext
) -> KeptState:
    """Where the state is kept of a run with these settings, model, data, plan and repair."""
    key = common_key(loaded) | {
        "calibration": data.calibration_digest,
        "batch_size": data.batch_size,
        "data": data.healing and data.healing.digest,
        "seed": data.seed,
        "removed_layers": list(pruned.removed),
        "changes": _digest(pruned.changes),
        "healing": asdict(settings),
    }
    return KeptState(context.results("healings", LIMIT_BYTES), key)


def _digest(changes: Changes) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(changes.items()):
        # As bytes, because numpy does not know bfloat16.
        content = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        digest.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\0".encode())
    return digest.hexdigest()


def _to_cached(state: TrainingState) -> CachedResult:
    arrays = {f"tensors/{name}": tensor for name, tensor in state.tensors.items()}
    arrays |= {f"best/{name}": tensor for name, tensor in state.best.items()}
    arrays |= {"judged/before": state.before, "judged/after": state.after}
    for number, held in state.optimizer.items():
        arrays |= {f"optimizer/{number}/{name}": tensor for name, tensor in held.items()}
    facts = {"step": state.step, "steps": state.steps, "curve": [asdict(point) for point in state.curve]}
    return CachedResult({name: tensor.detach().cpu().numpy() for name, tensor in arrays.items()}, facts)


def _from_cached(entry: CachedResult) -> TrainingState:
    groups: dict[str, dict[str, Tensor]] = {"tensors": {}, "best": {}, "judged": {}}
    optimizer: dict[int, dict[str, Tensor]] = {}
    for name, array in entry.arrays.items():
        group, _, own = name.partition("/")
        if group == "optimizer":
            number, _, own = own.partition("/")
            optimizer.setdefault(int(number), {})[own] = torch.from_numpy(array)
        else:
            groups[group][own] = torch.from_numpy(array)
    return TrainingState(
        entry.facts["step"],
        entry.facts["steps"],
        groups["tensors"],
        optimizer,
        groups["best"],
        tuple(Judgement(**point) for point in entry.facts["curve"]),
        groups["judged"]["before"],
        groups["judged"]["after"],
    )
