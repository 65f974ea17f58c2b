"""The promise of the dashboards: every panel asks for what exists, in its unit, at any size of run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import promql_parser as promql
import pytest
import yaml

from grafana.build import generate
from grafana.common import CONDITIONS, LIMITS, PHASES
from grafana.rows.verdict import CULPRITS, DEPENDS, actions
from trainbeacon.catalogue import BY_NAME
from trainbeacon.verdict.alerts import rules

Json = dict[str, Any]
MODELS: dict[str, Json] = {name: json.loads(text) for name, text in generate().items()}
RULES: dict[str, str] = {}
for file in sorted((Path(__file__).parents[2] / "prometheus/rules").rglob("*.yml")):
    for group in yaml.safe_load(file.read_text())["groups"]:
        RULES |= {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}

#: What Prometheus itself serves, with unit and labels.
ALERT = {
    "alertname",
    "alertstate",
    "severity",
    "run",
    "rank",
    "hostname",
    "gpu",
    "exception",
    "kind",
    "reason",
}
OWN: dict[str, tuple[str, set[str]]] = {
    "up": ("", set()),
    "scrape_duration_seconds": ("seconds", set()),
    "scrape_samples_scraped": ("", set()),
    "scrape_series_added": ("", set()),
    "ALERTS": ("", ALERT),
    "ALERTS_FOR_STATE": ("seconds", ALERT),
}
#: What other exporters serve, as their documentation says, where a panel joins them.
DCGM = {"UUID", "Hostname", "hostname", "gpu", "modelName"}
OTHERS: dict[str, tuple[str, set[str]]] = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("ratio", DCGM),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("ratio", DCGM),
    "DCGM_FI_DEV_MEMORY_TEMP": ("celsius", DCGM),
    "DCGM_FI_DEV_XID_ERRORS": ("", DCGM),
    "node_uname_info": ("", {"nodename"}),
    "node_load1": ("", set()),
    "node_pressure_memory_waiting_seconds_total": ("seconds", set()),
    "node_filesystem_avail_bytes": ("bytes", {"device", "fstype", "mountpoint"}),
    "node_filesystem_size_bytes": ("bytes", {"device", "fstype", "mountpoint"}),
    "node_infiniband_port_data_received_bytes_total": ("bytes", {"device", "port"}),
    "node_gpu_hourly_cost": ("", {"node"}),
    "prometheus_rule_group_last_duration_seconds": ("seconds", {"rule_group"}),
    "prometheus_rule_evaluation_failures_total": ("", {"rule_group"}),
}
FOREIGN = OWN | OTHERS
TARGET = {"cluster", "namespace", "job", "instance", "pod"}  # labels that the scrape adds, or does not
HISTOGRAM = re.compile("_(bucket|sum|count)$")
GRAFANA_UNITS = {
    "": "short",
    "1/s": "cps",
    "seconds": "s",
    "ratio": "percentunit",
    "bytes": "bytes",
    "bytes/s": "Bps",
    "celsius": "celsius",
    "watts": "watt",
    "joules": "joule",
    "hertz": "hertz",
}
#: Quotients that are no ratio and no time, by the units of both sides.
QUOTIENTS = {
    ("", "watts"): "",
    ("", "1/s"): "seconds",
    ("ratio", "1/s"): "seconds",
    ("1/s", "watts"): "",
}
RATES = ("rate", "irate", "increase")
#: Counters that are compared between ranks as they are, or begin with what they count.
BARE = {"training_collectives_enqueued_total", "training_lost_steps_total"}
NUMBER = "number"  # a literal takes the unit of what stands beside it


def panels(model: Json) -> Iterator[Json]:
    """All panels but the rows, also those of collapsed rows."""
    for panel in model["panels"]:
        yield from panel.get("panels", [])
        if panel["type"] != "row":
            yield panel


PANELS = [
    pytest.param(panel, id=f"{Path(name).stem}: {panel['title']}")
    for name, model in MODELS.items()
    for panel in panels(model)
    if panel["type"] != "text"
]
dashboards = pytest.mark.parametrize("model", MODELS.values(), ids=[Path(name).stem for name in MODELS])
each_panel = pytest.mark.parametrize("panel", PANELS)
OF_ALL_RUNS = {"GPUs"}  # idle means that no run at all is there


@cache
def parse(expr: str) -> promql.Expr:
    """The expression as Grafana would send it, with some value for each of its own variables."""
    for name, value in (
        ("$__rate_interval", "1m"),
        ("$__interval_ms", "15000"),
        ("$__interval", "15s"),
        ("$price", "2"),
        ("$__range_s", "1800"),
        ("$__range", "30m"),
    ):
        expr = expr.replace(name, value)
    return promql.parse(expr)


def children(node: promql.Expr) -> Iterator[promql.Expr]:
    """The expressions right below one."""
    for name in ("expr", "lhs", "rhs", "param", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield child
    yield from getattr(node, "args", ())


def walk(node: promql.Expr) -> Iterator[promql.Expr]:
    """An expression and all below it."""
    yield node
    for child in children(node):
        yield from walk(child)


def selectors(expr: str) -> list[promql.VectorSelector]:
    """All selectors of series in an expression."""
    return [node for node in walk(parse(expr)) if isinstance(node, promql.VectorSelector)]


@cache
def labels_of(name: str, asked: frozenset[str] = frozenset()) -> set[str]:
    """The labels that the series of a name can have; fails for a name that nobody serves.

    Rules may read in a circle what they said before, which adds no label: `asked` has those under way.
    """
    if name in FOREIGN:
        return FOREIGN[name][1] | TARGET
    if name in RULES:
        asked |= {name}
        parts = {each.name for each in selectors(RULES[name])} - asked
        return made_in(RULES[name]).union(*(labels_of(part, asked) for part in parts))
    metric = BY_NAME.get(name) or BY_NAME.get(HISTOGRAM.sub("", name))
    assert metric is not None, f"neither the catalogue nor a rule has {name}"
    assert (metric.type == "histogram") == bool(HISTOGRAM.search(name)), name
    return {*metric.label_names, *TARGET} | ({"le"} if name.endswith("_bucket") else set())


def made_in(expr: str) -> set[str]:
    """The labels that an expression makes with label_replace or label_join."""
    return {
        node.args[1].val
        for node in walk(parse(expr))
        if isinstance(node, promql.Call) and node.func.name in {"label_replace", "label_join"}
    }


def is_counter(name: str) -> bool:
    """Whether the series of a name only ever grow while their process lives."""
    metric = BY_NAME.get(HISTOGRAM.sub("", name)) or BY_NAME.get(name)
    if metric is None:
        return name in OTHERS and name.endswith("_total")
    return metric.type in {"counter", "histogram"}


UNDER_WAY: list[str] = []


def unit_of(node: promql.Expr) -> str:
    """The unit of an expression's value, worked out from the catalogue's units."""
    if isinstance(node, promql.NumberLiteral):
        return NUMBER
    if isinstance(node, promql.VectorSelector):
        return _selector_unit(node.name)
    if isinstance(node, promql.Call):
        return _call_unit(node)
    if isinstance(node, promql.AggregateExpr):
        return "" if str(node.op) in {"count", "group"} else unit_of(node.expr)
    if isinstance(node, promql.BinaryExpr):
        return _binary_unit(node)
    return unit_of(next(children(node)))


def _selector_unit(name: str) -> str:
    if name in UNDER_WAY:  # rules read in circles what they held before
        return NUMBER
    if ":training_gpus_" in name:  # which may be shared
        return ""
    if name in RULES:
        UNDER_WAY.append(name)
        unit = unit_of(parse(RULES[name]))
        UNDER_WAY.remove(name)
        return unit
    if name in FOREIGN:
        return FOREIGN[name][0]
    metric = BY_NAME.get(name) or BY_NAME[HISTOGRAM.sub("", name)]
    return "" if name.endswith(("_bucket", "_count")) else metric.unit


def _call_unit(node: promql.Call) -> str:
    if node.func.name in {"time", "timestamp"}:
        return "seconds"
    if node.func.name == "histogram_quantile":
        bucket = next(each for each in walk(node) if isinstance(each, promql.VectorSelector))
        name = RULES.get(bucket.name, bucket.name)
        return next(each.unit for each in BY_NAME.values() if f"{each.name}_bucket" in name)
    if node.func.name in {"clamp_min", "round"}:
        return unit_of(node.args[0])
    if node.func.name in {"label_replace", "label_join", "changes"}:
        return unit_of(node.args[0]) if node.func.name != "changes" else ""
    unit = unit_of(node.args[-1])
    per_second = {"seconds": "ratio", "": "1/s", "bytes": "bytes/s", "joules": "watts"}
    return per_second[unit] if node.func.name == "rate" else unit


def _binary_unit(node: promql.BinaryExpr) -> str:
    left, operator = unit_of(node.lhs), str(node.op)
    if operator in {"and", "or", "unless"}:  # on the right a rule may read what it said before
        return left
    right = unit_of(node.rhs)
    if (
        operator == "-"
        and (left, right) == ("", "1/s")
        and NUMBER == unit_of(getattr(node.rhs, "lhs", node.lhs))
    ):
        right = ""  # seconds times a rate: what is made in that time
    if operator in {"==", "!=", "<", ">", "<=", ">="}:
        return "" if node.modifier and node.modifier.return_bool else left
    if operator == "*":
        zeroed = 0 in (getattr(node.lhs, "val", None), getattr(node.rhs, "val", None))
        return NUMBER if zeroed else max({left, right} - {NUMBER}, key=len, default=NUMBER)
    if operator == "/":
        if right == NUMBER and "gpu_seconds" in str(node.lhs):
            return ""  # GPUs, or GPU-hours
        if NUMBER in {left, right}:
            return left
        return QUOTIENTS.get((left, right), "ratio" if left == right else left)
    assert left == right or NUMBER in {left, right}, (
        f"{left or 'count'} {operator} {right or 'count'}: {node}"
    )
    return right if left == NUMBER else left


def overridden(panel: Json, name: str, key: str) -> Any:
    """What a panel says of one field by name, else None."""
    for override in panel["fieldConfig"]["overrides"]:
        if override["matcher"] == {"id": "byName", "options": name}:
            for each in override["properties"]:
                if each["id"] == key:
                    return each["value"]
    return None


def test_committed_files_are_what_the_sources_say(repository: Path) -> None:
    """Each committed dashboard equals its source, and building twice gives the same text."""
    committed = {
        str(path.relative_to(repository)): path.read_text()
        for path in sorted((repository / "grafana/dashboards").iterdir())
    }
    assert generate() == committed == generate()


@dashboards
def test_dashboard_fits_every_grafana(model: Json) -> None:
    """It has a stable address, an old schema, panels that Grafana 10 to 13 have, and fits a ConfigMap."""
    known = {"timeseries", "stat", "bargauge", "table", "heatmap", "state-timeline", "text", "trend"}
    assert re.fullmatch("trainbeacon-[a-z-]{1,28}", model["uid"])
    assert model["schemaVersion"] == 39
    assert {panel["type"] for panel in panels(model)} <= known
    assert not model["editable"]
    assert len(json.dumps(model, separators=(",", ":"))) < 200_000


def test_addresses_and_titles_are_unique() -> None:
    """No dashboard takes another's address or name."""
    for key in ("uid", "title"):
        assert len(MODELS) == len({model[key] for model in MODELS.values()})


