"""What MLflow shows as the description of a run: where it comes from and, at its end, what came out."""

from typing import Any

from pipeline.shown import printable

_RESULT = "\n\n## Result\n\n"


def with_result(description: str, result: str) -> str:
    """The description with this result at its end, in place of an earlier one; what a person wrote before it stays."""
    return description.partition(_RESULT)[0] + _RESULT + result


def result_of(state: str, summary: dict[str, Any]) -> str:
    """The result as Markdown. `state`: finished, stopped, pruned or failed; `summary`: what is known of `steps`,
    `validation_bpb`, `test_bpb`, `parameters`, `bytes_seen`, `error` and `sample`, as in a run's summary.json."""
    measured = {split: summary.get(f"{split}_bpb") for split in ("validation", "test")}
    scores = [f"**{bpb:.4f}** on {split}" for split, bpb in measured.items() if bpb is not None]
    sizes = [f"{summary[name]:,} {unit}" for name, unit in _SIZES.items() if summary.get(name) is not None]
    lines = [f"{state.capitalize()}: {', '.join(sizes)}" if sizes else state.capitalize()]
    if scores:
        lines.append(f"Bits per byte: {', '.join(scores)}")
    if error := summary.get("error"):
        lines.append(f"Error: {printable(error)}")
    if sample := summary.get("sample"):
        written = "\n".join(f"    {line}" for line in printable(sample).split("\n"))
        lines.append(f"Sample, the test split's first 64 bytes and 200 of the model's:\n\n{written}")
    return "\n\n".join(lines)


_SIZES = {"steps": "steps", "bytes_seen": "bytes seen", "parameters": "parameters"}
