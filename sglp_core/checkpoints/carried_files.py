"""Which files of a model a smaller one takes over unchanged: those of its tokenizer or processor, and its licence."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CARRIED = re.compile(
    r"""
      tokenizer[^/]* | tekken\.json | vocab[^/]* | merges\.txt | added_tokens\.json | special_tokens_map\.json
    | [^/]*\.(model | spm | tiktoken) | bpe\.codes | dict\.txt
    | chat_template[^/]* | additional_chat_templates/[^/]*\.jinja
    | (image_|video_|audio_)?(pre)?processor_config\.json
    | [^/]*(licen[sc]e | notice | copying | copyright | policy)([^/.] | \.\d)*(\.(txt | md | rst | pdf | html))?
    """,
    re.VERBOSE | re.IGNORECASE,
)
# Code and pickles, under whatever names.
NEVER = (".py", ".pkl", ".pickle", ".bin", ".pt", ".pth")
REWRITTEN = re.compile(r"config\.json|generation_config\.json|README\.md|model[^/]*\.safetensors(\.index\.json)?")


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model directory by what becomes of them, by their names below it, sorted."""

    carried: tuple[str, ...]
    rewritten: tuple[str, ...]
    left_behind: tuple[str, ...]


def model_files(directory: Path) -> ModelFiles:
    """What becomes of each file of a model directory."""
    kinds: dict[str, list[str]] = {"carried": [], "rewritten": [], "left_behind": []}
    for name in sorted(_names(directory)):
        kinds[_kind_of(name)].append(name)
    return ModelFiles(**{kind: tuple(names) for kind, names in kinds.items()})


def _names(directory: Path) -> Iterator[str]:
    return (file.relative_to(directory).as_posix() for file in directory.rglob("*") if file.is_file())


def _kind_of(name: str) -> str:
    if CARRIED.fullmatch(name) and not name.endswith(NEVER):
        return "carried"
    return "rewritten" if REWRITTEN.fullmatch(name) else "left_behind"
