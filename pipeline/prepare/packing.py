"""Compressed files and archives: the files inside, each as a stream, never unpacked in memory."""

import bz2
import gzip
import io
import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Self

import pyarrow as pa

DEPTH = 3
"""How often a file may be packed: one can hold itself, and so for ever."""
XZ_MEMORY = 1 << 29
"""Bytes that xz may look back: the file says how many, `xz -9` writes 64 MiB."""
_BLOCK = 1 << 18
_TAR_HEADER = 1 << 16
"""Bytes of a header before a file of a tar (a long name, attributes), which tarfile reads whole; several may follow."""
_TAR_FIELDS = 100
"""Of headers for all files that follow, which tarfile keeps."""
_TAR_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_MAGIC = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](1AY&SY|\x17\x72\x45\x38\x50\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18"),
    "zip": re.compile(rb"PK(\x03\x04|\x05\x06)"),
    "7z": re.compile(rb"7z\xbc\xaf\x27\x1c"),
    "rar": re.compile(rb"Rar!\x1a\x07"),
    "PDF": re.compile(rb"%PDF-"),
}
SUFFIXES = (".gz", ".bz2", ".xz", ".zst", ".zstd", ".lz4")
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

BROKEN = (
    *(OSError, EOFError, ValueError, RuntimeError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError),
    pa.ArrowException,
)
"""What reading a damaged file raises."""


class Stream:
    """Bytes to be read once, in order, of which the first can be looked at before. `whole`: the file to seek in."""

    closed = False

    def __init__(self, read: Callable[[int], bytes], whole: Any = None) -> None:
        self._read, self._ahead, self.whole = read, b"", whole

    def head(self, size: int) -> bytes:
        """The first bytes, fewer only where there are no more."""
        while len(self._ahead) < size and (more := self._read(size - len(self._ahead))):
            self._ahead += more
        return self._ahead[:size]

    def read(self, size: int) -> bytes:
        """Up to so many bytes; none at the end."""
        if not self._ahead:
            return self._read(size)
        part, self._ahead = self._ahead[:size], self._ahead[size:]
        return part

    def close(self) -> None:
        """As Arrow asks of a file that it has read; whoever opened it closes it."""


@dataclass(frozen=True)
class Leaf:
    """A file that is packed no more. `inside`: its path in the archive, if it was in one; `how` it was packed."""

    stream: Stream
    label: str
    inside: str
    how: tuple[str, ...]


def packing_of(head: bytes) -> str | None:
    """How a file that begins like this is packed, if it is; by its first 512 bytes, whatever its name."""
    found = next((name for name, magic in _MAGIC.items() if magic.match(head)), None)
    if found is None and head[257:262] == b"ustar":
        try:
            tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
        except tarfile.HeaderError:
            return None
        return "tar"
    return found


def leaves(stream: Stream, label: str, inside: str = "", how: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """The files inside, each to be read before the next is asked for. Raises: one of BROKEN."""
    packing = packing_of(stream.head(512))
    if packing is None:
        yield Leaf(stream, label, inside, how)
        return
    if len(how) == DEPTH:
        raise ValueError(f"it is packed more than {DEPTH} times")
    how = (*how, packing)
    if packing in ("zip", "tar"):
        members = _zip_members if packing == "zip" else _tar_members
        for name, member in members(stream, label):
            if not any(part.startswith(".") for part in name.split("/")):
                yield from leaves(member, f"{label}/{name}", f"{inside}/{name}" if inside else name, how)
        return
    if packing not in _OPENED:
        raise ValueError(f"a {packing} file is not read")
    bare = label[: -len(PurePosixPath(label).suffix)] if label.lower().endswith(SUFFIXES) else label
    yield from leaves(Stream(_OPENED[packing](stream)), bare, inside, how)


def _zip_members(stream: Stream, label: str) -> Iterator[tuple[str, Stream]]:
    if PurePosixPath(label.lower()).suffix not in (".zip", ""):
        raise ValueError(f"a zip archive that is a {PurePosixPath(label).suffix} file is not read")
    if stream.whole is None:
        raise ValueError("a zip archive inside another file is not read")
    with zipfile.ZipFile(_Seekable(stream.whole)) as archive:
        for info in archive.infolist():
            if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16):
                continue
            if info.flag_bits & 1:
                raise ValueError(f"{info.filename} in it is encrypted")
            if info.compress_type not in _ZIP_METHODS:
                raise ValueError(f"{info.filename} is compressed in a way that is not read ({info.compress_type})")
            with archive.open(info) as member:
                yield info.filename, Stream(member.read)


