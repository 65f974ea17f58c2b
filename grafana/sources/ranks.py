"""The ranks of one run: who is slow and why, who is missing, since when."""

from __future__ import annotations

from grafana.common import ANNOTATIONS, LIMITS, PHASES, RANK_VARIABLES, SELECTORS, STATES, above, link
from grafana.dashboard import Dashboard, Row
from grafana.panels import Band, BarGauge, Query, Stat, TimeSeries
from grafana.plots import Lanes
from grafana.rows.suspects import COUNTS, PHASES_BY_RANK, PLACE, WHO, WHY
from grafana.rows.verdict import verdict
from grafana.tables import Table
from trainbeacon.catalogue import BY_NAME

# Share of the run's time that is lost to waiting for a rank.
EXCESS = "max by (rank) (run_rank:training_self_excess_ratio:45s{<ranks>})"
OWN = "run_rank:training_self_seconds:per_step45s{<ranks>}"
SLOWEST = f" and on (rank) topk(8, {EXCESS})"
# What the run has lost to waiting for a rank in the time shown, where it was named as slow.
COST = (
    "(sum by (rank) (sum_over_time("
    "run_rank_cause:training_straggler_gpu_seconds:increase{<ranks>}[$__range])) / 3600"
    f" or on (rank) 0 * {EXCESS})"
)
SPENT = 'max by (rank) (rate(training_self_seconds_total{{{ranks}, cause="{cause}"}}[$__rate_interval]))'
MORE = above(LIMITS["straggler_ratio_max"], near=LIMITS["straggler_ratio_max"] / 2)


CAUSES = tuple(BY_NAME["training_self_seconds_total"].labels[0].values)


def cause(name: str) -> Query:
    """How much more of its time a rank spends on one cause than the median rank."""
    own, all_of_run = (SPENT.format(ranks=ranks, cause=name) for ranks in ("<ranks>", "<run>"))
    expr = f"{own} - scalar(quantile(0.5, {all_of_run})){SLOWEST}"
    return Query(expr, name, unit="percentunit", decimals=0, thresholds=MORE, width=78)


# Collectives of a process group that the furthest rank has begun and this one has not.
LAG = (
    "max by (rank) (max by (group) (training_collectives_enqueued_total{<run>})"
    " - on (group) group_right () training_collectives_enqueued_total{<ranks>})"
)

WHO_ROW = Row(
    "Who is missing, who is slow",
    (
        verdict(),
        COUNTS,
        WHY,
        Stat(
            "Slow rank",
            "The rank that costs most, as TrainingStraggler judges it, and what it spends more time on than"
            " its peers: share of the run's time that is lost to waiting for it.",
            Query(
                "topk(1, max by (rank, cause) (run_rank_cause:training_straggler:ratio{<ranks>}))",
                "rank {{rank}}: {{cause}}",
            ),
            width=7,
            unit="percentunit",
            decimals=0,
            thresholds=((None, "red"),),
            empty="nobody",
        ),
        Stat(
            "Silent longest",
            "Running ranks without a sign of life for more than ten seconds when they were scraped.",
            Query("topk(1, max by (rank) (run_rank:training_silence_seconds:age{<run>}))", "rank {{rank}}"),
            width=4,
            decimals=0,
            thresholds=above(LIMITS["rank_silent_seconds"], near=10),
            empty="nobody",
        ),
        Stat(
            "Steps apart",
            "Steps between the rank that is furthest and the one that is last, less what scrapes at different"
            " moments explain.",
            "clamp_min(max(run:training_step_lead:max{<run>}), 0)",
            width=5,
            decimals=0,
            empty="no steps",
            thresholds=above(2, "orange"),
        ),
        WHO,
        Table(
            "Slow ranks, and in what",
            "The eight that cost most: share of the run's time that is lost to waiting for them, and how much"
            " more of their time than the median rank's goes into what. The coloured column is the cause.",
            (
                Query(f"({PLACE})" + SLOWEST),
                Query(EXCESS + SLOWEST, "costs", unit="percentunit", decimals=1, thresholds=MORE, width=70),
                Query(COST + SLOWEST, "GPU-hours", unit="short", decimals=2, width=84),
                *(cause(name) for name in CAUSES),
            ),
            labels={"rank": 45, "hostname": 0},
            first=("rank", "costs", *CAUSES),
            links={"rank": link("ranks", "run", rank="rank"), "hostname": link("hardware", "run")},
            width=10,
            height=8,
            sort=("costs",),
            empty="no steps",
        ),
    ),
    height=3,
)

