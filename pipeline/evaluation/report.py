"""The result of an evaluation: as tables, as JSON and CSV, as a picture."""

import csv
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from pipeline.evaluation.kinds import KindCode
from pipeline.evaluation.plots import CONTEXT, draw_breakdown, draw_learning
from pipeline.shown import cell
from pipeline.terminal import human_bytes, human_seconds


@dataclass(frozen=True)
class Milestone:
    """The online learner after so many bytes, beside `xz -9e` of the very same bytes."""

    bytes: int
    bpb: float
    xz_bpb: float | None


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result. bpb: bits per byte."""

    subject: str
    mode: str
    data: str
    label: str
    """Of its files and metrics: the same evaluation again has the same label."""
    bytes: int
    sha256: str
    bits: float
    """Code length of the data, with 8 bits for the first byte (prequential: of every lane), which nothing predicts."""
    bpb: float
    window: int
    stride: int
    lanes: int
    cold_start_bpb: float
    """Of bpb, what it cost that lanes start without the state of the one before."""
    step: int
    """Of the checkpoint."""
    checkpoint: str | None
    parameters: int
    precision: str
    device: str
    seconds: float
    """Of scoring, the start of workers included."""
    bytes_per_second: float
    references: dict[str, float]
    """bpb of order-0 entropy and of general compressors, for the very same bytes."""
    classes: dict[str, tuple[int, float]]
    """Bytes and their bits by class of the byte."""
    position_bpb: list[float | None]
    """bpb by position of the byte in its window, over all windows; at position p it has p + 1 bytes of context."""
    position_bytes: list[int]
    learning_rate: float | None = None
    """Prequential: after the warm-up, if there is one."""
    updates: int | None = None
    """Prequential: optimizer steps for a chunk."""
    kinds: list[KindCode] | None = None
    """Of marked data that is not learned from: each kind of its documents by itself."""
    curve: list[Milestone] | None = None
    """Prequential: bpb of the first bytes, at a dozen points."""
    steps: list[tuple[int, float]] | None = None
    """Prequential: bytes and bits so far, after every step."""

    def show(self, console: Console) -> None:
        """Tables, and how it was done."""
        console.print()
        console.print(self._codes())
        console.print()
        console.print(self._by_class())
        if self.kinds:
            console.print()
            console.print(self._by_kind(self.kinds))
        if self.curve:
            console.print()
            console.print(self._learning())
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold")
        facts.add_column(overflow="fold")
        spent = f"{human_seconds(self.seconds)}, {human_bytes(self.bytes_per_second)}/s"
        for name, value in (
            ("data", f"{self.data}, {self.bytes:,} bytes, sha256 {self.sha256[:16]}"),
            ("model", f"{self.subject}, {self.parameters:,} parameters, {self.checkpoint or 'new weights'}"),
            ("how", self._how()),
            ("time", f"{spent}, on {self.device}, {self.precision}"),
        ):
            facts.add_row(name, cell(value))
        console.print()
        console.print(facts)

    def metrics(self) -> dict[str, float]:
        """The figures by the names of metrics."""
        found = {"": (self.bpb, self.references)} | {f"{of.kind}/": (of.bpb, of.references) for of in self.kinds or []}
        return {
            f"evaluation/{self.label}/{kind}{name}bpb": value
            for kind, (bpb, references) in found.items()
            for name, value in [("", bpb), *((f"{name.split()[0]}_", value) for name, value in references.items())]
        }

    def write(self, folder: Path) -> list[Path]:
        """Write LABEL.json, LABEL.png and (prequential) LABEL.csv; files of the same label are replaced."""
        folder.mkdir(parents=True, exist_ok=True)
        text, picture, steps = (folder / f"{self.label}.{kind}" for kind in ("json", "png", "csv"))
        self._write_json(text)
        title = f"{self.subject}: {self.data}"
        if self.curve:
            draw_learning(self.steps or [], [asdict(point) for point in self.curve], picture, title)
        else:
            place = "position in the chunk, with all that came before" if self.mode == "carried" else CONTEXT
            draw_breakdown(self.position_bpb, self.position_bytes, self.classes, picture, title, place)
        if not self.steps:
            return [text, picture]
        self._write_steps(self.steps, steps)
        return [text, picture, steps]

    def _write_json(self, path: Path) -> None:
        result = asdict(self)
        del result["steps"]
        result["classes"] = {name: {"bytes": count, "bits": bits} for name, (count, bits) in self.classes.items()}
        path.write_text(json.dumps(result, indent=1) + "\n")

    def _write_steps(self, steps: list[tuple[int, float]], path: Path) -> None:
        xz = {point.bytes: point.xz_bpb for point in self.curve or []}
        with path.open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["bytes", "bits", "bpb", "xz_bpb"])
            table.writerows([count, bits, bits / count, xz.get(count)] for count, bits in steps)

    def _codes(self) -> Table:
        table = Table(
            title=cell(f"{self.subject}: bits per byte of {self.data}"), title_justify="left", title_style="bold"
        )
        for name in ("", "bits per byte", "bytes of code"):
            table.add_column(name, justify="right" if name else "left")
        rows = {"this model": self.bpb} | self.references
        for name, bpb in sorted(rows.items(), key=lambda row: -row[1]):
            style = "bold" if name == "this model" else None
            table.add_row(name, f"{bpb:.4f}", f"{bpb * self.bytes / 8:,.0f}", style=style)
        return table

    def _by_class(self) -> Table:
        table = Table(title="by class of the byte", title_justify="left", title_style="bold")
        for name in ("", "bytes", "share of bytes", "bits per byte", "share of code"):
            table.add_column(name, justify="right" if name else "left")
        total = sum(count for count, _ in self.classes.values())
        code = sum(bits for _, bits in self.classes.values())
        for name, (count, bits) in self.classes.items():
            table.add_row(name, f"{count:,}", f"{count / total:.1%}", f"{bits / count:.3f}", f"{bits / code:.1%}")
        return table

    def _by_kind(self, kinds: list[KindCode]) -> Table:
        table = Table(
            title="by kind, of content: markers and headers are in the bits alone",
            title_justify="left",
            title_style="bold",
        )
        for name in ("", "documents", "bytes of content", "code", "bits per byte"):
            table.add_column(name, justify="left" if name in ("", "code") else "right")
        for of in kinds:
            rows = sorted(({"this model": of.bpb} | of.references).items(), key=lambda row: -row[1])
            for number, (name, bpb) in enumerate(rows):
                facts = ("", "", "") if number else (of.kind, f"{of.documents:,}", f"{of.content:,}")
                style = "bold" if name == "this model" else None
                table.add_row(*facts, name, f"{bpb:.4f}", style=style, end_section=number == len(rows) - 1)
        return table

    def _learning(self) -> Table:
        table = Table(title="bits per byte so far", title_justify="left", title_style="bold")
        for name in ("bytes", "this learner", "xz -9e"):
            table.add_column(name, justify="right")
        for point in self.curve or []:
            xz = "–" if point.xz_bpb is None else f"{point.xz_bpb:.4f}"
            table.add_row(f"{point.bytes:,}", f"{point.bpb:.4f}", xz)
        return table

    def _how(self) -> str:
        if self.mode == "carried":
            cold = f" in {self.lanes} lanes, whose cold starts cost {self.cold_start_bpb:.4f} bits per byte"
            through = cold if self.lanes > 1 else " from the first byte to the last"
            return f"the state carried{through}; every byte scored once"
        side = "side by side" if self.stride == self.window else f"every {self.stride}"
        lanes = f", in {self.lanes} lanes" if self.lanes > 1 else ""
        rate = f" at a learning rate of {self.learning_rate:.3g}" if self.learning_rate else ""
        steps = f" in {self.updates} steps" if (self.updates or 1) > 1 else ""
        learns = f", learning from each once it is scored,{steps}{rate}" if self.mode == "prequential" else ""
        return f"windows of {self.window} bytes, {side}{lanes}{learns}; every byte scored once"
