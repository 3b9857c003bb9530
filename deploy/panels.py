"""What is watched: every panel of the dashboard, and the PromQL behind it.

``dashboard`` makes Grafana's JSON of it, ``page`` a plain page. Knows neither. In an expression,
``$where`` stands for the label matchers of the reader's choice and ``$window`` for the time that a
rate is taken over.

A counter has no series until it first counts, so the share of failures would be missing while
nothing fails. ``or 0 * …`` says zero then, but only where there is traffic: no traffic, no answer.
"""

from dataclasses import dataclass
from string import Template
from typing import Literal

Kind = Literal["lines", "stacked", "number", "table"]
VERSION = "{{model}}:{{version}}"


@dataclass(frozen=True, slots=True)
class Query:
    """One expression of a panel.

    Attributes:
        expression: PromQL with ``$where`` and ``$window``.
        legend: Name of a line, with labels as ``{{label}}``.
    """

    expression: str
    legend: str = ""

    def filled(self, where: str, window: str) -> str:
        """Return the PromQL for these matchers and this window."""
        return Template(self.expression).substitute(where=where, window=window)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture.

    Attributes:
        title: What is shown.
        says: How to read it, and what to do.
        unit: Grafana's name of the unit.
        queries: What is drawn in it.
        kind: How it is drawn.
        width: Of the 24 columns of a row.
        columns: Of a table: label to heading, in order.
    """

    title: str
    says: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "lines"
    width: int = 8
    columns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Panels that answer one question."""

    title: str
    panels: tuple[Panel, ...]


def _shares(part: str) -> tuple[Query, ...]:
    """Return the share of answers with such a status, 0 while there is traffic and none has it.

    By version, and of all together: those that found no model are only in that.
    """
    queries = []
    for by, which, legend in (
        (" by (model, version)", '$where, model!=""', VERSION),
        ("", "$where", "all"),
    ):
        every = f"sum{by} (rate(foveal_requests_total{{{which}}}[$window]))"
        those = f"sum{by} (rate(foveal_requests_total{{{which}, {part}}}[$window]))"
        queries.append(Query(f"({those} or 0 * {every}) / ({every} > 0)", legend))
    return tuple(queries)


def _quantile(quantile: float, metric: str, by: str = "model, version") -> str:
    """Return a quantile of a histogram."""
    buckets = f"sum by (le, {by}) (rate({metric}_bucket{{$where}}[$window]))"
    return f"histogram_quantile({quantile}, {buckets})"


def _mean(metric: str, by: str = "model, version") -> str:
    """Return the mean of a histogram."""
    total = f"sum by ({by}) (rate({metric}_sum{{$where}}[$window]))"
    return f"{total} / (sum by ({by}) (rate({metric}_count{{$where}}[$window])) > 0)"


def _drift(quantity: str) -> tuple[Query, ...]:
    """Return what a row is like now, and what it was like in training."""
    by = "sum by (model, version)"
    now = f'{by} (rate(foveal_drift_sums_total{{$where, quantity="{quantity}"}}[$window]))'
    rows = f"({by} (rate(foveal_drift_rows_total{{$where}}[$window])) > 0)"
    then = f'max by (model, version) (foveal_training{{$where, quantity="{quantity}"}})'
    return (
        Query(f"{now} / {rows}", "{{model}}:{{version}} now"),
        Query(then, "{{model}}:{{version}} in training"),
    )


TRAFFIC = Row(
    "Traffic",
    (
        Panel(
            "Instances up",
            "Instances that Prometheus could scrape, of those it knows.",
            "short",
            (
                Query('sum(up{job="foveal"})', "up"),
                Query('count(up{job="foveal"})', "known"),
            ),
            "number",
            4,
        ),
        Panel(
            "Requests",
            "Answers of any status by the version that gave them.",
            "reqps",
            (
                Query(
                    'sum by (model, version) (rate(foveal_requests_total{$where, model!=""}[$window]))',
                    VERSION,
                ),
            ),
            "stacked",
            7,
        ),
        Panel(
            "Requests by protocol",
            "predict is /predict and its kin; v2_http, v2_grpc are V2's wires.",
            "reqps",
            (
                Query(
                    "sum by (protocol) (rate(foveal_requests_total{$where}[$window]))",
                    "{{protocol}}",
                ),
            ),
            "stacked",
            6,
        ),
        Panel(
            "Images",
            "Rows run: a request may bring many.",
            "rowsps",
            (
                Query(
                    "sum by (model, version) (rate(foveal_batch_rows_sum{$where}[$window]))",
                    VERSION,
                ),
            ),
            "stacked",
            7,
        ),
    ),
)

