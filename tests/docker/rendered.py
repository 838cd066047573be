"""docker-compose.yml as `docker compose config` prints it; no Docker engine is needed for that."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SECRET_KEYS = '["' + "A" * 43 + '="]'


def rendered(**variables: str) -> dict[str, Any]:
    """The file, given the variables of docker/example.env and these."""
    # Installed beside the interpreter that runs the tests.
    command = [Path(sys.executable).with_name("docker-compose"), "--env-file", "docker/example.env"]
    completed = subprocess.run(
        [*command, "config", "--format", "json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "SGLP_SECRET_KEYS": SECRET_KEYS, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    compose: dict[str, Any] = json.loads(completed.stdout)
    return compose
