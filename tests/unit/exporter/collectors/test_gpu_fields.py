"""Every field of a GPU, through the real pynvml, over the stand-in: values, gaps, and what is read seldom."""

from __future__ import annotations

import pytest

from tests.nvml_stub.node import ALL_LINKS, GPU0, GPU1, HOPPER, TWO_GPUS, Node, gpu, nvml
from tests.serving import wait_for
from trainbeacon import catalogue

TRAFFIC = {
    gpu("energy_joules_total"): 123456.789,
    gpu("clock_hertz", clock="graphics"): 1.98e9,
    gpu("clock_hertz", clock="sm"): 1.755e9,
    gpu("clock_hertz", clock="memory"): 2.619e9,
    gpu("throttled", reason="power_cap"): 1.0,
    gpu("throttled", reason="software_thermal"): 0.0,
    gpu("throttled", reason="hardware_thermal"): 1.0,
    gpu("throttled", reason="power_brake"): 0.0,
    gpu("throttled", reason="hardware_slowdown"): 0.0,
    gpu("throttled", reason="sync_boost"): 0.0,
    gpu("nvlink_bytes_total", direction="transmitted"): 3 * 1024.0,
    gpu("nvlink_bytes_total", direction="received"): 5 * 1024.0,
    gpu("pcie_bytes_total", direction="transmitted"): 700.0,
    gpu("pcie_bytes_total", direction="received"): 900.0,
}
SLOW = {
    gpu("sm_clock_max_hertz"): 1.98e9,
    gpu("ecc_errors_total", kind="corrected"): 11.0,
    gpu("ecc_errors_total", kind="uncorrected"): 2.0,
    gpu("remapped_rows", kind="corrected"): 4.0,
    gpu("remapped_rows", kind="uncorrected"): 3.0,
    gpu("remapped_rows", kind="pending"): 1.0,
    gpu("remapped_rows", kind="failed"): 0.0,
    gpu("pcie_errors_total", kind="replay"): 8.0,
    gpu("pcie_errors_total", kind="correctable"): 31.0,
    gpu("pcie_errors_total", kind="nonfatal"): 32.0,
    gpu("pcie_errors_total", kind="fatal"): 33.0,
    gpu("nvlink_errors_total", kind="crc_flit"): 21.0,
    gpu("nvlink_errors_total", kind="crc_data"): 22.0,
    gpu("nvlink_errors_total", kind="replay"): 23.0,
    gpu("nvlink_errors_total", kind="recovery"): 24.0,
    gpu("nvlink_links_active"): 2.0,
    gpu("recovery_action"): 2.0,
    gpu("mig_enabled"): 0.0,
}
FULL = {**GPU0, **TRAFFIC, **SLOW, **GPU1, **nvml("ok")}
#: What takes a field of the scrape away, and the series that then are missing.
FIELDS = {
    "gpu0.energy": "energy_joules",
    "gpu0.clock_sm": 'clock_hertz{clock="sm"',
    "gpu0.clock_sm_max": "sm_clock_max_hertz",
    "gpu0.event_reasons": "throttled",
    f"gpu0.field138.{ALL_LINKS}": 'nvlink_bytes_total{direction="transmitted"',
    "gpu0.field198": 'pcie_bytes_total{direction="received"',
    "gpu0.ecc_uncorrected": 'ecc_errors_total{gpu="0",kind="uncorrected"',
    "gpu0.rows_corrected": "remapped_rows",
    "gpu0.pcie_replays": 'pcie_errors_total{gpu="0",kind="replay"',
    "gpu0.field45": 'nvlink_errors_total{gpu="0",kind="crc_data"',
    "gpu0.field180": 'pcie_errors_total{gpu="0",kind="fatal"',
    "gpu0.field230": "recovery_action",
    "gpu0.mig": "mig_enabled",
}
#: Of the profile: what the GPU has counted at three times; 5 s and then 10 s pass.
PROFILE = [
    {"gpu0.gpm_clock": 100, "gpu0.gpm2": 0, "gpu0.gpm3": 50, "gpu0.gpm5": 7, "gpu0.gpm10": 0},
    {"gpu0.gpm_clock": 105, "gpu0.gpm2": 400, "gpu0.gpm3": 175, "gpu0.gpm5": 7, "gpu0.gpm10": 50},
    {"gpu0.gpm_clock": 115, "gpu0.gpm2": 600, "gpu0.gpm3": 675, "gpu0.gpm5": 1007, "gpu0.gpm10": 55},
]