class _Seekable(io.RawIOBase):
    """A file of Arrow's as zipfile wants one, which tries places before the beginning and takes an OSError for no."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def seek(self, offset: int, whence: int = 0) -> int:
        start = (0, self._file.tell(), self._file.size())[whence]
        if start + offset < 0:
            raise OSError("a place before the beginning of the file")
        return self._file.seek(start + offset)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        return self._file.read(None if size == -1 else size)

    def seekable(self) -> bool:
        return True


class _TarInfo(tarfile.TarInfo):
    """A header of a tar, refused where tarfile would read as much into memory as it claims."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        info = super().frombuf(buf, encoding, errors)
        if info.type == tarfile.GNUTYPE_SPARSE:
            raise _sparse()
        if info.type in _TAR_HEADERS and info.size > _TAR_HEADER:
            raise ValueError(f"a header in it must have at most {_TAR_HEADER:,} bytes, one claims {info.size:,}")
        return info

    def _proc_gnusparse_10(self, *_: object) -> None:
        """In place of tarfile's own, which reads a list of any length into memory."""
        raise _sparse()


def _sparse() -> ValueError:
    """Of a sparse file some bytes may stand for a terabyte of zeros."""
    return ValueError("a sparse file in it is not read: tar it without --sparse")


def _tar_members(stream: Stream, label: str) -> Iterator[tuple[str, Stream]]:
    file: Any = stream
    with tarfile.open(fileobj=file, mode="r|", tarinfo=_TarInfo) as archive:
        for info in archive:
            archive.members.clear()  # type: ignore[attr-defined]  # it would keep all
            if len(archive.pax_headers) > _TAR_FIELDS:
                raise ValueError(f"its headers must have at most {_TAR_FIELDS} fields for all files")
            if info.issparse():
                raise _sparse()
            member = archive.extractfile(info) if info.isfile() else None
            if member is not None:
                yield info.name.removeprefix("./"), Stream(member.read)


def _gzip(stream: Any) -> Callable[[int], bytes]:
    return gzip.GzipFile(fileobj=stream).read


def _bzip2(stream: Any) -> Callable[[int], bytes]:
    return bz2.BZ2File(stream).read


def _by_arrow(codec: str) -> Callable[[Any], Callable[[int], bytes]]:
    return lambda stream: pa.CompressedInputStream(pa.PythonFile(stream, mode="r"), codec).read


def _xz(stream: Stream) -> Callable[[int], bytes]:
    """Not by lzma.LZMAFile, which sets no limit on memory."""
    blocks, ahead = _xz_blocks(stream), b""

    def read(size: int) -> bytes:
        nonlocal ahead
        while not ahead:
            block = next(blocks, None)
            if block is None:
                return b""
            ahead = block
        part, ahead = ahead[:size], ahead[size:]
        return part

    return read


def _xz_blocks(stream: Stream) -> Iterator[bytes]:
    data = stream.read(_BLOCK)
    while data:
        decoder = lzma.LZMADecompressor(memlimit=XZ_MEMORY)
        while not decoder.eof:
            given = b""
            if decoder.needs_input:
                given, data = data or stream.read(_BLOCK), b""
                if not given:
                    raise EOFError("it ends too soon")
            yield decoder.decompress(given, _BLOCK)
        # Another stream may follow, behind zeros.
        data = decoder.unused_data.lstrip(b"\0") or stream.read(_BLOCK).lstrip(b"\0")


_OPENED = {"gzip": _gzip, "bzip2": _bzip2, "xz": _xz, "zstd": _by_arrow("zstd"), "lz4": _by_arrow("lz4")}
