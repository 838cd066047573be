"""What documents link to is there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_tests_of_documents_exist(document: Path) -> None:
    text = document.read_text()
    linked = [
        (document.parent / path if path else document, part) for path, part in LINK.findall(text) if ":" not in path
    ]
    named = [(ROOT / path, part) for path, part in TEST.findall(text)]
    missing = [str(path) for path, _ in linked + named if not path.exists()]
    missing += [
        f"{path}: {part}"
        for path, part in linked + named
        if part and path.suffix == ".py" and part not in _functions(path)
    ]
    missing += [
        f"{path}: {part}" for path, part in linked if part and path.suffix == ".md" and part not in _anchors(path)
    ]
    assert not missing


def test_every_promise_names_a_test() -> None:
    table = (ROOT / "docs/operate/reliability.md").read_text().partition("## Chaos")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"\.py#test_\w+\)", row)] == []


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
