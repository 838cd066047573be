"""Tables as the documents have them, printed row by row as the figures come in."""

from collections.abc import Iterable, Mapping


def print_table(title: str, rows: Iterable[Mapping[str, str]]) -> None:
    """Print rows with the same columns as a table of Markdown; a job of minutes may lie between two rows."""
    print(f"\n{title}\n")
    begun = False
    for row in rows:
        if not begun:
            print(f"| {' | '.join(row)} |\n|{'---|' * len(row)}")
        begun = True
        print(f"| {' | '.join(_on_one_line(value) for value in row.values())} |", flush=True)


def _on_one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
