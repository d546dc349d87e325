"""The pictures a run leaves: its curves, and a map of the energy of every block."""

from pathlib import Path

from pipeline.figures import new_figure, save_figure
from pipeline.runs.journal import Record, series


def draw(records: list[Record], folder: Path, title: str) -> None:
    """Write curves.png and energy.png into the folder."""
    folder.mkdir(exist_ok=True)
    _curves(records, folder / "curves.png", title)
    _energy_map(records, folder / "energy.png", title)


def _curves(records: list[Record], path: Path, title: str) -> None:
    figure, axes = new_figure(2, 2, title)
    bpb, gradient, rate, speed = axes.flat
    for name, style in (("train/bpb", "-"), ("validation/bpb", "o-"), ("test/bpb", "*")):
        bpb.plot(*series(records, name), style, label=name, markersize=8 if style == "*" else 4)
    bpb.set_ylabel("bits per byte")
    bpb.legend()
    gradient.plot(*series(records, "gradient_norm"))
    gradient.set_ylabel("gradient norm")
    gradient.set_yscale("log")
    rate.plot(*series(records, "learning_rate"))
    rate.set_ylabel("learning rate")
    speed.plot(*series(records, "bytes_per_second"))
    speed.set_ylabel("bytes per second")
    speed.set_ylim(bottom=0)
    for axis in axes.flat:
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    save_figure(figure, path)


def _energy_map(records: list[Record], path: Path, title: str) -> None:
    names = sorted({name for record in records for name in record if name.startswith("energy/")})
    if not names:
        return
    figure, axes = new_figure(1, 1, title)
    axis = axes[0, 0]
    steps, _ = series(records, names[0])
    image = axis.pcolormesh(
        steps, range(len(names)), [series(records, name)[1] for name in names], shading="nearest", cmap="viridis"
    )
    axis.set_xlabel("step")
    axis.set_ylabel("block")
    axis.set_yticks(range(0, len(names), max(1, len(names) // 12)))
    figure.colorbar(image, label="energy: mean L2 norm of the residual stream")
    save_figure(figure, path)