@dashboards
def test_panels_share_the_grid_without_overlap(model: Json) -> None:
    """Every panel has an id and a place of its own, within the 24 columns."""
    everything = [*panels(model), *(panel for panel in model["panels"] if panel["type"] == "row")]
    for together in (model["panels"], *(panel["panels"] for panel in model["panels"] if "panels" in panel)):
        cells = [
            (place["x"] + x, place["y"] + y)
            for place in (panel["gridPos"] for panel in together)
            for x in range(place["w"])
            for y in range(place["h"])
        ]
        assert len(cells) == len(set(cells))
        assert all(x < 24 for x, _ in cells)
    assert len(everything) == len({panel["id"] for panel in everything})


@dashboards
def test_no_data_source_is_hard_coded(model: Json) -> None:
    """The user chooses the data source; until then it is Grafana's default, and nothing names another."""
    first = model["templating"]["list"][0]
    assert ("datasource", "datasource", "Data source") == (first["type"], first["name"], first["label"])
    assert {"text": "default", "value": "default"} == first["current"]
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels(model):
        if panel["type"] != "text":
            assert [chosen] * (1 + len(panel["targets"])) == [
                panel["datasource"],
                *(target["datasource"] for target in panel["targets"]),
            ]
    asking = [each for each in model["templating"]["list"][1:] if each["type"] == "query"]
    for each in (*asking, *model["annotations"]["list"]):
        assert chosen == each["datasource"]


