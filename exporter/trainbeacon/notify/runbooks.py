"""The shipped runbooks as pages, for clusters that cannot reach the internet."""

from __future__ import annotations

import html
import re
from pathlib import Path

#: Where the shipped rules link to. `bundle --runbook-url` and the chart put another base in its place.
SHIPPED_URL = "https://github.com/trainbeacon/trainbeacon/blob/main/prometheus/runbooks"

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>
body {{ font-family: sans-serif; line-height: 1.5; max-width: 46em; margin: 2em auto; padding: 0 1em; }}
code {{ background: #f0f0f0; padding: 1px 4px; overflow-wrap: anywhere; }}
pre {{ background: #f0f0f0; padding: 8px; overflow-x: auto; }} pre code {{ padding: 0; }}
</style></head><body>
<p><a href="./">All runbooks</a></p>
{body}
</body></html>
"""


class Runbooks:
    """The runbooks in a folder, by the name of their alert. They are read once, at start.

    Raises:
        OSError: a file cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}

    def page(self, path: str) -> str | None:
        """The HTML of `NAME`, `NAME.md` or, for an empty path, of the list; None if there is no such book."""
        if not path:
            lines = [f"- [{name}]({name}.md): {first_sentence(text)}" for name, text in self.texts.items()]
            return _rendered("Runbooks", "# Runbooks\n\n" + "\n".join(lines))
        name = path.removesuffix(".md")
        return _rendered(name, self.texts[name]) if name in self.texts else None


def first_sentence(text: str) -> str:
    """What a runbook says that its alert means, in a sentence without links."""
    meaning = text.partition("## Meaning\n")[2].strip().partition("\n\n")[0]
    meaning = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", meaning)
    return " ".join(meaning.split()).partition(". ")[0].rstrip(".") + "."


def _rendered(title: str, text: str) -> str:
    """Markdown as HTML. Tags in it are shown as text, and links lead to the web or to other books only."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark", {"html": False}).render(text)
    return _PAGE.format(title=html.escape(title), body=body)
