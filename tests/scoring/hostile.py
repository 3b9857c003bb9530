"""Hostile archives, arrays and tables, made by code; small files that would take gigabytes."""

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.ipc
import pyarrow.parquet

from models.image import encode_png
from tests.tiny import random_images

GIB, MIB = 1 << 30, 1 << 20


def png() -> bytes:
    return encode_png(random_images(1)[0])


def zeros_gz(size: int) -> bytes:
    """gzip of ``size`` zeros, a multiple of 64 MiB: one stream, repeated."""
    return gzip.compress(bytes(64 * MIB), 1) * (size // (64 * MIB))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    return header(name, len(content), kind) + content + bytes(-len(content) % 512)


def pax(**records: str) -> bytes:
    """An extended header; ``_`` in a key is a dot."""
    content = b""
    for key, value in records.items():
        record = f" {key.replace('_', '.')}={value}\n".encode()
        length = len(record) + 1
        while len(str(length)) + len(record) != length:
            length += 1
        content += str(length).encode() + record
    return member("pax", content, tarfile.XHDTYPE)


def long_header(kind: bytes) -> Callable[[Path], object]:
    def build(path: Path) -> None:
        head = gzip.compress(member("a.png", png()) + header("long", 2 * GIB, kind), 1)
        path.write_bytes(head + zeros_gz(2 * GIB))

    return build


def many_headers(path: Path) -> None:
    path.write_bytes(member("a.png", png()) + pax(path="b") * 5000 + bytes(1024))


def digits(path: Path) -> None:
    """Digits without an end: a regular expression takes the square of their number."""
    content = b"1" * MIB
    path.write_bytes(member("a.png", png()) + member("x", content, tarfile.XHDTYPE) + bytes(1024))


def map_without_end(path: Path) -> None:
    """An old sparse file whose map goes on for 512 MiB."""
    first = bytearray(header("s.png", 0, tarfile.GNUTYPE_SPARSE))
    first[482] = 1
    first[148:156] = b"%06o\0 " % (256 + sum(first[:148]) + sum(first[156:]))
    block = bytes(504) + b"\1" + bytes(7)
    more = gzip.compress(block * (64 * MIB // 512), 1) * 8
    path.write_bytes(gzip.compress(member("a.png", png()) + bytes(first), 1) + more)


def one_sample(path: Path) -> None:
    """Six files of one name and 128 MiB each: one sample, if it is held whole."""
    size = 128 * MIB
    files = [gzip.compress(header(f"a.{i}", size), 1) + zeros_gz(size) for i in range(6)]
    path.write_bytes(b"".join(files) + gzip.compress(member("b.png", png()) + bytes(1024)))


def bzip2_bomb(path: Path) -> None:
    stream = bz2.compress(header("a.png", 90 * GIB) + bytes(45 * MIB - 512))
    path.write_bytes(stream + bz2.compress(bytes(45 * MIB)) * 2000)


def xz_memory(path: Path) -> None:
    """The header of an .xz that asks for a dictionary of 4 GiB: its block's header, changed."""
    content = bytearray(lzma.compress(b"a"))
    content[16] = 40
    content[20:24] = struct.pack("<I", zlib.crc32(content[12:20]))
    path.write_bytes(content)


def patch_sizes(content: bytes, size: int) -> bytes:
    """Let the one file of a zip say that it expands to ``size`` bytes."""
    new = bytearray(content)
    for mark, at in ((b"PK\3\4", 22), (b"PK\1\2", 24)):
        place = new.index(mark) + at
        new[place : place + 4] = struct.pack("<I", size)
    return bytes(new)


def lying_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("a.png", bytes(GIB // 2))
    path.write_bytes(patch_sizes(path.read_bytes(), 100))


def overlapping_zip(path: Path) -> None:
    """One file of 100 MiB, 60,000 times in the directory."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(100 * MIB))
        archive.filelist *= 60_000


def bzip2_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a.png", bytes(100 * MIB))
    path.write_bytes(patch_sizes(path.read_bytes(), 100))


def encrypted_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", png())
    content = bytearray(path.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(content)


def array_header(shape: object, descr: str = "'|u1'", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(text))
    return b"\x93NUMPY" + bytes([version, 0]) + length + text


def zipped(**members: bytes) -> Callable[[Path], object]:
    def build(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members.items():
                archive.writestr(f"{name}.npy", content)

    return build


def many_rows_npz(path: Path) -> None:
    """A header of 10**12 rows, and a directory that says so."""
    images = array_header((10**12, 8, 8)) + bytes(6400)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", images)
        archive.filelist[0].file_size = 64 * 10**12 + len(images) - 6400


def dictionary_parquet(path: Path) -> None:
    """One image of 32 MiB in a dictionary, and 1,000 rows of it."""
    image = pyarrow.array([bytes(32 * MIB)], "binary")
    rows = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 1000, "int32"), image)
    table = pyarrow.table({"image": rows})
    pyarrow.parquet.write_table(
        table, path, compression="zstd", dictionary_pagesize_limit=GIB, store_schema=False
    )


def zero_images(count: int, size: int) -> pyarrow.Array:
    """``count`` cells of ``size`` zeros, over memory that nobody wrote: it takes no room."""
    offsets = np.arange(count + 1, dtype=np.int32) * size
    zeros = np.zeros(count * size, np.uint8)
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(zeros)]
    return pyarrow.Array.from_buffers(pyarrow.binary(), count, buffers)


def prefix_parquet(path: Path) -> None:
    """Images of 8 MiB, each the one before it: together half a GiB."""
    table = pyarrow.table({"image": zero_images(64, 8 * MIB)})
    pyarrow.parquet.write_table(
        table,
        path,
        compression="zstd",
        use_dictionary=False,
        column_encoding={"image": "DELTA_BYTE_ARRAY"},
    )


def page_parquet(path: Path) -> None:
    """One page of half a GiB, in a few KB."""
    table = pyarrow.table({"image": zero_images(8, 64 * MIB)})
    pyarrow.parquet.write_table(
        table, path, compression="zstd", use_dictionary=False, data_page_size=2 * GIB
    )


def zstd_bomb(path: Path) -> None:
    codec = pyarrow.Codec("zstd")
    zeros = codec.compress(bytes(45 * MIB), asbytes=True)
    head = codec.compress(header("a.png", 90 * GIB) + bytes(45 * MIB - 512), asbytes=True)
    path.write_bytes(head + zeros * 1000)


def zstd_memory(path: Path) -> None:
    """A frame with a window of 1 GiB, RFC 8878, 3.1.1.1; then one block of one repeated byte."""
    path.write_bytes(b"\x28\xb5\x2f\xfd\x00\xa0" + bytes([0x03, 0x10, 0x00, 0]))


def many_rows_parquet(path: Path) -> None:
    """Two million rows of nothing."""
    table = pyarrow.table({"image": pyarrow.nulls(2 * MIB, "binary")})
    pyarrow.parquet.write_table(table, path)


def lists_parquet(path: Path) -> None:
    """One image as a list of 64 Mi numbers, all the same, in a few KB."""
    values = pyarrow.array(np.zeros(64 * MIB, np.uint8))
    images = pyarrow.ListArray.from_arrays(pyarrow.array([0, len(values)], "int32"), values)
    pyarrow.parquet.write_table(pyarrow.table({"image": images}), path)


def batch_arrow(path: Path) -> None:
    """One batch of 300 MB in a few KB."""
    table = pyarrow.table({"image": zero_images(30, 10 * MIB)})
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table)


IMAGES = array_header((100, 8, 8)) + bytes(6400)


def tiny_rows(path: Path) -> None:
    zipped(images=array_header((64 * MIB, 1, 1)) + bytes(64 * MIB))(path)


def long_header_npz(path: Path) -> None:
    zipped(images=b"\x93NUMPY\2\0" + struct.pack("<I", GIB // 2) + bytes(GIB // 2))(path)


# Name to a builder; what is at its path then has at most a few MB.
HOSTILE: dict[str, Callable[[Path], object]] = {
    "pax-2-gib.tar.gz": long_header(tarfile.XHDTYPE),
    "global-2-gib.tar.gz": long_header(tarfile.XGLTYPE),
    "name-2-gib.tar.gz": long_header(tarfile.GNUTYPE_LONGNAME),
    "link-2-gib.tar.gz": long_header(tarfile.GNUTYPE_LONGLINK),
    "many-headers.tar": many_headers,
    "digits.tar": digits,
    "map-without-end.tgz": map_without_end,
    "one-sample.tgz": one_sample,
    "bomb.tar.bz2": bzip2_bomb,
    "memory.tar.xz": xz_memory,
    "bomb.tar.zst": zstd_bomb,
    "memory.tar.zst": zstd_memory,
    "lying.zip": lying_zip,
    "overlapping.zip": overlapping_zip,
    "bzip2.zip": bzip2_zip,
    "encrypted.zip": encrypted_zip,
    "many-rows.npy": lambda path: path.write_bytes(array_header((10**12, 8, 8)) + bytes(6400)),
    "many-rows.npz": many_rows_npz,
    "tiny-rows.npz": tiny_rows,
    "many-labels.npz": zipped(images=IMAGES, labels=array_header((10**12,), "'<i8'")),
    "few-labels.npz": zipped(images=IMAGES, labels=array_header((100,), "'<i8'") + bytes(8)),
    "long-labels.npz": zipped(images=IMAGES, labels=array_header((100,), "'<U50000000'")),
    "object-labels.npz": zipped(images=IMAGES, labels=array_header((100,), "'|O'") + b"cos\n"),
    "long-header.npz": long_header_npz,
    "deep-header.npy": lambda path: path.write_bytes(array_header("(" * 3000)),
    "negative.npy": lambda path: path.write_bytes(array_header((-5, 8, 8)) + bytes(6400)),
    "huge-image.npy": lambda path: path.write_bytes(array_header((0, 10**6, 10**6))),
    "long-row.csv": lambda path: long_text(path, b"path\n", b"a" * MIB),
    "long-quote.csv": lambda path: long_text(path, b'path\n"', b"a\n" * (MIB // 2)),
    "long-header.csv": lambda path: long_text(path, b"", b"a," * (MIB // 2)),
    "dictionary.parquet": dictionary_parquet,
    "prefix.parquet": prefix_parquet,
    "page.parquet": page_parquet,
    "many-rows.parquet": many_rows_parquet,
    "lists.parquet": lists_parquet,
    "batch.arrow": batch_arrow,
    "long-line.jsonl": lambda path: long_text(path, b'{"image": "', b"a" * MIB),
    "long-path.txt": lambda path: long_text(path, b"", b"a" * MIB),
    "deep.json": lambda path: path.write_bytes(b"[" * MIB),
    "nul.csv": lambda path: path.write_bytes(b"path\na\0b\n"),
}


def long_text(path: Path, begin: bytes, piece: bytes) -> None:
    with path.open("wb") as file:
        file.write(begin)
        for _ in range(32):
            file.write(piece)
