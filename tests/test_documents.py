"""The documents: links and tests that they name exist, commands and programs in them are real, words are plain."""

import ast
import importlib.util
import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import typer
from sglp_client.cli.app import app
from sglp_client.cli.service_commands import GROUP
from typer.core import TyperCommand, TyperGroup

from jobs.errors import REASONS
from jobs.settings import Settings

ROOT = Path(__file__).parent.parent
DOCUMENTS = [
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "examples/README.md", "client/README.md")
    ),
    *sorted((ROOT / "docs").rglob("*.md")),
]
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")
SOURCE = re.compile(r"`((?:\w+/)+\w+\.py)`")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"(?:^|\$ |`|\.venv/bin/)(sglp [a-z][^`\n|]*)", re.MULTILINE)
MODULE = re.compile(r"python -m ([a-z]\w*(?:\.\w+)*)")
# Words that a stranger stumbles over, or that say less than the field's own term.
ODD = re.compile(
    r"\b(foretold|foretells?|parted|anew|hands? on|handed on|is told|are told|tells? apart|told apart|no number|in vain"
    r"|is noted|notes? what|of its own|what is (?:wanted|known|given))\b"
)


def _name(document: Path) -> str:
    return str(document.relative_to(ROOT))


each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=_name)


@each_document
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


@each_document
def test_sources_that_documents_name_exist(document: Path) -> None:
    # The pages of the method name files of `sglp_core` from there.
    folders = (ROOT, ROOT / "sglp_core")
    named = SOURCE.findall(document.read_text())
    assert [path for path in named if not any((folder / path).exists() for folder in folders)] == []


@each_document
def test_python_in_documents_compiles(document: Path) -> None:
    for language, content in FENCE.findall(document.read_text()):
        if language == "python":
            compile(content, str(document), "exec")


# The changelog also names commands of before.
@pytest.mark.parametrize("document", [path for path in DOCUMENTS if path.name != "CHANGELOG.md"], ids=_name)
def test_commands_in_documents_exist(document: Path) -> None:
    text = document.read_text().replace("\\\n", " ")
    problems = [problem for command in COMMAND.findall(text) if (problem := _unknown(command))]
    problems += [module for module in MODULE.findall(text) if importlib.util.find_spec(module) is None]
    assert not problems


@each_document
def test_words_of_documents_are_plain(document: Path) -> None:
    assert not ODD.findall(document.read_text())


def test_every_document_is_in_the_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / path).resolve() for path, _ in LINK.findall(index.read_text()) if path}
    pages = {page for page in DOCUMENTS if page.is_relative_to(index.parent)} - {index}
    reached = linked | {
        (page.parent / path).resolve() for page in linked & pages for path, _ in LINK.findall(page.read_text()) if path
    }
    assert pages - reached == set()


def test_every_promise_names_a_test() -> None:
    table = (ROOT / "docs/operate/reliability.md").read_text().partition("## Chaos")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 10
    assert [row for row in rows if not re.search(r"\.py#test_\w+\)", row)] == []


def test_the_reference_lists_every_setting() -> None:
    listed = re.findall(r"^\| `SGLP_(\w+)` \|", (ROOT / "docs/reference/settings.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(name.upper() for name in Settings.model_fields)


def test_the_reference_lists_every_error_code() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", (ROOT / "docs/reference/errors.md").read_text(), re.MULTILINE)
    assert dict(rows) == {code: "yes" if reason.retryable else "no" for code, reason in REASONS.items()}


def _functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _unknown(line: str) -> str | None:
    """What of a command line `sglp` does not know; None if it knows all of it."""
    command: TyperCommand | TyperGroup = typer.main.get_command(app)
    for word in shlex.split(line, comments=True)[1:]:
        if isinstance(command, TyperGroup) and not word.startswith("-"):
            if word not in command.commands:
                return line
            command = _loaded(word) if entry_points(group=GROUP, name=word) else command.commands[word]
        elif word.startswith("--"):
            options = {"--help", *(name for parameter in command.params for name in parameter.opts)}
            if word not in options:
                return f"{line}: {word}"
    return None


def _loaded(name: str) -> TyperCommand:
    """A command that the package `sglp` registers."""
    (entry,) = entry_points(group=GROUP, name=name)
    alone = typer.Typer()
    alone.command(name)(entry.load())
    return typer.main.get_command(alone)