def profile(sm: float, occupancy: float, tensor: float, memory: float) -> dict[str, float]:
    return {
        gpu("sm_active_ratio"): sm,
        gpu("sm_occupancy_ratio"): occupancy,
        gpu("tensor_active_ratio"): tensor,
        gpu("memory_active_ratio"): memory,
    }


def lacking(series: dict[str, float], what: str) -> dict[str, float]:
    return {name: value for name, value in series.items() if f"training_gpu_{what}" not in name}


def test_every_field(node: Node) -> None:
    """A GPU that tells everything is served with everything, in base units, whatever type NVML answers in."""
    node.show(TWO_GPUS, HOPPER)
    assert FULL == node.scrape()


@pytest.mark.parametrize("gap", ["not_supported", "no_permission", None])
def test_missing_field_takes_no_other_with_it(node: Node, gap: str | None) -> None:
    """A field that the board lacks or this user may not read is absent, and everything else is there."""
    wrong = {}
    for field, series in FIELDS.items():
        node.show(TWO_GPUS, HOPPER, {field: gap})
        served = node.scrape()
        if served != lacking(FULL, series):
            wrong[field] = served.keys() ^ lacking(FULL, series).keys()
        node.tell("advance 61")
    assert {} == wrong


def test_virtual_gpu(node: Node) -> None:
    """A GPU in a virtual machine that tells its name and memory only is served with these, without error."""
    vgpu = {key: value for key, value in TWO_GPUS.items() if "power" not in key and "temperature" not in key}
    node.show(vgpu, {"gpu0.utilization": "no_permission", "gpu0.fields": "function_not_found"})
    expected = {
        name: value
        for name, value in GPU0.items()
        if not any(lack in name for lack in ("power", "temperature", "utilization"))
    }
    assert expected == {name: value for name, value in node.scrape().items() if 'gpu="0"' in name}


def test_older_driver_names_throttling_otherwise(node: Node) -> None:
    """A driver that knows clock reasons by their older name only is asked by that."""
    older = {"gpu0.event_reasons": "function_not_found", "gpu0.throttle_reasons": 0x80 | 0x20}
    node.show(TWO_GPUS, older)
    reasons = {name: value for name, value in node.scrape().items() if "throttled" in name}
    assert {"power_brake", "software_thermal"} == {
        reason for reason in catalogue.hardware.THROTTLE_REASONS if reasons[gpu("throttled", reason=reason)]
    }


def test_an_idle_gpu_is_not_throttled(node: Node) -> None:
    """Low clocks of an idle GPU, and clocks that somebody set, are no throttling."""
    node.show(TWO_GPUS, {"gpu0.event_reasons": 0x1 | 0x2 | 0x100})
    assert {0.0} == {value for name, value in node.scrape().items() if "throttled" in name}


def test_slow_fields_are_kept_for_half_a_minute(node: Node) -> None:
    """Traffic is read at every scrape; error counters are read anew when half a minute is over."""
    node.show(TWO_GPUS, HOPPER)
    node.scrape()
    changed = {"gpu0.ecc_corrected": 12, "gpu0.field38": 99, "gpu0.energy": 123456790}
    node.show(TWO_GPUS, HOPPER, changed)
    node.tell("advance 15")
    assert {**FULL, gpu("energy_joules_total"): 123456.79} == node.scrape()
    node.tell("advance 15")
    assert {
        **FULL,
        gpu("energy_joules_total"): 123456.79,
        gpu("ecc_errors_total", kind="corrected"): 12.0,
        gpu("nvlink_errors_total", kind="crc_flit"): 99.0,
    } == node.scrape()


def test_unexpected_error_of_a_slow_field(node: Node) -> None:
    """A slow field that fails in an unknown way is said once and absent; all others are served."""
    node.show(TWO_GPUS, HOPPER, {"gpu0.rows_corrected": "unknown"})
    assert lacking(FULL, "remapped_rows") == node.scrape(raises="NVMLError_Unknown: Unknown Error")


