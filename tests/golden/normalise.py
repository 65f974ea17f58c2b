"""What of a scrape is the same on every machine and at any time: the rest becomes a word in <>."""

from __future__ import annotations

import re

#: Name of a sample, and what its value becomes. The first that matches counts.
VALUES = (
    (r"\w+_timestamp_seconds", "<time>"),
    (r"training_(phase|checkpoint|checkpoint_write|goodput)_seconds_total", "<seconds>"),
    (r"training_(run|elapsed|inactive)_seconds|\w+_duration_seconds(_bucket|_sum)?", "<seconds>"),
    (r"training_(samples|tokens)_per_second", "<rate>"),
    (r"training_(host|process|checkpoint_disk)_\w+", "<figure>"),
)
#: Values of labels.
LABELS = (
    (r'hostname="[^"]*"', 'hostname="<host>"'),
    (r'run_id="[^"]*"', 'run_id="<job>"'),
    (r'(version|python)="[^"]*"', r'\1="<version>"'),
    (r'mode="[^"]*"', 'mode="<mode>"'),
)
#: Families that some machines do not have.
OPTIONAL = r"training_host_(disk|network|shared_memory)_\w+"


def normalised(text: str) -> str:
    """The exposition with what varies replaced; histogram buckets keep their bounds."""
    return "".join(f"{_line(line)}\n" for line in text.splitlines() if not re.search(OPTIONAL, line))


def _line(line: str) -> str:
    if line.startswith("#"):
        return line
    name_and_labels, _, value = line.rpartition(" ")
    name = name_and_labels.partition("{")[0]
    for pattern, text in LABELS:
        name_and_labels = re.sub(pattern, text, name_and_labels)
    value = next((word for pattern, word in VALUES if re.fullmatch(pattern, name)), value)
    if 'le="+Inf"' in name_and_labels:
        value = line.rpartition(" ")[2]
    return f"{name_and_labels} {value}"
