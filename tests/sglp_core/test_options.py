from typing import get_args

import pytest

from jobs.spec import Importance, MethodSpec
from sglp_core.analysis.criteria import CONTROLS, CRITERIA
from sglp_core.options import Method
from sglp_core.repair import REPAIRS


def test_an_unknown_importance_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"importance must be one of proposals, grad_norm.*not 'magic'"):
        Method(importance="magic")


def test_a_job_may_name_every_criterion_and_control_and_no_other() -> None:
    assert get_args(Importance) == ("proposals", *CRITERIA, *CONTROLS)


def test_an_unknown_repair_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"repair must be one of none, compensate.*, auto, not 'magic'"):
        Method(repair="magic")


def test_a_job_may_name_every_repair_and_no_other() -> None:
    assert get_args(MethodSpec.model_fields["repair"].annotation) == ("none", *REPAIRS, "auto")


def test_negative_protected_layers_count_from_the_end() -> None:
    assert Method(protected=(1, -2)).protected_in(8) == {1, 6}
    assert Method().protected_in(8) == {0, 7}