@dashboards
def test_variables_narrow_down(model: Json) -> None:
    """From cluster to GPU each variable follows those before it, asks for what exists, and keeps up."""
    order = ["cluster", "namespace", "project", "owner", "counted", "run", "rank", "job", "instance", "gpu"]
    variables = [each for each in model["templating"]["list"][1:] if each["type"] == "query"]
    names = [each["name"] for each in variables]
    assert [name for name in order if name in names] == names
    for number, variable in enumerate(variables):
        function, inner = re.fullmatch(r"(\w+)\((.*)\)", variable["definition"]).groups()
        inner, _, label = inner.rpartition(", ") if function == "label_values" else (inner, "", "")
        (selector,) = selectors(inner)
        assert (label or variable["name"]) in labels_of(selector.name)
        used = [matcher.name for matcher in selector.matchers.matchers]
        assert used == [name for name in names[:number] if name in used]
        assert {"cluster", "namespace"} & set(names[:number]) <= set(used)
        assert variable["definition"] == variable["query"]["query"]
        assert variable["refresh"] == 2


@dashboards
def test_all_is_chosen_at_first_and_matches_a_missing_label(model: Json) -> None:
    """Where a label may not exist All is `.*`; All of what surely exists are the values on offer."""
    missing = {"cluster", "namespace", "project", "owner", "counted", "rank", "gpu"}
    if model["uid"] == "trainbeacon-efficiency":
        missing |= {"run"}  # thousands in a quarter of a year; GPUs that are idle are of none
    for variable in model["templating"]["list"][1:]:
        if variable.get("includeAll"):
            expected = ".*" if variable["name"] in missing else None
            assert (expected, ["$__all"]) == (variable["allValue"], variable["current"]["value"])