OVER_TIME = Row(
    "Since when",
    (
        Lanes(
            "Who holds the others up",
            "Share of the run's time lost to waiting for a rank. With more than 48 ranks a lane is the"
            " worst of ten (x) or a hundred (xx). A lane that stands out is the rank to look at.",
            Query("max by (lane) (run_lane:training_self_excess_ratio:max{<run>})", "rank {{lane}}"),
            low=0,
            high=5 * LIMITS["straggler_ratio_max"],
        ),
        Lanes(
            "Step time, by rank",
            "Wall time of a step over the median of the time shown. All ranks of a synchronous run take as"
            " long as the slowest, so here all lanes change at once.",
            Query(
                "max by (lane) (run_lane:training_step_duration_seconds:max2m{<run>})"
                " / scalar(avg(quantile_over_time("
                "0.5, run_lane:training_step_duration_seconds:max2m{<run>}[$__range] @ end())))",
                "rank {{lane}}",
            ),
            unit="percentunit",
            low=0,
            high=4,
        ),
        PHASES_BY_RANK,
        TimeSeries(
            "Ranks by phase",
            "All ranks, by the phase that they are in at the moment of the scrape.",
            Query("sum by (phase) (run_phase:training_ranks:count{<run>}) > 0", "{{phase}}"),
            stacked=True,
            colors=PHASES,
            height=8,
        ),
        TimeSeries(
            "Ranks by state",
            "All ranks, and the number that the launcher started.",
            (
                Query("count by (state) (run_rank:training_state:newest_start{<ranks>})", "{{state}}"),
                Query("max(run:training_world_size:max{<run>})", "world size"),
            ),
            colors=STATES,
            dashed=("world size",),
            height=8,
        ),
    ),
    width=12,
    height=10,
    collapsed=True,
)

APART = Row(
    "How far apart",
    (
        TimeSeries(
            "Time of their own",
            "Time of a step in which a rank waits for no other, over the ranks.",
            tuple(
                Query(f"quantile({level}, {OWN})", name)
                for level, name in ((1, "max"), (0.95, "p95"), (0.5, "median"), (0, "min"))
            ),
        ),
        TimeSeries(
            "Difference by phase",
            "Share of time in a phase, highest rank less lowest. A slow rank stands out where it is slow.",
            Query("max by (phase) (run_phase:training_phase_seconds:range2m{<run>}) > 0", "{{phase}}"),
            unit="percentunit",
            colors=PHASES,
        ),
        Band(
            "Collectives behind",
            "Behind the rank that has begun most. Ranks scraped at different moments differ by a few.",
            LAG,
        ),
        Band(
            "Steps behind",
            "Behind the rank that is furthest.",
            "clamp_min(scalar(max(run:training_step:max{<run>})) - training_step{<ranks>}, 0)",
        ),
        Band(
            "Silence",
            "Time since a rank's last sign of life. One comes each second; the scrape interval adds to it.",
            "time() - training_heartbeat_timestamp_seconds{<ranks>}",
        ),
        BarGauge(
            "Most memory",
            "Resident memory of the processes that hold most.",
            Query(
                "topk(8, max by (rank) (training_process_resident_memory_bytes{<ranks>}))", "rank {{rank}}"
            ),
        ),
        TimeSeries(
            "Loader workers",
            "Processes of the data loaders, of all ranks.",
            Query("sum by (state) (training_loader_workers{<ranks>})", "{{state}}"),
            colors={"alive": "green", "dead": "red"},
        ),
        TimeSeries(
            "Evidence written",
            "Files with stacks and collective counts that ranks wrote when they made no progress.",
            "sum(increase(training_hang_evidence_total{<ranks>}[$__rate_interval]))",
            bars=True,
        ),
    ),
    collapsed=True,
)

DASHBOARD = Dashboard(
    "TrainBeacon / Ranks",
    "The ranks of one run: who is slow and why, who is missing, since when.",
    (WHO_ROW, OVER_TIME, APART),
    variables=RANK_VARIABLES,
    selectors=SELECTORS,
    annotations=ANNOTATIONS,
)
