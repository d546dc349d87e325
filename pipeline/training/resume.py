"""Whether a run can go on from its newest checkpoint as it is asked to."""

from h2q.errors import UserError
from pipeline.config import RunConfig
from pipeline.corpus.corpus import Corpus
from pipeline.runs.folder import RunFolder
from pipeline.terminal import Display


def check_resumable(folder: RunFolder, config: RunConfig, corpus: Corpus, display: Display) -> None:
    """Refuse to continue a run as something else.

    Raises: UserError naming the field and both values.
    """
    from pipeline.runs.checkpoint import newest_state

    found = newest_state(folder.checkpoints)
    if found is None:
        return
    state, path, damaged = found
    for reason in damaged:
        display.say(f"damaged checkpoint passed over: {reason}")
    was = state["corpus_sha256"]
    if was != corpus.sha256:
        raise UserError(
            f"resume needs the corpus of the run: its sha256 was {was[:16]}, {corpus.name} has {corpus.sha256[:16]}"
        )
    for name, value in config.model.to_dict().items():
        was = state["config"]["model"][name]
        if was != value and name not in ("memory", "dropout"):
            raise UserError(
                f"resume needs the model of the run: model.{name} was {was}, now {value}; start another --name"
            )
    display.say(f"continuing at step {state['step']} from {path.name}")
