"""The proof that the written model loads and is the planned one."""

from dataclasses import dataclass

from sglp_core.artifact.verify import Verification


@dataclass(frozen=True)
class VerificationSection:
    """The written model, loaded in a fresh process; differences are relative to the largest logit."""

    missing: tuple[str, ...]
    """Tensors that the class expects and the files lack."""
    unexpected: tuple[str, ...]
    """Tensors in the files that the class does not expect."""
    reload_difference: float
    """Largest difference between the logits of the reloaded model and of the pruned model in memory."""
    bypass_difference: float
    """Largest difference between the logits of the pruned model and of the dense model with those layers bypassed."""
    tolerance: float
    """The largest difference allowed."""
    cached_decoding_equal: bool | None
    """Whether decoding with the cache equals decoding without it; null for models that do not generate."""
    other_layers: tuple[int, ...]
    """Numbers of the layers that the written configuration builds differently than they were."""
    passed: bool
    """Whether everything agreed."""


def verification_section(verification: Verification) -> VerificationSection:
    return VerificationSection(**vars(verification), passed=not verification.problems)