ERRORS = Row(
    "Errors",
    (
        Panel(
            "Share of answers that are our fault",
            "Status 500 to 599: failed runs, not ready, deadlines. Should be 0.",
            "percentunit",
            _shares('status=~"5.."'),
        ),
        Panel(
            "Share refused for a full queue",
            "Status 429. Above 0 for long: more replicas are needed, or fewer requests.",
            "percentunit",
            _shares('status="429"'),
        ),
        Panel(
            "Answers other than 200",
            "By status. 4xx but 429 are the clients' mistakes; without a model in the label none was "
            "found. Empty: there was none.",
            "reqps",
            (
                Query(
                    'sum by (status) (rate(foveal_requests_total{$where, status!="200"}[$window]))',
                    "{{status}}",
                ),
            ),
            "stacked",
        ),
        Panel(
            "Rows given up before the run",
            "Their client had left or their deadline had passed: work that nobody waited for.",
            "rowsps",
            (
                Query(
                    "sum by (model, version) (rate(foveal_dropped_rows_total{$where}[$window]))",
                    VERSION,
                ),
            ),
            width=24,
        ),
    ),
)

LATENCY = Row(
    "Latency",
    (
        Panel(
            "Request",
            "Request read to answer written.",
            "s",
            tuple(
                Query(
                    _quantile(q, "foveal_request_seconds", "model"), f"{{{{model}}}} p{q * 100:g}"
                )
                for q in (0.5, 0.95, 0.99)
            ),
        ),
        Panel(
            "By stage, p99",
            "Where the slow ones spend their time: queue long, run short: too much load; run long: "
            "model, threads or neighbours.",
            "s",
            tuple(
                Query(_quantile(0.99, f"foveal_{stage}_seconds", "model"), f"{{{{model}}}} {stage}")
                for stage in ("decode", "queue", "run")
            ),
        ),
        Panel(
            "By stage, mean",
            "Of all models chosen. A run is shared by the rows of its batch.",
            "s",
            tuple(
                Query(_mean(f"foveal_{stage}_seconds", ""), stage)
                for stage in ("decode", "queue", "run")
            ),
            "stacked",
        ),
    ),
)

BATCHES = Row(
    "Batches and queue",
    (
        Panel(
            "Rows a run",
            "Mean. Near 1 although many wait: raise FOVEAL_MAX_QUEUE_DELAY_MS.",
            "short",
            (Query(_mean("foveal_batch_rows"), VERSION),),
            width=5,
        ),
        Panel(
            "Padding",
            "Share of what is run for nothing: rows that fill a batch up to its bucket. 0 where a run "
            "may have any size.",
            "percentunit",
            (
                Query(
                    "sum by (model, version) (rate(foveal_padded_rows_total{$where}[$window]))"
                    " / (sum by (model, version) (rate(foveal_padded_rows_total{$where}[$window]))"
                    " + sum by (model, version) (rate(foveal_batch_rows_sum{$where}[$window])) > 0)",
                    VERSION,
                ),
            ),
            width=5,
        ),
        Panel(
            "Rows waiting",
            "Now, over all instances. The limit is FOVEAL_MAX_QUEUE_ROWS an instance.",
            "short",
            (Query("sum by (model, version) (foveal_queue_rows{$where})", VERSION),),
            width=5,
        ),
        Panel(
            "Requests waiting",
            "Mean: seconds waited a second, by Little's law. What the autoscaler "
            "goes by: the figure beside it is of one moment.",
            "short",
            (
                Query(
                    "sum by (model, version) (rate(foveal_queue_seconds_sum{$where}[$window]))",
                    VERSION,
                ),
            ),
            width=5,
        ),
        Panel(
            "Runner busy",
            "Seconds of run a second, by instance; 1 a worker is all that it can do.",
            "percentunit",
            (
                Query(
                    "sum by (instance) (rate(foveal_run_seconds_sum{$where}[$window]))",
                    "{{instance}}",
                ),
            ),
            width=4,
        ),
    ),
)

VERSIONS = Row(
    "Versions",
    (
        Panel(
            "Share by version",
            "Who answers: a canary's share, or a rollout going through.",
            "percentunit",
            (
                Query(
                    'sum by (model, version) (rate(foveal_requests_total{$where, model!=""}[$window]))'
                    " / on (model) group_left () "
                    '(sum by (model) (rate(foveal_requests_total{$where, model!=""}[$window])) > 0)',
                    VERSION,
                ),
            ),
        ),
        Panel(
            "Loaded",
            "Instances that have a version loaded, and how they run it.",
            "short",
            (
                Query(
                    "count by (model, version, device, precision, threads, runs_on)"
                    " (foveal_model_info{$where} == 1)",
                ),
            ),
            "table",
            12,
            (
                ("model", "model"),
                ("version", "version"),
                ("device", "device"),
                ("precision", "precision"),
                ("threads", "threads"),
                ("runs_on", "runs on"),
                ("Value", "instances"),
            ),
        ),
        Panel(
            "Refused",
            "Versions in the repository that could not be loaded, over all instances; the log and V2's "
            "index say why.",
            "short",
            (
                Query(
                    "sum(foveal_model_refused{$where}) or 0 * count(foveal_model_info{$where})",
                    "refused",
                ),
            ),
            "number",
            4,
        ),
    ),
)

