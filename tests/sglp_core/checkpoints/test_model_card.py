"""What is read of a model's card, whatever its metadata is."""

from pathlib import Path

import pytest

from sglp_core.checkpoints.model_card import MOST_BYTES, OriginalCard, read_card

TEXT = "# A model\n\n---\n\nIt was trained."


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (f"---\nlicense: mit\n---\n{TEXT}\n", OriginalCard("mit", TEXT)),
        (f"---\r\nlicense: mit\r\n---\r\n{TEXT}", OriginalCard("mit", TEXT)),
        (f"---\nlicense: [mit, apache-2.0]\n---\n{TEXT}", OriginalCard("mit, apache-2.0", TEXT)),
        (f"---\nlanguage: en\n---\n{TEXT}", OriginalCard(None, TEXT)),
        (f"---\nlicense: mit\nmodel-index: 3\n---\n{TEXT}", OriginalCard("mit", TEXT)),
        (TEXT, OriginalCard(None, TEXT)),
        ("", OriginalCard()),
    ],
)
def test_the_licence_and_the_text_are_read(content: str, expected: OriginalCard, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(content, newline="")
    assert read_card(tmp_path) == expected


@pytest.mark.parametrize(
    "metadata", ["license: {", "- a", "&a [*a]", "[" * 10_000, "license: mit: x", "\tlicense: mit"]
)
def test_of_metadata_that_is_none_the_text_stays(metadata: str, tmp_path: Path) -> None:
    content = f"---\n{metadata}\n---\n{TEXT}"
    (tmp_path / "README.md").write_text(content)
    assert read_card(tmp_path) == OriginalCard(None, content)


def test_a_card_that_is_missing_or_endless_says_nothing(tmp_path: Path) -> None:
    assert read_card(tmp_path) == OriginalCard()
    (tmp_path / "README.md").write_text("x" * (MOST_BYTES + 1))
    assert read_card(tmp_path) == OriginalCard()


def test_bytes_that_are_no_text_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\nvoil\xe0")
    assert read_card(tmp_path) == OriginalCard("mit", "voil\ufffd")
