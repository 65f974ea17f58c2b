"""The incidents and controls of a cluster, and what may be reported of each.

As in the campaign, `expected` are the alerts of which one must arrive, `consequences` are true as well, and
whatever else arrives with severity warning or critical is a false alarm. Written down before it was played.
"""

from __future__ import annotations

from tests.campaign.kinds.kind import BLIND, FAILED, LOST, STALLED, Kind
from tests.cluster import faults
from tests.cluster.faults import Fault

CLOCK = "TrainBeaconClockOff"
SLOW = ("TrainingStraggler", "TrainingThroughputDrop", "TrainingHostNetworkErrors")
GONE = (BLIND, LOST, "TrainingRanksLost")
SMALL, LARGE = (2, 2, 3), (4,)

FAULTS: tuple[Fault, ...] = (
    Fault(
        Kind(
            "rank_oom",
            "a rank is killed by its host's limit of memory",
            (LOST,),
            (FAILED,),
            count=6,
            worlds=SMALL,
        ),
        faults.eat,
    ),
    Fault(
        Kind(
            "host_oom",
            "the limit of memory kills the whole container, exporter and all",
            GONE,
            (FAILED, STALLED),
            count=4,
            worlds=SMALL,
            within=240,
        ),
        faults.eat_all,
    ),
    Fault(
        Kind(
            "host_lost",
            "power off; then the run goes on with another host in its place",
            GONE,
            (FAILED, STALLED),
            count=6,
            worlds=SMALL,
            within=240,
            closed="at work again|seen again|later attempt",
            end="move",
            end_within=420,
        ),
        faults.lose,
        faults.move,
    ),
    Fault(
        Kind(
            "host_lost_smaller",
            "power off; then the run goes on with two hosts fewer",
            GONE,
            (FAILED, STALLED),
            count=3,
            worlds=LARGE,
            within=240,
            closed="at work again|seen again|later attempt",
            end="shrink",
            end_within=420,
        ),
        faults.lose,
        faults.shrink,
    ),
    Fault(
        Kind(
            "host_cut_off",
            "link down to the other hosts and to Prometheus; then it is up again",
            (BLIND, STALLED, LOST),
            (FAILED,),
            count=6,
            worlds=SMALL,
            within=300,
            closed=".",
            end="plug",
            end_within=420,
        ),
        faults.cut,
        faults.plug,
    ),
    Fault(
        Kind(
            "prometheus_cut_off",
            "Prometheus alone cannot reach a host, and then can; training goes on",
            (BLIND,),
            count=6,
            worlds=SMALL,
            within=240,
            closed="seen again",
            end="show",
            end_within=420,
        ),
        faults.hide,
        faults.show,
        goes_on=True,
    ),
    Fault(
        Kind(
            "two_tenants",
            "a rank of one of two tenants on the same hosts is killed",
            (LOST,),
            (FAILED,),
            count=4,
            worlds=(2,),
        ),
        faults.eat,
        second=True,
    ),
    Fault(
        Kind(
            "clock_off",
            "the clock of one host is five minutes ahead",
            (CLOCK,),
            count=3,
            worlds=(2,),
            within=540,
            before=(0, 0),
        ),
        faults.do_nothing,
        clock=300,
        goes_on=True,
    ),
    Fault(
        Kind(
            "bad_link",
            "a host's link loses a fifth of its packets and takes 200 ms",
            SLOW,
            (BLIND,),
            count=3,
            worlds=(2, 3),
            within=780,
        ),
        faults.spoil,
        goes_on=True,
    ),
    Fault(
        Kind(
            "lost_unwatched",
            "a host is lost while Prometheus is away",
            GONE,
            (FAILED, STALLED),
            count=3,
            worlds=SMALL,
            within=300,
        ),
        faults.take_away("prometheus", 30),
        server="prometheus",
        act_each=faults.lose,
    ),
    Fault(
        Kind(
            "lost_unnotified",
            "a rank is killed by its host's limit while Alertmanager is away",
            (LOST,),
            (FAILED,),
            count=3,
            worlds=SMALL,
            within=180,
        ),
        faults.take_away("alertmanager", 45),
        server="alertmanager",
        act_each=faults.eat,
    ),
    *(
        Fault(
            Kind(
                f"{server}_restarted_midway",
                f"a rank is killed by its host's limit; once reported, {summary}; then the run starts again",
                (LOST,),
                (FAILED,),
                count=3,
                worlds=SMALL,
                after=60,
                closed="at work again|later attempt",
                end="start_again",
                end_within=240,
            ),
            faults.eat,
            faults.start_again,
            midway=midway,
            server=server if server != "agent" else "",
            agents=server == "agent",
        )
        for server, summary, midway in (
            ("prometheus", "Prometheus is away for half a minute", faults.take_away("prometheus", 30)),
            ("alertmanager", "Alertmanager is away for half a minute", faults.take_away("alertmanager", 30)),
            ("agent", "each host's agent is ended and started anew", faults.roll),
        )
    ),
)

CONTROLS: tuple[Fault, ...] = (
    Fault(
        Kind("healthy", "nothing", (), count=4, after=150, worlds=(2, 3, 4)), faults.do_nothing, goes_on=True
    ),
    Fault(
        Kind("shm_full", "`/dev/shm` fills up under a run", (), count=3, after=150, worlds=SMALL),
        faults.fill,
        goes_on=True,
    ),
    Fault(
        Kind("drained", "every rank gets SIGTERM, saves and ends", (), count=3, after=180, worlds=SMALL),
        faults.drain,
    ),
    Fault(
        Kind(
            "rescheduled", "SIGTERM, and the run goes on on other hosts", (), count=3, after=150, worlds=(2,)
        ),
        faults.reschedule,
        goes_on=True,
    ),
    Fault(
        Kind(
            "smaller_again",
            "the run has ended, and goes on with two hosts fewer",
            (),
            count=2,
            after=150,
            worlds=LARGE,
        ),
        faults.finish_and_shrink,
        goes_on=True,
    ),
    Fault(
        Kind(
            "agents_upgraded",
            "the agent of each host is ended and started anew",
            (),
            count=3,
            after=150,
            worlds=SMALL,
        ),
        faults.roll,
        goes_on=True,
        agents=True,
    ),
    Fault(
        Kind(
            "prometheus_restarted",
            "Prometheus is away for half a minute",
            (),
            count=3,
            after=150,
            worlds=SMALL,
        ),
        faults.take_away("prometheus", 30),
        server="prometheus",
        goes_on=True,
    ),
    Fault(
        Kind(
            "alertmanager_restarted",
            "Alertmanager is away for half a minute",
            (),
            count=2,
            after=120,
            worlds=SMALL,
        ),
        faults.take_away("alertmanager", 30),
        server="alertmanager",
        goes_on=True,
    ),
)

BY_NAME = {each.kind.name: each for each in (*FAULTS, *CONTROLS)}
#: What CI plays: two faults and two controls at once.
SHORT = {"host_lost": 1, "prometheus_cut_off": 1, "drained": 1, "healthy": 1}
