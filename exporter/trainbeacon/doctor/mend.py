"""Commands that change one line of a YAML file and have a server read it again.

They name the line by its text, so that one command may follow another and what a person has written around
stays. Where the file cannot be seen from here, a sentence says what to change.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from typing import Any

import yaml

from trainbeacon.doctor.context import listener

Place = Sequence[str | int]


def set_value(file: str, place: Place, value: str) -> str:
    """The command that sets a scalar at a place of the file, which is added where it is not there yet."""
    words = f"set {'.'.join(map(str, place))}: {value}" + (f" in {file}" if file else "")
    node = _node(file, place[:-1])
    child = _child(node, place[-1])
    text = _Lines(file)
    if isinstance(child, yaml.ScalarNode) or (isinstance(child, yaml.SequenceNode) and child.flow_style):
        line, column = child.start_mark.line, child.start_mark.column
        if line == child.end_mark.line and column:
            return text.replaced(line, text.lines[line][:column] + value)
    elif child is None and isinstance(node, yaml.MappingNode) and not node.flow_style:
        for key_node, value_node in node.value:
            if (
                isinstance(value_node, yaml.ScalarNode)
                and key_node.start_mark.line == value_node.end_mark.line
            ):
                indent = " " * key_node.start_mark.column
                return text.inserted(key_node.start_mark.line, f"{indent}{place[-1]}: {value}")
    return words


def remove(file: str, place: Place) -> str:
    """The command that takes out the lines of a key of a block mapping."""
    words = f"take {'.'.join(map(str, place))} out" + (f" of {file}" if file else "")
    node, text = _node(file, place[:-1]), _Lines(file)
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return words
    for number, (key_node, value_node) in enumerate(node.value):
        if key_node.value == place[-1] and number:  # the first may share its line with the dash of a list
            first = key_node.start_mark.line
            return text.removed(first, _last_line(value_node) - first) or words
    return words


def add_section(file: str, section: str, lines: Sequence[str]) -> str:
    """The command that adds items to a top-level list, which is made where there is none."""
    node = _node(file, ())
    child = _child(node, section)
    words = (
        f"add to {section}"
        + (f" in {file}" if file else "")
        + ": "
        + "; ".join(each.strip() for each in lines)
    )
    if node is None or (
        child is not None and not (isinstance(child, yaml.SequenceNode) and not child.flow_style)
    ):
        return words
    if child is None:
        texts = " ".join(shlex.quote(each) for each in (f"{section}:", *lines))
        return f"printf '%s\\n' {texts} >> {shlex.quote(file)}"
    column = child.start_mark.column
    key = next(name for name, value in node.value if value is child)
    return _Lines(file).inserted(key.start_mark.line, *(" " * column + each[2:] for each in lines))


def reload(url: str) -> str:
    """The command that has a server at this address read its configuration again."""
    found = listener(url)
    return (
        f"kill -HUP {found.pid}"
        if found is not None
        else f"curl -fsS -X POST {shlex.quote(url + '/-/reload')}"
    )


def job_place(config: Any, job: str) -> list[str | int]:
    """Where a scrape job of that name stands in a configuration; empty where it does not."""
    for number, each in enumerate(config.get("scrape_configs") or ()):
        if each.get("job_name") == job:
            return ["scrape_configs", number]
    return []


def is_command(fix: str) -> bool:
    """Whether a fix can be run as it is, rather than be read."""
    return fix.startswith(
        ("sed ", "printf ", "kill ", "trainbeacon ", "rm ", "chmod ", "cp ", "unset ", "curl ", "amtool ")
    )


def then(fix: str, after: str) -> str:
    """Two commands in a row; a sentence stays one."""
    return f"{fix} && {after}" if is_command(fix) else f"{fix}, then {after}"


class _Lines:
    """The lines of a file, and commands that find them again after other commands have added some."""

    def __init__(self, file: str) -> None:
        self.file, self.lines = file, []
        if file and os.path.isfile(file):
            with open(file, encoding="utf-8") as text:
                self.lines = text.read().splitlines()

    def replaced(self, number: int, text: str) -> str:
        """The line becomes this text."""
        old, new = _pattern(self.lines[number]), re.sub(r"[\\/&]", r"\\\g<0>", text)
        at = "" if self._is_unique(number) else str(number + 1)
        return self._sed(f"{at}s/^{old}$/{new}/")

    def inserted(self, number: int, *texts: str) -> str:
        """These lines come after that one."""
        at = f"/^{_pattern(self.lines[number])}$/" if self._is_unique(number) else str(number + 1)
        return self._sed(f"{at}a\\" + "\\\n".join(texts))

    def removed(self, number: int, more: int) -> str:
        """That line and so many after it go; empty where it cannot be told from others."""
        if not self._is_unique(number):
            return ""
        return self._sed(f"/^{_pattern(self.lines[number])}$/,+{more}d")

    def _is_unique(self, number: int) -> bool:
        return self.lines.count(self.lines[number]) == 1

    def _sed(self, script: str) -> str:
        return f"sed -i {shlex.quote(script)} {shlex.quote(self.file)}"


def _pattern(line: str) -> str:
    """A line as sed's basic regular expressions have it."""
    return re.sub(r"[\\/.*\[\]^$]", r"\\\g<0>", line)


def _node(file: str, place: Place) -> Any:
    node = _compose(file)
    for key in place:
        node = _child(node, key)
    return node


def _compose(file: str) -> Any:
    if not file or not os.path.isfile(file):
        return None
    try:
        with open(file, encoding="utf-8") as text:
            return yaml.compose(text, Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None


def _child(node: Any, key: str | int) -> Any:
    if isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
        return node.value[key]
    if isinstance(node, yaml.MappingNode):
        return next((value for name, value in node.value if name.value == str(key)), None)
    return None


def _last_line(node: Any) -> int:
    """The number of the last line of a value; the mark of a block's end lies beyond what follows it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style:
        return max(_last_line(value) for _, value in node.value)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style:
        return max(_last_line(value) for value in node.value)
    return int(node.end_mark.line) - int(node.end_mark.column == 0)