@dashboards
def test_dashboards_link_to_each_other(model: Json) -> None:
    """The menu lists all dashboards by a tag that this one has too, and keeps time and variables."""
    (link,) = model["links"]
    assert link["tags"][0] in model["tags"]
    assert link["keepTime"]
    assert link["includeVars"]


@dashboards
def test_links_lead_to_dashboards_and_variables_that_exist(model: Json) -> None:
    """A click on a run or a rank leads to its dashboard, with time range and place kept."""
    variables = {
        each["uid"]: {variable["name"] for variable in each["templating"]["list"]} for each in MODELS.values()
    }
    for url in re.findall(r'"url": "(/d/[^"]+)"', json.dumps(model)):
        uid, _, query = url.removeprefix("/d/").partition("?")
        chosen = set(re.findall(r"var-(\w+)=", query))
        kept = set(re.findall(r"\${(\w+):queryparam}", query))
        assert chosen | kept <= variables[uid]
        assert kept <= variables[model["uid"]]
        assert "${__url_time_range}" in query


@dashboards
def test_events_are_marked(model: Json) -> None:
    """Annotations ask for what exists, of what is chosen, and name the alert."""
    assert "Firing alerts" in {each["name"] for each in model["annotations"]["list"]}
    for annotation in model["annotations"]["list"]:
        used = set().union(*(labels_of(each.name) for each in selectors(annotation["expr"])))
        assert set(re.findall(r"{{(\w+)}}", annotation["titleFormat"] + annotation["textFormat"])) <= used
        for selector in selectors(annotation["expr"]):
            assert {"cluster", "namespace"} <= {each.name for each in selector.matchers.matchers}


@each_panel
def test_panel_says_what_it_shows(panel: Json) -> None:
    """A panel has a title, a description that is a sentence, and queries."""
    assert panel["title"]
    assert re.fullmatch(r"[A-Z].*\.", panel["description"])
    assert panel["targets"]


@each_panel
def test_series_have_names(panel: Json) -> None:
    """Every series has a legend, or it would be shown as an expression; no two queries have the same."""
    names = [target["legendFormat"] for target in panel["targets"]]
    if panel["type"] == "table":
        names = [name for name in names if name]
    assert all(names)
    assert len(names) == len(set(names))


