"""A GGUF file is read by a confined process too, which may make no links."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.gguf_files import SOUND
from worker.confinement import weaknesses

PROGRAM = """
import sys
from pathlib import Path
from sglp_core.checkpoints.converted_models import ConvertedModels
from sglp_core.errors import SGLPError
from sglp_core.loading.source import open_source
from worker.confinement import Access, confine

model, cache = map(Path, sys.argv[1:])
confine(Access([model], [cache]))
try:
    open_source(model, ConvertedModels(cache))
except SGLPError as error:
    print(error.code, list(cache.iterdir()))
"""


@pytest.mark.skipif(bool(weaknesses()), reason="this machine cannot confine jobs completely")
def test_it_gets_as_far_as_its_content(tmp_path: Path) -> None:
    model, cache = tmp_path / "model.gguf", tmp_path / "cache"
    model.write_bytes(SOUND)
    cache.mkdir()
    # It says less than a model needs, which is known once transformers has read it.
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, model, cache], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert ended.stdout == "unsafe_format []\n", ended.stderr
