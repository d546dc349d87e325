"""What training and sweeps do first: join or start Ray, prepare the corpus, and refuse what cannot work."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from h2q.errors import require
from pipeline.cluster.nodes import check_nodes
from pipeline.cluster.resources import Resources
from pipeline.cluster.session import quiet_ray, ray_session
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus
from pipeline.prepare.prepare import prepare
from pipeline.storage.uri import without_secrets
from pipeline.terminal import Display
from pipeline.training.precision import check_precision


@contextmanager
def session(
    run: RunConfig, display: Display, *, dashboard: bool = False, aside: Executor | None = None
) -> Iterator[None]:
    """The Ray that a run asks for, in the with block; none where it is `local`. `dashboard`: also where nobody wants to
    see it. `aside`: where to let it end while this thread goes on."""
    quiet_ray(verbose=run.verbose)
    if run.local:
        display.stage("starting")
        yield
        return
    display.stage("starting Ray")
    with ray_session(verbose=run.verbose, address=run.address, dashboard=dashboard, aside=aside):
        yield


def prepared_corpus(run: RunConfig, storage: Path, resources: Resources, display: Display) -> Corpus:
    """The run's corpus, prepared, and seen with the storage from every node that may train.

    Raises: UserError as `prepare` and `check_nodes` do.
    """
    display.stage("preparing the corpus")
    corpus = prepare(run.corpus, local=run.local, on_event=display.preparing)
    if not run.local:
        check_nodes(storage, corpus.folder / MANIFEST, resources)
    return corpus


def check_run(run: RunConfig, corpus: Corpus, resources: Resources) -> None:
    """Refuse a precision that the CPU lacks, and a corpus that is too short to train on or to judge by.

    What a GPU can do, its worker will find out. Raises: UserError naming the option, or the split.
    """
    from pipeline.corpus.lanes import Lanes

    if not resources.gpu:
        check_precision(run.precision, "cpu")
    Lanes(corpus.train, lanes=run.training.lanes, seq_len=run.model.seq_len)
    for split in (corpus.validation, corpus.test):
        require(
            len(split) >= 2,
            f"the {split.name} split must hold at least 2 bytes to be scored, found {len(split)}: use more text or a "
            "larger --corpus.holdout",
        )


def public(config: RunConfig) -> RunConfig:
    """The config as it may be noted down and shown: without the passwords of its URIs."""
    corpus, tracking = config.corpus, config.tracking
    return replace(
        config,
        storage=without_secrets(config.storage),
        corpus=replace(
            corpus, path=corpus.path and without_secrets(corpus.path), prepared=without_secrets(corpus.prepared)
        ),
        tracking=replace(tracking, uri=tracking.uri and without_secrets(tracking.uri)),
    )
