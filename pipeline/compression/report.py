"""What compressing took, beside xz."""

import time
from collections.abc import Iterator

from pipeline.compression.compress import Outcome
from pipeline.compression.config import CompressionConfig
from pipeline.corpus.compressors import xz_bytes
from pipeline.evaluation.file_stream import RawFile
from pipeline.terminal import human_bytes


def lines(outcome: Outcome, options: CompressionConfig) -> Iterator[str]:
    """For the terminal: the file written, its size in bits per byte and its speed; and those of `xz -9e`."""
    yield f"{outcome.path}  {outcome.size if options.decompress else outcome.archive_bytes:,} bytes"
    yield _figures(outcome.coder, outcome.archive_bytes, outcome.size, outcome.seconds)
    if not options.decompress and outcome.size:
        file, began = RawFile(options.file), time.perf_counter()
        yield _figures("xz -9e", xz_bytes(file.stream(), len(file)), len(file), time.perf_counter() - began)


def _figures(name: str, archive_bytes: int, size: int, seconds: float) -> str:
    bpb = f"{8 * archive_bytes / size:.3f} bits per byte" if size else "nothing to code"
    return f"{name}: {size:,} bytes in {archive_bytes:,}, {bpb}, {human_bytes(size / seconds)}/s"
