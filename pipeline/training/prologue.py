"""What training and sweeps do first: join or start Ray, prepare the corpus, and refuse what cannot work."""

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from h2q.alphabet import ALPHABET, BYTES
from h2q.errors import require
from pipeline.cluster.nodes import check_nodes
from pipeline.cluster.resources import Resources
from pipeline.cluster.session import quiet_ray, ray_session
from pipeline.config import RunConfig
from pipeline.corpus.corpus import MANIFEST, Corpus
from pipeline.corpus.mixed import AnySplit
from pipeline.mix import shown_mix
from pipeline.prepare.prepare import prepare
from pipeline.prepare.sources import check_places
from pipeline.shown import without_secrets
from pipeline.storage.uri import is_uri
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


def check_first(run: RunConfig) -> None:
    """Refuse what can be told at once, before Ray starts: a corpus that is not there, no place for a prepared
    one, an alphabet that is not the corpus's.

    Raises: UserError naming the option.
    """
    vocab = run.model.vocab
    if run.corpus.marked:
        require(
            vocab == ALPHABET,
            f"model.vocab must be {ALPHABET} for a corpus with markers, the values of a byte and the markers, got "
            f"{vocab}: give --model.vocab {ALPHABET}",
        )
    require(
        run.corpus.marked or run.model.strides == "off",
        "model.strides looks for the markers of pictures and sounds, and this corpus has none: leave it out, or give "
        "--corpus.mix or --corpus.kind image or audio",
    )
    require(
        vocab in range(BYTES + 1) or vocab == ALPHABET,
        f"model.vocab must be at most {BYTES}, the values of a byte, or {ALPHABET}, with markers, got {vocab}",
    )
    check_places(run.corpus)


def prepared_corpus(
    run: RunConfig, storage: Path, resources: Resources, display: Display, *, sha256: str | None = None
) -> Corpus:
    """The run's corpus, prepared, and seen with the storage from every node that may train; `sha256`: its own,
    where an earlier run knows it.

    Raises: UserError as `prepare` and `check_nodes` do.
    """
    display.stage("preparing the corpus")
    corpus = prepare(run.corpus, local=run.local, on_event=display.preparing, sha256=sha256)
    if not run.local:
        check_nodes(storage, corpus.folder / MANIFEST, resources)
    return corpus


def check_run(run: RunConfig, corpus: Corpus, resources: Resources) -> None:
    """Refuse a precision that the CPU lacks, and a corpus that is too short to train on or to judge by, or that has
    bytes beyond the model's alphabet.

    What a GPU can do, its worker will find out. Raises: UserError naming the option, or the split.
    """
    from pipeline.corpus.lanes import Lanes

    if not resources.gpu:
        check_precision(run.precision, "cpu")
    for split in corpus.splits.values():
        check_alphabet(split, run.model.vocab)
    Lanes(corpus.train, lanes=run.training.lanes, seq_len=run.chunk, ahead=run.ahead)
    for split in (corpus.validation, corpus.test):
        for name, _, start, stop in split.regions(run.training.lanes):
            require(
                stop - start >= 2,
                f"the {name} must hold at least 2 bytes to be scored, found {stop - start}: use more text or a larger "
                "--corpus.holdout",
            )


def check_alphabet(split: AnySplit, vocab: int) -> None:
    """Raises: UserError for a split with a byte that the model has no symbol for (of markers, `check_first` knows)."""
    found = next((byte for byte in range(255, vocab - 1, -1) if split.histogram[byte]), None)
    require(
        found is None,
        f"model.vocab must be above every byte of the corpus, got {vocab}, and the {split.name} split holds the byte "
        f"{found}: give --model.vocab 256",
    )


def public(config: RunConfig) -> RunConfig:
    """The config as it may be noted down and shown: without the passwords of URIs, whichever option holds one."""
    noted = _without_passwords(config.to_dict())
    return RunConfig.from_dict(noted | {"corpus": noted["corpus"] | {"mix": shown_mix(config.corpus.mix)}})


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_passwords(each) for name, each in value.items()}
    return without_secrets(value) if isinstance(value, str) and is_uri(value) else value
