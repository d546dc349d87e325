"""A projector that is trained: judged on the test split of its corpus, shown, written down, told to MLflow."""

import hashlib
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import MinLen
from pydantic import FiniteFloat
from rich.console import Console

from pipeline.evaluation.progress import EvaluationProgress
from pipeline.evaluation.setup import corpus_of_run
from pipeline.evaluation.tracking import log_evaluation
from pipeline.projector import report
from pipeline.projector.config import FOLDER, UNTRAINED
from pipeline.projector.judge import Judgement, judge
from pipeline.projector.lens import tuned_lens
from pipeline.projector.load import load_projector
from pipeline.runs.checkpoint import MODEL
from pipeline.runs.folder import RunFolder
from pipeline.shown import printable
from pipeline.storage.json_file import object_of, read_hint
from pipeline.storage.path import locate
from pipeline.training.precision import setup_precision

_CURVE = Annotated[list[FiniteFloat], MinLen(1)]


def judge_projector(core: RunFolder, name: str, console: Console) -> Judgement:
    """Judge it, and say where the results lie. Raises: UserError for too little text, and as `load_projector` does."""
    with EvaluationProgress(console) as progress:
        progress.say(f"judging {name} of {core.name}")
        progress.stage("loading the projector")
        model, reader, config, state = load_projector(core, name)
        corpus = corpus_of_run(config, state.get("corpus_sha256"), name, progress)
        progress.stage("tuning the lens")
        depths = tuned_lens(reader.model, corpus.train, corpus.test, on_progress=progress.show)
        progress.stage("scoring")
        autocast = setup_precision("fp32", torch.device("cpu"))
        found = judge(model, reader, corpus.test, autocast, config.training.evaluate_bytes, progress.show)
    bound = config.projector
    assert bound is not None
    untrained = None if name == UNTRAINED else earlier(RunFolder(core.path / FOLDER / UNTRAINED))
    report.show(found, untrained, f"{name} of {core.name}", console)
    report.show_lens(depths, console)
    after = hashlib.sha256((locate(bound.core) / MODEL).read_bytes()).hexdigest()
    assert after == bound.sha256, "nothing here writes to the core"
    console.print(f"the core is what it was: sha256 {after[:16]}")
    about = {
        "name": f"{name} of {core.name}",
        "core_sha256": after,
        "step": state["step"],
        "parameters": state["parameters"],
        "order": bound.order,
        "corpus": corpus.name,
        "split": "test",
    }
    local = core.path / FOLDER / name
    local = local if isinstance(local, Path) else Path(FOLDER).absolute() / name
    files = report.write(found, untrained, depths, about, local)
    for path in files:
        console.print(printable(str(path)), markup=False, soft_wrap=True)
    if config.tracking.enabled:
        told = report.metrics(found, untrained, name) | {
            f"{name}/lens/block_{depth.block:02d}_bpb": depth.bpb for depth in depths
        }
        refused = log_evaluation(core, config.tracking, told, state["step"], files, under=f"{FOLDER}/{name}")
        console.print(refused or f"logged to MLflow, on the run of the core, as {FOLDER}/{name}", soft_wrap=True)
    return found


def earlier(folder: RunFolder) -> list[float] | None:
    """The bits that another projector recovered by distance, as its judgement has them; None where there is none, or,
    as a note says, it is damaged."""
    shape = object_of(recovered=object_of(carried=_CURVE))
    without = "the control is not shown; judge it again with --resume"
    noted = read_hint(folder.path / report.JUDGEMENT, shape, without)
    return noted and noted["recovered"]["carried"]
