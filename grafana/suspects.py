"""Which ranks are worth a look: expressions that the dashboards of a run and of its ranks share."""

from __future__ import annotations

from grafana.common import ANY, PHASES, SILENT, STATES, link
from grafana.panels import Query, Stat, StateTimeline
from grafana.tables import Table

#: What `run_rank:training_suspect:reason` tells, turned round.
SUSPICIONS = {
    6: ("crashed", "red"),
    5: ("missing", "red"),
    4: ("silent", "red"),
    3: ("ended", "orange"),
    2: ("in another phase", "orange"),
    1: ("not in the collective", "red"),
    0: ("none", "transparent"),
}
#: What `run:training_hang:class` tells.
HANGS = {
    1: ("a rank is dead", "red"),
    2: ("a rank is missing in a collective", "red"),
    3: ("input is stuck", "red"),
    4: ("checkpoint is stuck", "red"),
    5: ("all wait in a collective", "red"),
}

# Why a rank is under suspicion, as a number above 0.
SUSPICION = (
    "7 - max by (rank) (run_rank:training_suspect:reason{<ranks>} or run_rank:training_lost:reason{<ranks>})"
)
SILENCE = "time() - max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<ranks>}[15m]))"
# Steps since the loss was last finite: most on the rank that was first, as the alert judges it.
NONFINITE = (
    "scalar(max(run:training_step:max{<run>}))"
    " - max by (rank) (run_rank:training_last_finite_step:estimate{<ranks>})"
)
# The ranks worth a look, however many there are. What vanished is kept for 15 minutes.
WORST = f" and on (rank) topk(8, 1000 * ({SUSPICION}) or on (rank) ({NONFINITE}) or on (rank) {SILENCE})"
STATE = (
    "max by (rank, state) (run_rank:training_state:newest_start{<ranks>})"
    " or on (rank) max by (rank, state) (last_over_time(training_state{<ranks>}[15m]) == 1)"
)
PLACE = (
    "max by (rank, hostname, gpu) (run_rank:training_rank:info{<ranks>})"
    " or on (rank) max by (rank, hostname, gpu) (last_over_time(run_rank:training_rank:info{<ranks>}[15m]))"
)
BEHIND = (
    "clamp_min(scalar(max(run:training_step:max{<run>}))"
    " - max by (rank) (last_over_time(training_step{<ranks>}[15m])), 0)"
)

# A rank's phase is a number, and a greater one marks its silence; `@ end()` keeps the same ranks over the
# time shown.
LANE_COLORS = dict(enumerate([*PHASES.items(), ("silent", "red")], 1))
MUTE = f"{len(LANE_COLORS)} * (run_rank:training_silence_seconds:age{{<ranks>}} > bool 0)"
HEARD = "max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<ranks>}[15m] @ end()))"
LANES = (
    f"max by (rank) ({MUTE} or run_rank:training_phase:number{{<ranks>}}) and on (rank) bottomk(24, {HEARD})"
)

COUNTS = Stat(
    "Ranks",
    "By the state of their process. Silent: no sign of life for 10 s; missing: not served at all.",
    (
        Query("count by (state) (run_rank:training_state:newest_start{<ranks>})", "{{state}}"),
        Query("count(run_rank:training_silence_seconds:age{<ranks>})", "silent"),
        Query(
            "max(run:training_world_size:max{<run>})"
            " - count(run_rank:training_state:newest_start{<run>}) > 0",
            "missing",
        ),
    ),
    width=3,
    colors=STATES,
    empty="not served",
)
WHY = Stat(
    "Why it stands",
    "What keeps a run from its next step once it has stood for a minute. The table names the rank.",
    "max(run:training_hang:class{<run>})",
    width=4,
    mappings=HANGS,
    empty="it moves",
)
WHO = Table(
    "Ranks to look at",
    "At most eight: under suspicion, with a loss not finite for most steps (a NaN reaches all ranks"
    " soon after the first), or silent longest.",
    (
        Query(f"({STATE})" + WORST),
        Query("max by (rank, phase) (run_rank:training_phase:current{<ranks>})" + WORST),
        Query(f"({PLACE})" + WORST),
        Query(f"({SUSPICION} or on (rank) 0 * ({SILENCE}))" + WORST, "suspicion", mappings=SUSPICIONS),
        Query(f"({SILENCE})" + WORST, "silent", thresholds=SILENT),
        Query(
            "time() - max by (rank) (training_phase_start_timestamp_seconds{<ranks>})" + WORST,
            "in phase",
        ),
        Query(f"({BEHIND})" + WORST, "steps behind"),
        Query(f"({NONFINITE})" + WORST, "not finite", thresholds=ANY),
    ),
    width=14,
    height=10,
    labels={"rank": 60, "hostname": 0, "gpu": 60, "state": 90, "phase": 110},
    colored=("state",),
    colors=STATES,
    sort=("suspicion", "not finite", "silent"),
    links={"rank": link("ranks", "run", rank="rank")},
)
PHASES_BY_RANK = StateTimeline(
    "Present phase by rank",
    "The 24 ranks that were heard of longest ago. A lane that ends is a rank that died; a lane that"
    " differs from all others is the rank that the others wait for.",
    Query(LANES, "rank {{rank}}"),
    width=24,
    height=9,
    unit="short",
    mappings=LANE_COLORS,
)