@each_panel
def test_metrics_and_labels_exist(panel: Json) -> None:
    """Every metric is in the catalogue or recorded, and every label of a query or legend belongs to it."""
    for target in panel["targets"]:
        known = made_in(target["expr"]).union(*(labels_of(each.name) for each in selectors(target["expr"])))
        for selector in selectors(target["expr"]):
            assert {each.name for each in selector.matchers.matchers} <= labels_of(selector.name)
        used = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        for node in walk(parse(target["expr"])):
            modifier = getattr(node, "modifier", None)
            used |= set(getattr(modifier, "labels", ()))
            used |= set(getattr(getattr(modifier, "matching", None), "labels", ()))
        assert used <= known


@each_panel
def test_panel_is_of_what_is_chosen(panel: Json) -> None:
    """Every selector names cluster and namespace, and run, host or job, or is narrowed to the run's own."""
    for target in panel["targets"]:
        for selector in selectors(target["expr"]):
            chosen = {each.name: each.value for each in selector.matchers.matchers}
            place = chosen.get("cluster") == "$cluster" and chosen.get("namespace") == "$namespace"
            if selector.name.startswith("cluster:"):  # of all namespaces and runs
                assert chosen in ({"cluster": "$cluster"}, {"cluster": ""})  # a price may be of all clusters
                continue
            narrowed = re.search(
                r"on \((cluster, namespace, )?(instance(, pod, gpu)?|UUID)\) ", target["expr"]
            )
            if selector.name in OTHERS:
                assert narrowed or selector.name.startswith("prometheus_")
            elif not place:
                assert narrowed
                assert "run" not in labels_of(selector.name)
            elif "run" in labels_of(selector.name) and panel["title"] not in OF_ALL_RUNS:
                assert {"run", "instance", "alertname"} & set(chosen)


@each_panel
def test_counters_are_rated_over_grafanas_interval(panel: Json) -> None:
    """A counter stands only in rate() or increase(), these only take counters, and never a fixed range."""
    for target in panel["targets"]:
        ranges = [
            (node.func.name in RATES, argument.vector_selector.name)
            for node in walk(parse(target["expr"]))
            if isinstance(node, promql.Call)
            for argument in node.args
            if isinstance(argument, promql.MatrixSelector)
        ]
        rated = sorted(name for is_rate, name in ranges if is_rate)
        counters = sorted(each.name for each in selectors(target["expr"]) if is_counter(each.name))
        assert rated == [name for name in counters if name not in BARE]
        windows = re.findall(r"\b(?:rate|irate|increase)\([^()\[]*\[([^\]]*)\]", target["expr"])
        assert {"$__rate_interval", "$__range"} >= set(windows)


@each_panel
def test_unit_of_the_panel_is_the_unit_of_the_metric(panel: Json) -> None:
    """The unit that a panel shows is the one that follows from the catalogue and the expression."""
    for target in panel["targets"]:
        unit = (
            overridden(panel, target["legendFormat"], "unit")
            or (overridden(panel, f"Value #{target['refId']}", "unit"))
            or panel["fieldConfig"]["defaults"]["unit"]
        )
        worked_out = unit_of(parse(target["expr"])).replace(NUMBER, "")
        if (
            unit == "percentunit"
            and not worked_out
            and re.search(r"\bavg(\d+m|_over_time)?\b", target["expr"])
        ):
            worked_out = "ratio"  # the mean of what is 0 or 1 is a share
        if panel["type"] != "table" or target["legendFormat"]:
            if unit.startswith("dateTime"):  # which are in milliseconds
                assert ("seconds", True) == (worked_out, target["expr"].endswith(" * 1000"))
                continue
            expected = "none" if unit == "none" and not worked_out else GRAFANA_UNITS[worked_out]
            assert expected == unit, target["expr"]


@each_panel
def test_panel_stays_readable_with_thousands_of_ranks(panel: Json) -> None:
    """What is shown for each rank, node or GPU is limited to a few by topk or bottomk."""
    single = {"rank", "instance", "gpu", "hostname"}
    columns = {name for each in panel["transformations"] for name in each["options"].get("indexByName", ())}
    for target in panel["targets"]:
        words = set(re.findall(r"\w+", target["expr"]))
        shown = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) | columns & words
        bounded = re.search(r"(top|bottom)k( by \([\w, ]+\))? ?\((\d|1\d|2[0-4]), ", target["expr"])
        alerts = {"ALERTS", "run_rank:training_alert:urgency"}  # bounded by their rules
        assert bounded or not shown & single or any(each in target["expr"] for each in alerts)


