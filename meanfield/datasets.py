"""Real images as a regression problem: two groups of Fashion-MNIST classes, with targets -1 and +1."""

from __future__ import annotations

import gzip
import math
import operator
import os
import struct
import zlib
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.resources import files
from pathlib import Path
from typing import BinaryIO

import numpy as np

from . import _checks
from .errors import InputError
from .losses import Loss
from .problems import Problem

_N_CLASSES = 10
_UINT8 = 0x08


def read_idx(path: str | os.PathLike[str], *, max_bytes: int = 2**28) -> np.ndarray:
    """Read an IDX file of uint8, plain or gzip-compressed.

    Parameters
    ----------
    path : str or path-like
        The file. Whether it is compressed is told by its first two bytes, not by its name.
    max_bytes : int
        The largest array that may be read, in bytes (default 256 MiB).

    Returns
    -------
    ndarray of uint8, 1 to 3 dimensions
        The array, in the shape that the file declares; read-only.

    Raises
    ------
    InputError
        If the file is missing, is not IDX of uint8 in 1 to 3 dimensions, declares an empty array or one
        larger than `max_bytes`, holds fewer or more bytes than it declares, or is damaged gzip.

    Notes
    -----
    The file is not trusted: the declared size is held against `max_bytes` before anything of that size is
    allocated, and one byte more than the declared size is the most that is ever decompressed.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of an IDX file")
    try:
        with path.open("rb") as raw:
            compressed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            with gzip.GzipFile(fileobj=raw, mode="rb") if compressed else nullcontext(raw) as stream:
                return _read_array(stream, path, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read in full ({error}); fetch the file again") from error


def fashion_mnist(
    n_train: int = 500,
    n_test: int = 500,
    classes: tuple[Sequence[int], Sequence[int]] | None = None,
    pca: int | None = 10,
    normalize: bool = True,
    path: str | os.PathLike[str] | None = None,
    loss: str | Loss = "squared",
) -> Problem:
    """Tell two groups of Fashion-MNIST classes apart.

    The images are taken in the order of the file, one of each class in turn (the classes in the order in
    which `classes` names them), so every class has the same number of images up to one.

    Parameters
    ----------
    n_train, n_test : int
        Number of training images (at least 1) and test images (at least 1). The shipped files hold 1,000 of
        each class in either split.
    classes : pair of sequences of int, optional
        The labels with target -1 and those with target +1; by default 0 to 4 and 5 to 9.
    pca : int or None
        Number of principal components of the training images to project on; None keeps the pixels.
    normalize : bool
        Scale each input to Euclidean norm 1.
    path : str or path-like, optional
        A folder with the four IDX files under their usual names, plain or with ``.gz``; by default the
        shipped ones.
    loss : str or Loss
        Handed on to `Problem`.

    Returns
    -------
    Problem
        `inputs` of shape (n_train, d) with d = `pca`, or the number of pixels; `targets` of shape (n_train,)
        in {-1, +1}; `labels` of shape (n_train,), the original classes; and the same for the test images.

    Raises
    ------
    InputError
        If an argument is out of range, the groups overlap, a class has too few images, the training images
        span fewer than `pca` directions, an input to be normalized is zero, or a file is missing or damaged.

    Notes
    -----
    Pixels are divided by 255. The mean and the components are those of the chosen training images alone, and
    the largest entry of each component is positive, so that its sign does not depend on the linear algebra
    library. Reading takes O(file size); the components take O(n p min(n, p)) for n images of p pixels.
    """
    n_train = _checks.count(n_train, "n_train")
    n_test = _checks.count(n_test, "n_test")
    minus, plus = _groups(classes)
    folder = _shipped_folder() if path is None else Path(path)

    train, labels = _take(folder, "train", minus + plus, n_train, "n_train")
    test, test_labels = _take(folder, "t10k", minus + plus, n_test, "n_test")
    if train.shape[1] != test.shape[1]:
        raise InputError(
            f"{folder} has training images of {train.shape[1]} pixels but test images of {test.shape[1]}; "
            "give a folder whose files belong together"
        )
    mean = train.mean(axis=0)
    train -= mean
    test -= mean
    if pca is not None:
        components = _components(train, _checks.count(pca, "pca"))
        train = train @ components.T
        test = test @ components.T
    if normalize:
        train = _unit_rows(train, "training")
        test = _unit_rows(test, "test")
    return Problem(
        inputs=train,
        targets=np.where(np.isin(labels, plus), 1.0, -1.0),
        loss=loss,
        test_inputs=test,
        test_targets=np.where(np.isin(test_labels, plus), 1.0, -1.0),
        labels=labels,
        test_labels=test_labels,
        name="fashion-mnist",
    )


def _read_array(stream: BinaryIO | gzip.GzipFile, path: Path, max_bytes: int) -> np.ndarray:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0":
        raise InputError(
            f"{path} starts with the bytes {magic.hex() or '(none)'}, but an IDX file of uint8 starts with "
            "000008 and the number of dimensions; give an IDX file"
        )
    code, ndim = magic[2:]
    if code != _UINT8:
        raise InputError(f"{path} has the type code 0x{code:02x}; only uint8 (0x08) is read; convert it")
    if not 1 <= ndim <= 3:
        raise InputError(f"{path} declares {ndim} dimensions; 1 to 3 are read; reshape the data")
    sizes = stream.read(4 * ndim)
    if len(sizes) < 4 * ndim:
        raise InputError(f"{path} ends within its header of {4 + 4 * ndim} bytes; fetch the file again")
    shape = struct.unpack(f">{ndim}I", sizes)
    n_bytes = math.prod(shape)
    # An empty array is refused because numpy cannot form every shape that holds nothing: not
    # (2**32 - 1, 2**32 - 1, 0).
    if not 0 < n_bytes <= max_bytes:
        raise InputError(
            f"{path} declares the shape {shape}, {n_bytes} bytes; 1 to max_bytes={max_bytes} are read; give "
            "a larger max_bytes if you trust the file"
        )
    # Asking for one byte more shows trailing data, and takes gzip to its end, where it compares the checksum.
    data = stream.read(n_bytes + 1)
    if len(data) != n_bytes:
        held = "more" if len(data) > n_bytes else f"only {len(data)}"
        raise InputError(f"{path} declares {n_bytes} bytes of data but holds {held}; fetch the file again")
    return np.frombuffer(data, dtype=np.uint8).reshape(shape)


def _groups(classes: tuple[Sequence[int], Sequence[int]] | None) -> tuple[list[int], list[int]]:
    if classes is None:
        return [0, 1, 2, 3, 4], [5, 6, 7, 8, 9]
    try:
        minus, plus = ([operator.index(label) for label in group] for group in classes)
    except (TypeError, ValueError):
        minus, plus = [], []
    if not minus or not plus:
        raise InputError(
            f"classes={classes!r} was given; two non-empty groups of labels are needed, as in ((0, 1), (2,))"
        )
    if outside := [label for label in minus + plus if not 0 <= label < _N_CLASSES]:
        raise InputError(f"classes names the labels {outside}; 0 to {_N_CLASSES - 1} exist; leave them out")
    if repeated := sorted({label for label in minus + plus if (minus + plus).count(label) > 1}):
        raise InputError(f"classes names the labels {repeated} more than once; give each label to one group")
    return minus, plus


def _shipped_folder() -> Path:
    candidates = (
        # The wheel carries the data inside the package; an editable install leaves it in the checkout.
        Path(str(files("meanfield"))) / "_data" / "fashion-mnist",
        Path(__file__).resolve().parent.parent / "data" / "fashion-mnist",
    )
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise InputError(
        f"the shipped Fashion-MNIST files are in neither {candidates[0]} nor {candidates[1]}; install "
        "the package again, or give path="
    )


def _find(folder: Path, stem: str, ndim: int) -> Path:
    names = [f"{stem}{mark}idx{ndim}-ubyte{suffix}" for mark in "-." for suffix in (".gz", "")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder} holds none of {', '.join(names)}; give path= a folder that holds them")


def _take(folder: Path, split: str, classes: list[int], n: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return n images as rows of floats in [0, 1] and their labels, one of each class in turn."""
    images_path = _find(folder, f"{split}-images", 3)
    images = read_idx(images_path)
    labels_path = _find(folder, f"{split}-labels", 1)
    labels = read_idx(labels_path)
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise InputError(
            f"{images_path} has the shape {images.shape} and {labels_path} {labels.shape}; (n, rows, "
            "columns) and (n,) are needed; give files that belong together"
        )
    if labels.max() >= _N_CLASSES:
        raise InputError(
            f"{labels_path} has the label {labels.max()}; 0 to {_N_CLASSES - 1} are allowed; give other files"
        )
    places = [np.flatnonzero(labels == label) for label in classes]
    fewest = min(map(len, places))
    for turn, (label, found) in enumerate(zip(classes, places, strict=True)):
        needed = (n - turn + len(classes) - 1) // len(classes)
        if len(found) < needed:
            raise InputError(
                f"{name}={n} needs {needed} images of class {label}, but {images_path} holds "
                f"{len(found)}; give {name} up to {fewest * len(classes)}, or other classes"
            )
    order = np.array([places[i % len(classes)][i // len(classes)] for i in range(n)])
    return images[order].reshape(n, -1) / 255.0, labels[order].astype(np.int64)


def _components(centred: np.ndarray, count: int) -> np.ndarray:
    """Return the first principal directions as rows."""
    _, scales, directions = np.linalg.svd(centred, full_matrices=False)
    # Directions beyond the rank are arbitrary: the training images vanish on them and the test images do not.
    rank = np.count_nonzero(scales > scales[0] * max(centred.shape) * np.finfo(float).eps)
    if count > rank:
        raise InputError(
            f"pca={count} was given, but the {len(centred)} training images of {centred.shape[1]} pixels, "
            f"centred, span {rank} directions; give a smaller pca or more images"
        )
    directions = directions[:count]
    largest = np.abs(directions).argmax(axis=1)
    return directions * np.sign(directions[np.arange(count), largest])[:, None]


def _unit_rows(rows: np.ndarray, which: str) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1)
    # An image equal to the mean leaves round-off of about 1e-15, whose direction means nothing.
    if (zero := np.flatnonzero(norms < 1e-12)).size:
        raise InputError(
            f"{which} input {zero[0]} ({zero.size} in all) is zero after centring and projection, so it has "
            "no direction; give normalize=False, or more training images"
        )
    return rows / norms[:, None]
