"""What the `README.md` of a model says: its licence, and a text that belongs to the model."""

from dataclasses import dataclass
from pathlib import Path

# Above any card of a model hub; a text of a hundred megabytes is none.
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class OriginalCard:
    """`licence` is None where none is stated; `text` is the Markdown below the metadata."""

    licence: str | None = None
    text: str = ""


def read_card(directory: Path) -> OriginalCard:
    """The card of a model directory; empty where there is none, or one of more than `MOST_BYTES`."""
    file = directory / "README.md"
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return OriginalCard()
    from huggingface_hub import ModelCard

    content = file.read_text(encoding="utf-8", errors="replace").strip()
    if not content.startswith("---"):
        return OriginalCard(text=content)
    try:
        card = ModelCard(content, ignore_metadata_errors=True)
    except Exception:
        # Metadata that is no YAML, or no object, raises errors of many types.
        return OriginalCard(text=content)
    licence = getattr(card.data, "license", None)
    return OriginalCard(", ".join(map(str, licence)) if isinstance(licence, list) else licence, card.text.strip())