def test_numbers_and_limits_are_those_of_the_rules(repository: Path) -> None:
    """A phase or condition is drawn as what the rules mean by its number; limits are the rules' own."""
    numbers = re.findall(r'(\d+) \* \S+{phase="(\w+)"}', RULES["run_rank:training_phase:number"])
    assert numbers == [(str(number), phase) for number, phase in enumerate(PHASES, 1)]
    conditions = re.findall(r"\) ?\+ (\d)\n|:count \+ (\d)\n", RULES["run:training_condition:worst"])
    said = [int(left or right) for left, right in conditions]
    assert sorted(set(said), reverse=True) == sorted(CONDITIONS, reverse=True)[:-1]
    assert said == sorted(said, reverse=True)
    culprits = re.findall(r"\+ (\d)\b", RULES["run_rank:training_culprit:candidate"])
    assert [int(each) for each in culprits] == sorted(CULPRITS, reverse=True)
    for name, limit in LIMITS.items():
        texts = "\n".join(path.read_text() for path in repository.glob("prometheus/rules/*/*.yml"))
        defaults = re.findall(rf'name="{name}"}}\s+or on \([\w, ]+\)\s+0 \* .* \+ (\S+)', texts)
        assert {float(each) for each in defaults} == {limit}, name


def test_what_to_do_is_that_of_the_alert() -> None:
    """A page gives an alert's own action, and none where rules of its name and severity have several."""
    shown = actions()
    for words in rules():
        key = f"{words.alert} {words.severity}"
        own = {
            each.action for each in rules() if (each.alert, each.severity) == (words.alert, words.severity)
        }
        assert shown[key][0] == (words.action if len(own) == 1 else DEPENDS)


def test_heatmaps_have_a_fixed_scale() -> None:
    """A scale that ends at its own maximum makes a healthy run glow like a sick one."""
    maps = [panel for model in MODELS.values() for panel in panels(model) if panel["type"] == "heatmap"]
    assert maps
    for panel in maps:
        color = panel["options"]["color"]
        assert color["min"] < color["max"], panel["title"]


@dashboards
def test_what_is_below_the_first_screen_is_collapsed(model: Json) -> None:
    """A page asks Prometheus for little more than what is seen: 20 grid rows are 760 pixels."""
    shown = [panel["gridPos"] for panel in model["panels"] if panel["type"] != "row"]
    assert max(place["y"] for place in shown) <= 20


def test_units_are_worked_out_from_expressions() -> None:
    """The check of units can tell right from wrong: a rate, a quotient, an age, a sum of unlike things."""
    worked_out = {
        "rate(training_phase_seconds_total[1m])": "ratio",
        "training_host_memory_used_bytes / training_host_memory_total_bytes": "ratio",
        "rate(training_host_disk_read_bytes_total[1m])": "bytes/s",
        "time() - training_heartbeat_timestamp_seconds": "seconds",
        "training_step / rate(training_steps_total[1m])": "seconds",
        "histogram_quantile(0.5, rate(training_step_duration_seconds_bucket[1m]))": "seconds",
        "count(training_gpu_power_watts > 300)": "",
    }
    assert worked_out == {expr: unit_of(parse(expr)) for expr in worked_out}
    with pytest.raises(AssertionError, match="seconds - bytes"):
        unit_of(parse("time() - training_checkpoint_bytes"))


def test_provisioning_lets_grafana_find_the_files(repository: Path) -> None:
    """The data source has Prometheus' own scrape interval, and dashboards come from files."""
    folder = repository / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    scrape = yaml.safe_load((repository / "prometheus/prometheus.yml").read_text())["global"]
    (provider,) = yaml.safe_load((folder / "dashboards/trainbeacon.yml").read_text())["providers"]
    assert (scrape["scrape_interval"], "prometheus") == (source["jsonData"]["timeInterval"], source["type"])
    assert ("file", False) == (provider["type"], provider["allowUiUpdates"])
