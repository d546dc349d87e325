"""The run that an evaluation names, looked up before anything heavy is loaded."""

from h2q.errors import require
from pipeline.evaluation.config import EvaluationConfig
from pipeline.runs.folder import RunFolder
from pipeline.tracking.find import find_run


def named_run(options: EvaluationConfig) -> RunFolder | None:
    """Its folder; None where new weights of a preset are scored. Raises: UserError for a run that is not there."""
    if options.preset is not None:
        return None
    require(options.run != "", "name the run to evaluate: its name or folder, latest, or best")
    return find_run(options.run, storage=options.storage, tracking=options.tracking)
