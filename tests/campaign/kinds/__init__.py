"""The kinds of fault, and for each, written down before the campaign ran, what may be reported of it.

`expected` are the alerts of which one must arrive. `consequences` are alerts that are true of the run as well
(a loss that becomes infinite leaps on its way): they count neither for nor against. Whatever else arrives
about the run with severity warning or critical is a false alarm.
"""

from __future__ import annotations

from tests.campaign.kinds.controls import CONTROLS
from tests.campaign.kinds.ends import ENDS
from tests.campaign.kinds.kind import Kind
from tests.campaign.kinds.learning import LEARNING
from tests.campaign.kinds.progress import PROGRESS
from tests.campaign.kinds.simulated import SIMULATED
from tests.campaign.kinds.watching import WATCHING

KINDS: tuple[Kind, ...] = (*LEARNING, *ENDS, *PROGRESS, *WATCHING, *CONTROLS)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in (*KINDS, *SIMULATED)}

__all__ = ["BY_NAME", "KINDS", "SIMULATED", "Kind"]
