"""Cut the shipped Fashion-MNIST files out of the four original IDX files.

Usage: python data/build.py SOURCE_DIR [--out data/fashion-mnist]

SOURCE_DIR holds the original train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and
t10k-labels-idx1-ubyte, plain or with .gz. The first 1,000 training images of each class are kept, in the
order of the file; the test images are all kept. SHA256SUMS is written into the parent folder of --out. Only
the standard library is used, so that the data can be rebuilt before the package is installed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import struct
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
PER_CLASS = 1000
CLASSES = 10
SIDE = 28


def read_idx(source: Path, name: str) -> tuple[tuple[int, ...], bytes]:
    """Return the shape and the bytes of an IDX file of uint8."""
    for path in (source / f"{name}.gz", source / name):
        if path.is_file():
            raw = path.read_bytes()
            break
    else:
        raise SystemExit(f"{source} holds neither {name}.gz nor {name}")
    if raw[:2] == b"\x1f\x8b":
        raw = gzip.decompress(raw)
    ndim = 3 if "images" in name else 1
    head = 4 + 4 * ndim
    if raw[:4] != bytes([0, 0, 8, ndim]) or len(raw) < head:
        raise SystemExit(f"{path} is not an IDX file of {ndim}-dimensional uint8 data")
    shape = struct.unpack(f">{ndim}I", raw[4:head])
    count = shape[0] * (SIDE * SIDE if ndim == 3 else 1)
    if shape[1:] != (SIDE, SIDE)[: ndim - 1] or len(raw) != head + count:
        raise SystemExit(f"{path} declares the shape {shape}, which is not what its {len(raw)} bytes hold")
    return shape, raw[head:]


def read_pair(source: Path, split: str) -> tuple[list[bytes], bytes]:
    """Return the images, one bytes object each, and the labels of one split."""
    (n_images, *_), pixels = read_idx(source, f"{split}-images-idx3-ubyte")
    (n_labels,), labels = read_idx(source, f"{split}-labels-idx1-ubyte")
    if n_images != n_labels:
        raise SystemExit(f"{source}: {n_images} {split} images but {n_labels} labels")
    size = SIDE * SIDE
    return [pixels[i * size : (i + 1) * size] for i in range(n_images)], labels


def first_of_each_class(labels: bytes) -> list[int]:
    """Return the positions of the first PER_CLASS images of every class, in the order of the file."""
    seen: Counter[int] = Counter()
    keep = []
    for i, label in enumerate(labels):
        if seen[label] < PER_CLASS:
            seen[label] += 1
            keep.append(i)
    if seen != dict.fromkeys(range(CLASSES), PER_CLASS):
        raise SystemExit(f"{PER_CLASS} images of each of {CLASSES} classes are needed; found {dict(seen)}")
    return keep


def write_idx(path: Path, shape: tuple[int, ...], data: bytes) -> None:
    """Write gzip-compressed IDX whose bytes depend on the data (and the zlib in use) alone."""
    head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    with (
        path.open("wb") as raw,
        # A file name or a time in the gzip header would make two builds of the same data differ.
        gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as stream,
    ):
        stream.write(head + data)


def build(source: Path, out: Path) -> None:
    """Write the four files into out and their checksums into out's parent folder."""
    # Everything is read before anything is written, so that out may be the source too.
    splits = {split: read_pair(source, split) for split in ("train", "t10k")}
    images, labels = splits["train"]
    keep = first_of_each_class(labels)
    splits["train"] = ([images[i] for i in keep], bytes(labels[i] for i in keep))

    out.mkdir(parents=True, exist_ok=True)
    sums = []
    for split, (images, labels) in splits.items():
        for name, shape, data in (
            (f"{split}-images-idx3-ubyte.gz", (len(images), SIDE, SIDE), b"".join(images)),
            (f"{split}-labels-idx1-ubyte.gz", (len(labels),), labels),
        ):
            write_idx(out / name, shape, data)
            sums.append(f"{hashlib.sha256((out / name).read_bytes()).hexdigest()}  {out.name}/{name}\n")
    (out.parent / "SHA256SUMS").write_text("".join(sums), encoding="ascii", newline="\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Cut the shipped Fashion-MNIST files out of the originals.")
    parser.add_argument("source", metavar="SOURCE_DIR", type=Path, help="folder of the four original files")
    parser.add_argument("--out", type=Path, default=HERE / "fashion-mnist")
    arguments = parser.parse_args()
    build(arguments.source, arguments.out.resolve())
