"""The stacks of a rank of this machine, by the command that everybody can use."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys

from trainbeacon.terminal.signs import Signs
from trainbeacon.terminal.view import Member

_SECONDS = 20.0


def stacks_of(member: Member, signs: Signs) -> str:
    """What `trainbeacon stacks` says of that rank: its evidence, and its stacks now where it can be asked.

    Blocks for some seconds. Where the rank is on another machine, the command to give there.
    """
    options = ["stacks", f"--run={member.run.key[2]}", f"--rank={member.rank.number}"]
    directory = member.rank.source
    if not os.path.isdir(directory):
        where = member.rank.host or "its host"
        return f"On {where}:\n  trainbeacon {signs.clean(shlex.join(options))}"
    said = []
    for more in (["--ask"], []):
        line = [sys.executable, "-m", "trainbeacon", *options, f"--directory={directory}", *more]
        try:
            done = subprocess.run(
                line, capture_output=True, timeout=_SECONDS, check=False, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"no stacks: {error}"
        text = (done.stdout + done.stderr).decode(errors="replace")
        said.append(text)
        if done.returncode == 0:
            break
    return "\n".join(signs.clean(line) for line in "\n".join(said).splitlines())
