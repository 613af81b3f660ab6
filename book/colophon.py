"""Write the book's last page: when, where and with what each page was executed, from the records that the build leaves."""

import json
from pathlib import Path
from typing import Any

WORDS = """# How this book was made

Every page that computes was executed by `make book` from a notebook without outputs; a page is executed again only if it, a module
that it imports, its parameters or the results that it reads have changed. Results of long experiments were made earlier, by commands that
their pages name, and carry a record of their own.
"""


def colophon(executed: Path, contents: str) -> str:
    """Return Markdown on what was executed, from one `<page>.json` per page: the pages, their total seconds, and their shared settings.

    Settings are numbered in the order in which the pages use them, and each page shows the number of its setting. `contents` is the table
    of contents, `_toc.yml`; a page that is not in it is named without a link.
    """
    records = {path.stem: json.loads(path.read_text()) for path in sorted(executed.glob("*.json"))}
    made = {name: _setting(record["provenance"]) for name, record in records.items()}
    numbers = {setting: number for number, setting in enumerate(dict.fromkeys(tuple(m.values()) for m in made.values()), 1)}
    pages = ["| page | executed | seconds | made with | parameters |", "|---|---|---|---|---|"]
    for name, record in records.items():
        chosen = ", ".join(f"`{k}={v}`" for k, v in record["parameters"].items()) or "as published"
        page = f"[](./{name})" if f"executed/{name}\n" in contents else name
        time = record["provenance"]["time"][:16].replace("T", " ")
        pages.append(f"| {page} | {time} | {record['seconds']} | {numbers[tuple(made[name].values())]} | {chosen} |")
    total = [f"All pages together: {sum(record['seconds'] for record in records.values()):,} seconds.", ""]
    names = next(iter(made.values()), {})
    settings = ["| " + " | ".join(("made with", "pages", *names)) + " |", "|---" * (len(names) + 2) + "|"] if made else []
    for setting, number in numbers.items():
        count = sum(tuple(m.values()) == setting for m in made.values())
        settings.append("| " + " | ".join((str(number), str(count), *map(str, setting))) + " |")
    return "\n".join([WORDS, *pages, "", *total, *settings, ""])


def _setting(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a record that pages are expected to share."""
    wanted = {"machine": provenance["machine"], "threads": provenance["threads"], "Python": provenance["python"]}
    return (
        wanted | provenance["versions"] | {"revision": provenance["git"][:7] + ("-dirty" if provenance["git"].endswith("-dirty") else "")}
    )
