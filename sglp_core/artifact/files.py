"""Write the artifact: weights in safetensors, the files that came with the model, a card, and a manifest of it all."""

import json
import mimetypes
import shutil
from pathlib import Path
from typing import Any, Protocol

import huggingface_hub

from sglp_core.architectures import IMAGE_CLASSIFIERS
from sglp_core.checkpoints.limits import require_space
from sglp_core.checkpoints.model_folder import sha256_of
from sglp_core.loading.processor import CARRIED
from sglp_core.loading.source import Source
from sglp_core.versions import versions

NOT_PUBLISHED = {"manifest.json", "similarity.f32"}


def write_model(model: Any, source: Source, directory: Path) -> None:
    """Save the pruned model beside everything that came with the original, unchanged.

    Raises `InsufficientStorage` before anything is written where the disk cannot hold it.
    """
    weights = sum(t.numel() * t.element_size() for t in {t.data_ptr(): t for t in model.state_dict().values()}.values())
    directory.mkdir(parents=True)
    require_space(directory, int(weights * 1.02), "the compressed model")
    model.save_pretrained(directory)
    carry_over(source, directory)


def carry_over(source: Source, directory: Path) -> None:
    """Copy everything that came with the original and does not depend on its layers, unchanged."""
    for pattern in CARRIED:
        for file in source.directory.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)


class CardModel(Protocol):
    """What a card says of the model that was compressed."""

    @property
    def origin(self) -> str: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def sha256(self) -> str: ...
    @property
    def licence(self) -> str | None: ...
    @property
    def class_name(self) -> str: ...


def write_card(directory: Path, model: CardModel, summary: str) -> None:
    """A model card that names where the model comes from and carries its licence over."""
    data = huggingface_hub.ModelCardData(
        license=model.licence,
        base_model=model.origin if model.revision else None,
        library_name="transformers",
        tags=["sglp", "layer-pruning"],
    )
    original = f"{model.origin}" + (f" at revision {model.revision}" if model.revision else "")
    licence = model.licence or "not stated by the original; ask its authors"
    needs = ""
    if model.class_name in {found.__name__ for found in IMAGE_CLASSIFIERS.values()}:
        needs = (
            "Transformers does not contain this architecture: `import sglp_core.architectures` (package `sglp[core]`) "
            "before `AutoModelForImageClassification.from_pretrained`.\n\n"
        )
    (directory / "README.md").write_text(
        f"---\n{data.to_yaml()}\n---\n\n# {model.origin}, layers removed by SGLP\n\n"
        f"Made from **{original}** (sha256 `{model.sha256}`). Licence: {licence}.\n\n{needs}{summary}\n"
    )


def write_manifest(directory: Path, facts: dict[str, Any]) -> None:
    """`manifest.json`: the given facts, the versions, and name, size and sha256 of every published file."""
    files = [
        {
            "name": file.relative_to(directory).as_posix(),
            "media_type": mimetypes.guess_type(file.name)[0] or "application/octet-stream",
            "size_bytes": file.stat().st_size,
            "sha256": sha256_of(file),
        }
        for file in sorted(directory.rglob("*"))
        if file.is_file() and file.name not in NOT_PUBLISHED
    ]
    (directory / "manifest.json").write_text(json.dumps({**facts, "versions": versions(), "files": files}, indent=2))