def test_gpu_lost_while_its_slow_fields_are_read(node: Node) -> None:
    """A GPU that falls off the bus in the middle of a scrape has up 0 and no stale figures."""
    node.show(TWO_GPUS, HOPPER, {"gpu0.rows_corrected": "lost"})
    assert {gpu("up"): 0.0, **GPU1, **nvml("ok")} == node.scrape()


def test_mig_instances(node: Node) -> None:
    """A GPU in MIG mode names its instances, in whichever places they are; what MIG hides is absent."""
    mig = {"gpu0.mig": 1, "gpu0.mig0": "MIG-aaaa", "gpu0.mig3": "MIG-bbbb", "gpu0.utilization": None}
    node.show(TWO_GPUS, HOPPER, mig)
    name = "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert {
        **lacking(FULL, "utilization_ratio"),
        gpu("utilization_ratio", 1): 1.0,
        gpu("mig_enabled"): 1.0,
        gpu("mig_info", uuid="MIG-aaaa", name=name): 1.0,
        gpu("mig_info", uuid="MIG-bbbb", name=name): 1.0,
    } == node.scrape()


def test_profile_is_measured_from_scrape_to_scrape(node: Node) -> None:
    """Profile metrics are absent at the first scrape; each later one covers the time since the one before."""
    seen = []
    for counted, seconds in zip(PROFILE, (5, 10, 0), strict=True):
        node.show(TWO_GPUS, counted)
        served = node.scrape()
        seen.append({name: served[name] for name in profile(0, 0, 0, 0) if name in served})
        node.tell(f"advance {seconds}")
    assert [{}, profile(0.8, 0.25, 0.0, 0.1), profile(0.2, 0.5, 1.0, 0.005)] == seen


def test_two_scrapers_at_once_share_a_profile(node: Node) -> None:
    """A second scraper right after the first is served the same figures, not those of some milliseconds."""
    for counted in PROFILE[:2]:
        node.show(TWO_GPUS, counted)
        first = node.scrape()
        node.tell("advance 5")
    node.tell("advance -4.5")
    node.show(TWO_GPUS, PROFILE[2])
    assert first == node.scrape()


def test_profile_samples_are_given_back(node: Node) -> None:
    """Scraping for a long time holds no more than one sample a GPU: the library has few."""
    for clock in range(20):
        node.show(TWO_GPUS, {"gpu0.gpm_clock": clock, "gpu0.gpm2": 50 * clock})
        last = node.scrape()
        node.tell("advance 1")
    assert 0.5 == last[gpu("sm_active_ratio")]
    for clock in range(20, 30):  # opened anew each time, since the other GPU is lost
        node.show(TWO_GPUS, {"gpu0.gpm_clock": clock, "gpu0.gpm2": 50 * clock, "gpu1.fault": "lost"})
        node.tell("advance 61")
        node.scrape()
    node.tell("advance 2")
    node.show(TWO_GPUS, {"gpu0.gpm_clock": 31, "gpu0.gpm2": 1500, "gpu1.fault": "lost"})
    assert gpu("sm_active_ratio") in node.scrape()


def test_profile_part_that_the_gpu_lacks(node: Node) -> None:
    """A profile metric that the GPU does not count is absent, the others are served."""
    for counted in PROFILE[:2]:
        node.show(TWO_GPUS, counted, {"gpu0.gpm5": None})
        served = node.scrape()
        node.tell("advance 5")
    assert {0.8, 0.25, 0.1} == {served[name] for name in profile(0, 0, 0, 0) if name in served}


def test_worst_gpu_stays_within_its_budget(node: Node) -> None:
    """A GPU with every field, seven MIG instances and XIDs has no more series than we promised."""
    everything = {
        **HOPPER,
        "gpu0.mig": 1,
        **{f"gpu0.mig{place}": f"MIG-{place}" for place in range(7)},
        "gpu0.events": 8,
    }
    for number, counted in enumerate(PROFILE[:2]):
        node.tell("advance 5")
        node.show(TWO_GPUS, everything, counted, {"event1": "0 79"} if number else {})
        node.scrape()
    served = wait_for(lambda: first if gpu("xid_last") in (first := node.scrape()) else None)
    served = [name for name in served if 'gpu="0"' in name]
    names = {metric.name for metric in catalogue.ALL if metric.level == "gpu"}
    assert 61 == len(served) == catalogue.BUDGETS["gpu"]
    assert names == {name.partition("{")[0] for name in served}
