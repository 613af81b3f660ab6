"""When, where and with what each page was executed: the book's last page, from the records that the build leaves beside the pages."""

import json
from pathlib import Path
from typing import Any

WORDS = """# How this book was made

Every page that computes was executed by `make book` from a notebook without outputs; a page is executed again only if it, a module
that it imports, its parameters or the results that it reads have changed. Results of long experiments were made earlier, by commands that
their pages name, and carry a record of their own.
"""


def colophon(executed: Path, contents: str) -> str:
    """Markdown of a table of what was executed, from one `<page>.json` each; what all have in common is said once.

    `contents`: the table of contents, `_toc.yml`; what is not in it is named without a link.
    """
    records = {path.stem: json.loads(path.read_text()) for path in sorted(executed.glob("*.json"))}
    pages = ["| page | executed | seconds | parameters |", "|---|---|---|---|"]
    for name, record in records.items():
        chosen = ", ".join(f"`{k}={v}`" for k, v in record["parameters"].items()) or "as published"
        page = f"[](./{name})" if f"executed/{name}\n" in contents else name
        pages.append(f"| {page} | {record['provenance']['time'][:16].replace('T', ' ')} | {record['seconds']} | {chosen} |")
    made = [_setting(record["provenance"]) for record in records.values()]
    settings = ["| " + " | ".join(("made with", *made[0])) + " |", "|---" * (len(made[0]) + 1) + "|"] if made else []
    for setting in sorted({tuple(m.values()) for m in made}):
        count = sum(tuple(m.values()) == setting for m in made)
        settings.append("| " + " | ".join((f"{count} page{'s' * (count != 1)}", *map(str, setting))) + " |")
    return "\n".join([WORDS, *pages, "", *settings, ""])


def _setting(provenance: dict[str, Any]) -> dict[str, Any]:
    """What pages are expected to share."""
    wanted = {"machine": provenance["machine"], "threads": provenance["threads"], "Python": provenance["python"]}
    return (
        wanted | provenance["versions"] | {"revision": provenance["git"][:7] + ("-dirty" if provenance["git"].endswith("-dirty") else "")}
    )
