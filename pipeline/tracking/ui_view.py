"""What MLflow's page of an experiment shows at first: the columns and charts that matter here, in an order that helps.

Left alone, that page lists no metric at all and sorts its charts by name, energy above validation. MLflow keeps a
shared view of an experiment in the tag `mlflow.sharedViewState.KEY`, as JSON, and opens it by `viewStateShareKey=KEY`;
charts of metrics that the view does not name join their sections. A user's own changes are not written back to it.
"""

import json
from typing import Any

KEY = "h2q"
TAG = f"mlflow.sharedViewState.{KEY}"

COLOUR_TAG = "mlflow.runColor"
_COLOURS = ("1f77b4", "ff7f0e", "2ca02c", "d62728", "9467bd", "8c564b", "e377c2", "7f7f7f", "bcbd22", "17becf")
"""Those of matplotlib's tab10."""

_METRICS = ("validation/bpb", "test/bpb", "parameters", "growth/rank", "bytes_seen", "bytes_per_second", "seconds")
_PARAMETERS = ("model.dim", "model.depth", "model.fixed_rank", "training.learning_rate", "training.axiom_lambda")
_BPB = "bits per byte"
_SECTIONS = (_BPB, "growth", "Model metrics", "energy", "memory", "System metrics")


def colour(number: int) -> str:
    """The value of `COLOUR_TAG` for one of several runs that are looked at together; left alone, MLflow may give two of
    three the same."""
    return f"#{_COLOURS[number % len(_COLOURS)]}"


def view_state() -> str:
    """The view as the tag's value."""
    columns = [
        *(f"metrics.`{name}`" for name in _METRICS),
        *(f"params.`{name}`" for name in _PARAMETERS),
        "tags.`state`",
        "tags.`preset`",
        "tags.`corpus`",
    ]
    return json.dumps(
        {
            "selectedColumns": columns,
            "columnOrder": columns,
            "compareRunSections": [_section(name) for name in _SECTIONS],
            "compareRunCharts": [_chart("validation/bpb"), _chart("train/bpb"), _chart("test/bpb", "BAR")],
            "isAccordionReordered": True,
            # Sorted by anything but time, the list has trials among the runs; below their sweeps no chart drew them.
            "orderByKey": f"metrics.`{_METRICS[0]}`",
            "orderByAsc": True,
            "runsHiddenMode": "FIRST_20_RUNS",
        }
    )


def _section(name: str) -> dict[str, Any]:
    return {
        "uuid": f"section {name}",
        "name": name,
        "display": name not in ("memory", "System metrics"),
        "isReordered": False,
        "deleted": False,
        "isGenerated": True,
        # Of three, the default, titles and axes are cut at 1280 pixels: MLflow's assistant takes a quarter of them.
        "columns": 2,
        "cardHeight": 300,
    }


def _chart(metric: str, kind: str = "LINE") -> dict[str, Any]:
    return {
        "uuid": f"chart {metric}",
        "type": kind,
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "metricSectionId": f"section {_BPB}",
        "runsCountToCompare": 20,
        "deleted": False,
        "isGenerated": True,
        "xAxisKey": "step",
        "selectedXAxisMetricKey": "",
        "selectedYAxisMetricKey": "metric",
        "yAxisKey": "metric",
        "yAxisExpressions": [],
        "scaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "useGlobalXaxisKey": True,
        "range": {},
    }
