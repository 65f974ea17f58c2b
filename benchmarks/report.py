"""The table of README.md, from the raw data of one run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report_peers import Row, beside, footprint, spread

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_readme(path: Path, results: dict[str, Any], raw: str) -> None:
    """Put the table between the markers of the file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    kind = "a quick run" if results["quick"] else f"{results['seconds']} s"
    source = f"From [results/{raw}](results/{raw}) ({kind})."
    path.write_text(f"{before}{BEGIN}\n{source}\n\n{table(results)}\n{END}{after}", encoding="utf-8")


def table(results: dict[str, Any]) -> str:
    """What was measured, beside what, with the budget: Markdown."""
    rows: list[Row] = [("what", "ours", "beside, in the same run", "budget"), ("---",) * 4]  # type: ignore[list-item]
    rows += [*_recording(results["recording"]), *beside(results["beside_peers"])]
    rows += [*_hooked(results["hooked_step"]), *_startup(results["startup"])]
    rows += [*footprint(results["footprint"]), *_interference(results["scrape_interference"])]
    told = results["surroundings"]
    versions = ", ".join(f"{name} {version}" for name, version in told["packages"].items())
    parts = [part for name, part in results.items() if isinstance(part, dict) and name != "surroundings"]
    loads = ", ".join(f"{part['load_average'][0][0]:g}" for part in parts)
    machine = (
        f"{told['processor']}, {told['cores']} cores; Python {told['python']}; {versions}. "
        f"Load average at the start of each part: {loads}."
    )
    return "\n".join(["| " + " | ".join(row) + " |" for row in rows] + ["", machine])


def _recording(part: dict[str, Any]) -> Iterator[Row]:
    step, base = part["step"], "prometheus-client"
    direct, files = _figure(step[base]), _figure(step[f"{base} multiprocess"])
    others = f"{direct} us prometheus-client, {files} us multiprocess mode"
    for case, budget in (("same operations", "5 us"), ("same, through the API", "")):
        figures = step[f"trainbeacon: {case}"]
        share = f"; theirs takes {_ratio(figures, base)} times as long"
        yield (
            f"30 gauges, 6 observations, 1 counter: {case}",
            f"{_figure(figures)} us",
            others + share,
            budget,
        )
    log, base = part["log"], "prometheus-client: 10 cached gauges"
    by_label = _figure(log["prometheus-client: 10 gauges by labels()"])
    figures = log["trainbeacon: log of 10 numbers"]
    cached = f"{_figure(log[base])} us for 10 cached gauges ({_ratio(figures, base)} times as long)"
    others = f"{cached}, {by_label} us by `labels()`"
    yield "`beacon.log` of 10 numbers", f"{_figure(figures)} us", others, "2.5 us"
    mixed, loss = log["trainbeacon: log of loss, accuracy and 8 numbers"], log["trainbeacon: log of a loss"]
    yield (
        "`beacon.log` of loss, accuracy and 8 numbers; of a loss alone",
        f"{_figure(mixed)} us; {_figure(loss)} us",
        "",
        "",
    )
    names = ("two phase switches", "end_step", "commit", "store into a slot")
    alone = "; ".join(f"{_figure(part['primitives'][name])}" for name in names)
    yield (
        f"{'; '.join(names)}",
        f"{alone} us",
        f"{_figure(part['primitives']['nothing'])} us for an empty call",
        "",
    )


def _hooked(part: dict[str, Any]) -> Iterator[Row]:
    cases = part["cases"]
    for name, budget in (
        ("watch, batches, log", "30 us"),
        ("watch", ""),
        ("watch, batches, log, clipped", ""),
    ):
        case = cases[name]
        base = cases["plain, clipped" if "clipped" in name else "plain"]["microseconds"]["median"]
        yield (
            f"hooked step: {name}",
            f"{spread(case['more_than_plain'])} us more",
            f"{base:.0f} us a plain step{' with clipping' if 'clipped' in name else ''}",
            budget,
        )


def _startup(part: dict[str, Any]) -> Iterator[Row]:
    for serve, figures in part["milliseconds"].items():
        wall, processor = (spread(figures[f"both, {clock}"]) for clock in ("wall", "processor"))
        heavy = "loaded with it: " + (", ".join(part["heavy_modules_loaded"]) or "nothing heavy")
        yield (
            f'import and `start(serve="{serve}")`',
            f"{wall} ms; {processor} ms of processor time",
            heavy,
            "150 ms",
        )


def _interference(part: dict[str, Any]) -> Iterator[Row]:
    labels = {"process": 'serve="process"', "thread": 'serve="thread"'}
    for kind, modes in part["milliseconds"].items():
        for mode, label in labels.items():
            ours, theirs = modes[mode], modes["prometheus-client"]
            if kind != "holding the GIL":
                others = [("for prometheus-client's thread", theirs), ("with no scrape", modes["none"])]
                others.append(("with other work of 50 ms in place of it", modes["other work"]))
                beside = "; ".join(f"{_lost(figures)} {name}" for name, figures in others)
                yield (
                    f"training time lost to a scrape of {part['series'][mode]} series, {kind}, {label}",
                    _lost(ours),
                    beside,
                    "none with a core to spare" if kind == "a core to spare" and mode == "process" else "",
                )
            budget = "10 ms median, 50 ms worst" if kind == "holding the GIL" and mode == "process" else ""
            yield f"the scrape, {kind}, {label}", _latency(ours["scrape"]), _latency(theirs["scrape"]), budget


def _lost(figures: dict[str, Any]) -> str:
    lost, share = figures["lost_to_a_scrape"], figures["lost_share_of_the_scrape"]
    return f"{spread(lost)} ms, {share['median']:.2f} of its time" if share else "-"


def _latency(figures: dict[str, Any]) -> str:
    return (
        f"{figures['median']:.3g} ms median, {figures['most']:.3g} ms worst of {figures['count']}"
        if "median" in figures
        else "-"
    )


def _figure(case: dict[str, Any]) -> str:
    return f"{case['microseconds']['median']:.3g}"


def _ratio(case: dict[str, Any], base: str) -> str:
    return f"{case[f'{base}/this']['median']:.2g}"