DEVICES = Row(
    "Devices",
    (
        Panel(
            "Placement",
            "Which device was asked for and which runs a version, how a run is bound to "
            "it, and the batch sizes that it runs.",
            "short",
            (
                Query(
                    "count by (model, version, asked, device, index, binding, buckets)"
                    " (foveal_plan_info{$where} == 1)"
                ),
            ),
            "table",
            10,
            (
                ("model", "model"),
                ("version", "version"),
                ("asked", "asked for"),
                ("device", "device"),
                ("index", "index"),
                ("binding", "binding"),
                ("buckets", "buckets"),
                ("Value", "instances"),
            ),
        ),
        Panel(
            "Fell to the CPU",
            "Instances that have a GPU and do not run on it; the log says why.",
            "short",
            (Query('sum(max by (instance) (foveal_device_fallback{job="foveal"}))', "instances"),),
            "number",
            4,
        ),
        Panel(
            "Nodes left to the CPU",
            "Of a version's graph, by a GPU's provider; 0 without a GPU.",
            "short",
            (Query("max by (model, version) (foveal_cpu_nodes{$where})", VERSION),),
            width=5,
        ),
        Panel(
            "Memory of the GPU",
            "What a version took when it was loaded; 0 without a GPU. How busy "
            "the GPU is: Runner busy.",
            "bytes",
            (Query("sum by (model, version) (foveal_device_memory_bytes{$where})", VERSION),),
            "stacked",
            5,
        ),
    ),
)

CANDIDATES = Row(
    "Candidates",
    (
        Panel(
            "Shadow: rows by outcome",
            "Against the version that serves: the first label agreed or differed; dropped: the shadow "
            "was busy. Empty: there is no shadow.",
            "rowsps",
            (
                Query(
                    "sum by (model, version, outcome) (rate(foveal_shadow_rows_total{$where}[$window]))",
                    "{{model}}:{{version}} {{outcome}}",
                ),
            ),
            "stacked",
        ),
        Panel(
            "Shadow: difference of probabilities, p99",
            "Largest of a row's probabilities. Empty: there is no shadow.",
            "short",
            (Query(_quantile(0.99, "foveal_shadow_difference"), VERSION),),
        ),
        Panel(
            "Shadow: time of a run",
            "Mean, beside that of what serves. Empty: there is no shadow.",
            "s",
            (
                Query(_mean("foveal_shadow_seconds"), f"{VERSION} as shadow"),
                Query(_mean("foveal_run_seconds"), VERSION),
            ),
        ),
    ),
)

_LABEL_SHARE = (
    "sum by (model, version, label) (rate(foveal_drift_class_rows_total{$where}[$window]))"
    " / on (model, version) group_left ()"
    " (sum by (model, version) (rate(foveal_drift_rows_total{$where}[$window])) > 0)"
)
_TRAINING_SHARE = "max by (model, version, label) (foveal_training_class_share{$where})"

DRIFT = Row(
    "Drift: what comes in and goes out, beside training",
    (
        Panel(
            "Mean pixel",
            "0 to 255. Pictures have become darker or brighter. Models without "
            "statistics of their training have one line only.",
            "short",
            _drift("pixel_mean"),
            width=6,
        ),
        Panel(
            "Spread of pixels",
            "Standard deviation within an image. Flatter or blurred pictures.",
            "short",
            _drift("pixel_spread"),
            width=6,
        ),
        Panel(
            "Entropy",
            "Nats. Higher: the model is less sure than it was on its validation split.",
            "short",
            _drift("entropy"),
            width=6,
        ),
        Panel(
            "Labels: distance from training",
            "Half the sum of the differences of the labels' shares: 0 the same, 1 nothing in common.",
            "percentunit",
            (
                Query(
                    f"0.5 * sum by (model, version) (abs(({_LABEL_SHARE} or 0 * {_TRAINING_SHARE})"
                    f" - {_TRAINING_SHARE}))",
                    VERSION,
                ),
            ),
            width=6,
        ),
        Panel(
            "Labels",
            "Share of rows in which a label came first.",
            "percentunit",
            (Query(_LABEL_SHARE, f"{VERSION} {{{{label}}}}"),),
            "stacked",
            12,
        ),
        Panel(
            "Abstained",
            "Share of rows that the model had rather say nothing to; 0 for models that "
            "never abstain.",
            "percentunit",
            (
                Query(
                    "sum by (model, version)"
                    ' (rate(foveal_drift_sums_total{$where, quantity="abstained"}[$window]))'
                    " / (sum by (model, version) (rate(foveal_drift_rows_total{$where}[$window])) > 0)",
                    VERSION,
                ),
            ),
            width=12,
        ),
    ),
)

ROWS = (TRAFFIC, ERRORS, LATENCY, BATCHES, VERSIONS, DEVICES, CANDIDATES, DRIFT)
PANELS = tuple(panel for row in ROWS for panel in row.panels)
