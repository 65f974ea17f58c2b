"""How a text is written in each kind of channel, so that nothing in it becomes markup, and how it is cut.

A run, an owner or an exception may be called anything. Escapes are those that a service documents; where it
documents none (DingTalk, WeCom), characters that make markup are replaced by others that look like them.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import quote

#: Length of a text as a service counts it: characters, or bytes of UTF-8.
Size = Callable[[str], int]

_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]+"
)
#: An @ that begins a mention, as of everyone; that of an e-mail address follows a letter.
_MENTION = re.compile(r"(?<!\w)@(?=\w)")
#: How Slack, and Mattermost after it, write mentions of everyone and links.
_SLACK = re.compile(r"<(?=[!@#]|https?:)")
_LONGEST_URL = 2000
_SAFE_IN_URL = "!#$&'+,-./:;=?@_%"


@dataclass(frozen=True)
class Style:
    """One way of writing.

    Attributes:
        escape: one character as text that stands for nothing else.
        bold: before and after what is set in bold.
        link: an address behind a label; both are safe already.
        newline: the end of a line within a paragraph.
        paragraph: what separates paragraphs.
    """

    escape: Callable[[str], str]
    bold: tuple[str, str]
    link: Callable[[str, str], str]
    newline: str
    paragraph: str = "\n\n"

    def text(self, raw: str) -> str:
        """A whole text, escaped."""
        return "".join(map(self.escape, cleaned(raw)))

    def strong(self, raw: str) -> str:
        """A whole text, escaped and in bold."""
        return f"{self.bold[0]}{self.text(raw)}{self.bold[1]}"

    def cut(self, raw: str, room: int, size: Size = len) -> str:
        """As much of a text as has room, escaped; ends with "…" where something is missing.

        Cuts between two letters as a reader sees them, never within an escape.
        """
        whole = self.text(raw)
        if size(whole) <= room:
            return whole
        room -= size("…")
        if room < 0:
            return ""
        kept: list[str] = []
        for cluster in clusters(cleaned(raw)):
            written = "".join(map(self.escape, cluster))
            room -= size(written)
            if room < 0:
                break
            kept.append(written)
        return "".join(kept).rstrip() + "…"


def cleaned(raw: str) -> str:
    """A text on one line, without what hides or turns round what follows, and without mentions and links.

    The last two also where a text should be plain: Discord, Mattermost and others take Markdown in any.
    """
    text = _MENTION.sub("@\u200b", _CONTROL.sub(" ", raw))
    return _SLACK.sub("<\u200b", text).replace("](", "] (").strip()


def clusters(text: str) -> Iterator[str]:
    """The letters of a text as a reader sees them: with their accents, as whole emoji and flags."""
    start = 0
    for position in range(1, len(text)):
        if not _joined(text, start, position):
            yield text[start:position]
            start = position
    if text:
        yield text[start:]


def _joined(text: str, start: int, position: int) -> bool:
    """Whether a character belongs to the letter that began at `start`; at most 32 do."""
    before, this = text[position - 1], text[position]
    if position - start >= 32:
        return False
    if before == "\u200d" or this == "\u200d" or unicodedata.category(this) in ("Mn", "Mc", "Me"):
        return True
    code = ord(this)
    if 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F:  # colours of skin, tags of flags
        return True
    if 0x1F1E6 <= code <= 0x1F1FF:  # two letters make a flag
        return position - start == 1 and 0x1F1E6 <= ord(before) <= 0x1F1FF
    # Korean syllables that are written in parts.
    return 0x1160 <= code <= 0x11FF and 0x1100 <= ord(before) <= 0x11FF


def web_address(url: str | None) -> str:
    """An address that is safe within every markup, or empty: not of the web, or too long to be one."""
    if not url or not url.startswith(("http://", "https://")):
        return ""
    safe = quote(url, safe=_SAFE_IN_URL)
    return safe if len(safe) <= _LONGEST_URL else ""


def _mapped(characters: Mapping[str, str]) -> Callable[[str], str]:
    return lambda character: characters.get(character, character)


#: An underscore within a word is markup for neither of them, and is in many names.
_LOOK_ALIKE = str.maketrans("<>[]*`|~#\\", "\u2039\u203a\uff3b\uff3d\u2217\u02cb\u00a6\u223c\uff03\uff3c")
#: What CommonMark takes for markup. Angle brackets are replaced: Slack and others read them all the same.
_MARKDOWN = {each: f"\\{each}" for each in "\\`*_[]#|~"} | {"<": "\u2039", ">": "\u203a"}
_FEISHU = {each: f"&#{ord(each)};" for each in "<>*~[]()_`&#"}

TEXT = Style(lambda character: character, ("", ""), lambda label, url: f"{label}: {url}", "\n")
MARKDOWN = Style(
    _mapped(_MARKDOWN), ("**", "**"), lambda label, url: f"[{label}]({url})", "  \n"
)  # two spaces: a new line, not a new paragraph
HTML = Style(
    html.escape,
    ("<b>", "</b>"),
    lambda label, url: f'<a href="{html.escape(url)}">{label}</a>',
    "<br/>\n",
    "<br/>\n<br/>\n",
)
PLAIN_MARKDOWN = Style(
    lambda character: character.translate(_LOOK_ALIKE), MARKDOWN.bold, MARKDOWN.link, "  \n"
)
FEISHU = Style(_mapped(_FEISHU), ("**", "**"), MARKDOWN.link, "\n")

STYLES: Mapping[str, Style] = {"text": TEXT, "markdown": MARKDOWN, "html": HTML}


def inert(raw: str) -> str:
    """A text for a title, in which no channel finds markup, whatever it makes of titles."""
    return cleaned(raw).translate(_LOOK_ALIKE)
