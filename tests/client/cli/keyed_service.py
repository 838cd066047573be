"""What is run against a service that asks for keys: its address, and an environment with its database and a key."""

import os
import subprocess
import sys
from pathlib import Path

SGLP_COMMAND = Path(sys.executable).with_name("sglp")
Service = tuple[str, dict[str, str]]


def run_module(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs", "create-key", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def sglp(service: Service, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **service[1], **changes}
    return subprocess.run([SGLP_COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
