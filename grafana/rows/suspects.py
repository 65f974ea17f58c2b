"""Which ranks are worth a look: expressions that the dashboards of a run and of its ranks share."""

from __future__ import annotations

from grafana.common import ANY, PHASES, SILENT, STATES, link
from grafana.panels import Query, Stat, StateTimeline
from grafana.tables import Table

#: What `run_rank:training_suspect:reason` tells, inverted; above it who ended the run, below who slows it.
SUSPICIONS = {
    10: ("first to end badly", "red"),
    8: ("crashed", "red"),
    7: ("missing", "red"),
    6: ("silent", "red"),
    5: ("ended", "orange"),
    4: ("in another phase", "orange"),
    3: ("not in the collective", "red"),
    2: ("NaN began there", "red"),
    1: ("the others wait for it", "orange"),
    0: ("none", "transparent"),
}
#: What `run:training_hang:class` tells.
HANGS = {
    1: ("a rank is dead", "red"),
    2: ("a rank is missing in a collective", "red"),
    3: ("input is stuck", "red"),
    4: ("checkpoint is stuck", "red"),
    5: ("all wait in a collective", "red"),
    0: ("it moves", "transparent"),
    -1: ("reason not known", "transparent"),
}

# Why a rank is under suspicion, as a number above 0. What is known of a dead rank is held for a day.
SUSPICION = (
    "0 * max by (rank) (run_rank:training_run_failure:reported{<ranks>} > 0) + 10 or on (rank)"
    " 9 - max by (rank) (run_rank:training_suspect:reason{<ranks>} or run_rank:training_lost:reason{<ranks>})"
    " or on (rank) 0 * max by (rank) (run_rank:training_nonfinite_suspect:info{<ranks>}) + 2"
    " or on (rank) 0 * max by (rank) (run_rank:training_straggler:ratio{<ranks>}) + 1"
)
# As it was at the scrape: what the scrape interval adds is nobody's silence.
SILENCE = (
    "max by (rank) (run_rank:training_silence_seconds:age{<ranks>})"
    " or 0 * max by (rank) (training_heartbeat_timestamp_seconds{<ranks>})"
    " or time() - max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<ranks>}[15m]))"
)
# Steps since the loss was last finite: most on the rank that was first, as the alert judges it.
NONFINITE = (
    "scalar(max(run:training_step:max{<run>}))"
    " - max by (rank) (run_rank:training_last_finite_step:estimate{<ranks>})"
)
# The ranks worth a look, however many there are.
WORST = f" and on (rank) topk(8, 1000 * ({SUSPICION}) or on (rank) ({NONFINITE}) or on (rank) {SILENCE})"
STATE = (
    "max by (rank, state) (run_rank:training_state:newest_start{<ranks>})"
    " or on (rank) max by (rank, state) (last_over_time(training_state{<ranks>}[15m]) == 1)"
)
PLACE = (
    "max by (rank, hostname, gpu) (run_rank:training_place:held{<ranks>} > 0)"
    " or on (rank) max by (rank, hostname, gpu) (run_rank:training_rank:info{<ranks>})"
    " or on (rank) max by (rank, hostname, gpu) (last_over_time(run_rank:training_rank:info{<ranks>}[15m]))"
)
BEHIND = (
    "clamp_min(scalar(max(run:training_step:known{<run>}))"
    " - max by (rank) (last_over_time(training_step{<ranks>}[15m])), 0)"
)

# A rank's phase is a number, and a greater one marks its silence; `@ end()` keeps the same ranks over the
# time shown.
LANE_COLORS = dict(enumerate([*PHASES.items(), ("silent", "red")], 1))
MUTE = f"{len(LANE_COLORS)} * (run_rank:training_silence_seconds:age{{<run>}} > bool 0)"
HEARD = "max by (rank) (last_over_time(training_heartbeat_timestamp_seconds{<run>}[15m] @ end()))"
SEEN = "max by (rank) (max_over_time(training_heartbeat_timestamp_seconds{<run>}[$__range] @ end()))"
LANES = (
    f"max by (rank) ({MUTE} or run_rank:training_phase:number{{<run>}})"
    f" and on (rank) bottomk(24, {HEARD} or {SEEN})"
)

COUNTS = Stat(
    "Ranks",
    "By the state of their process. Silent: no sign of life for 10 s; missing: not served at all; lost: as"
    " the alert has it, also when nothing of the run is seen any more.",
    (
        Query("count by (state) (run_rank:training_state:newest_start{<run>})", "{{state}}"),
        Query("count(run_rank:training_silence_seconds:age{<run>})", "silent"),
        Query("count(run_rank:training_lost:reason{<run>})", "lost"),
        Query(
            "max(run:training_world_size:max{<run>})"
            " - count(run_rank:training_state:newest_start{<run>}) > 0",
            "missing",
        ),
    ),
    width=4,
    unit="short",
    colors=STATES,
    empty="not served any more",
)
WHY = Stat(
    "Why it stands",
    "What keeps a run from its next step once it has stood for a minute. The table names the rank.",
    "max(run:training_hang:class{<run>}) or 0 * max(run:training_standstill_seconds:age{<run>} <= 60)"
    " or 0 * max(run:training_ranks_running:count{<run>}) - 1",
    width=4,
    mappings=HANGS,
    empty="no rank runs",
)
WHO = Table(
    "Ranks to look at",
    "At most eight: under suspicion, with a loss not finite for most steps (a NaN reaches all ranks"
    " soon after the first), or silent longest. What is known of a dead rank is kept for a day.",
    (
        Query(f"({STATE})" + WORST),
        Query("max by (rank, phase) (run_rank:training_phase:current{<ranks>})" + WORST),
        Query(f"({PLACE})" + WORST),
        Query(
            f"({SUSPICION} or on (rank) 0 * ({SILENCE}))" + WORST, "suspicion", mappings=SUSPICIONS, width=155
        ),
        Query(f"({NONFINITE})" + WORST, "not finite", thresholds=ANY, width=75),
        Query(f"({SILENCE})" + WORST, "silent", thresholds=SILENT, decimals=0, width=65),
        Query(
            "time() - max by (rank) (training_phase_start_timestamp_seconds{<ranks>})" + WORST,
            "in phase",
            decimals=0,
            width=70,
        ),
        Query(f"({BEHIND})" + WORST, "behind", width=60),
    ),
    width=14,
    height=8,
    labels={"rank": 45, "hostname": 115, "gpu": 40, "state": 75, "phase": 115},
    first=("rank", "suspicion", "hostname", "gpu", "state", "phase", "not finite", "silent"),
    colored=("state",),
    colors=STATES,
    sort=("suspicion", "not finite", "silent"),
    links={"rank": link("ranks", "run", rank="rank"), "hostname": link("hardware", "run")},
    empty="-",
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
