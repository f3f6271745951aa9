"""The shipped images are the ones that were checked in, and the reader refuses what it cannot trust."""

from __future__ import annotations

import gzip
import hashlib
import runpy
import struct
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from meanfield.datasets import fashion_mnist, read_idx
from meanfield.errors import InputError
from meanfield.losses import LOSSES

DATA = Path(__file__).resolve().parent.parent / "data"
SHIPPED = DATA / "fashion-mnist"
NAMES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def checksums_that_differ(sums: Path) -> list[str]:
    differ = []
    for line in sums.read_text().splitlines():
        digest, name = line.split("  ")
        if hashlib.sha256((sums.parent / name).read_bytes()).hexdigest() != digest:
            differ.append(name)
    return differ


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def small_arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    arrays = {}
    for split, n in (("train", 40), ("t10k", 30)):
        arrays[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (n, 6, 5), dtype=np.uint8)
        arrays[f"{split}-labels-idx1-ubyte"] = rng.permutation(np.arange(n, dtype=np.uint8) % 10)
    return arrays


def write(folder: Path, arrays: dict[str, np.ndarray], *, packed: bool = False, dotted: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, array in arrays.items():
        data = idx(array)
        name = name.replace("-idx", ".idx") if dotted else name
        (folder / (f"{name}.gz" if packed else name)).write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.fixture(scope="module")
def default():
    return fashion_mnist()


# The shipped files


def test_checksums_and_that_they_name_every_file():
    assert checksums_that_differ(DATA / "SHA256SUMS") == []
    lines = (DATA / "SHA256SUMS").read_text().splitlines()
    assert sorted(line.split("/")[1] for line in lines) == sorted(f"{name}.gz" for name in NAMES)
    assert sorted(path.name for path in SHIPPED.iterdir()) == sorted(f"{name}.gz" for name in NAMES)
    readme = (DATA / "README.md").read_text()
    assert all(line.split("  ")[0] in readme for line in lines)


def test_a_flipped_byte_fails_the_checksum(tmp_path):
    (tmp_path / "fashion-mnist").mkdir()
    for name in ("SHA256SUMS", *(f"fashion-mnist/{name}.gz" for name in NAMES)):
        (tmp_path / name).write_bytes((DATA / name).read_bytes())
    assert checksums_that_differ(tmp_path / "SHA256SUMS") == []
    victim = tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    assert checksums_that_differ(tmp_path / "SHA256SUMS") == ["fashion-mnist/t10k-labels-idx1-ubyte.gz"]


@pytest.mark.parametrize("split", ["train", "t10k"])
def test_shipped_shapes_and_class_balance(split):
    images = read_idx(SHIPPED / f"{split}-images-idx3-ubyte.gz")
    labels = read_idx(SHIPPED / f"{split}-labels-idx1-ubyte.gz")
    assert images.shape == (10000, 28, 28)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(np.bincount(labels), np.full(10, 1000))


def test_build_keeps_the_first_thousand_of_each_class_in_order_and_repeats_itself(tmp_path):
    build = runpy.run_path(str(DATA / "build.py"))["build"]
    labels = np.random.default_rng(3).permutation(np.arange(10500, dtype=np.int64) % 10).astype(np.uint8)
    images = np.zeros((10500, 28, 28), dtype=np.uint8)
    images[:, 0, 0], images[:, 0, 1] = np.divmod(np.arange(10500), 256)
    arrays = dict(zip(NAMES, (images, labels, images[:20], labels[:20]), strict=True))
    for out, packed in (("a", False), ("b", True)):
        build(write(tmp_path / f"from-{out}", arrays, packed=packed), tmp_path / out / "set")
    for name in ("SHA256SUMS", *(f"set/{name}.gz" for name in NAMES)):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert checksums_that_differ(tmp_path / "a" / "SHA256SUMS") == []

    keep = sorted(i for label in range(10) for i in np.flatnonzero(labels == label)[:1000])
    np.testing.assert_array_equal(read_idx(tmp_path / "a/set/train-images-idx3-ubyte.gz"), images[keep])
    np.testing.assert_array_equal(read_idx(tmp_path / "a/set/train-labels-idx1-ubyte.gz"), labels[keep])
    np.testing.assert_array_equal(read_idx(tmp_path / "a/set/t10k-images-idx3-ubyte.gz"), images[:20])

    short = {**arrays, NAMES[0]: images[:9000], NAMES[1]: labels[:9000]}
    with pytest.raises(SystemExit, match="1000 images of each of 10 classes are needed"):
        build(write(tmp_path / "short", short), tmp_path / "c" / "set")


# The problem


def test_default_problem(default):
    assert default.name == "fashion-mnist"
    assert default.loss is LOSSES["squared"]
    for inputs, targets, labels in (
        (default.inputs, default.targets, default.labels),
        (default.test_inputs, default.test_targets, default.test_labels),
    ):
        assert inputs.shape == (500, 10)
        assert labels.dtype.kind == "i"
        np.testing.assert_allclose(np.linalg.norm(inputs, axis=1), 1, rtol=1e-14)
        np.testing.assert_array_equal(targets, np.where(labels < 5, -1, 1))
        np.testing.assert_array_equal(np.bincount(labels), np.full(10, 50))


def test_chosen_classes_are_balanced_and_in_file_order():
    problem = fashion_mnist(n_train=32, n_test=7, classes=((9, 1), (4,)), pca=None, normalize=False)
    np.testing.assert_array_equal(problem.labels, ([9, 1, 4] * 11)[:32])
    np.testing.assert_array_equal(problem.targets, ([-1, -1, 1] * 11)[:32])
    np.testing.assert_array_equal(problem.test_labels, [9, 1, 4, 9, 1, 4, 9])
    images = read_idx(SHIPPED / "train-images-idx3-ubyte.gz").reshape(-1, 784) / 255
    labels = read_idx(SHIPPED / "train-labels-idx1-ubyte.gz")
    chosen = np.empty((32, 784))
    for turn, label in enumerate((9, 1, 4)):
        chosen[turn::3] = images[labels == label][: len(chosen[turn::3])]
    np.testing.assert_allclose(problem.inputs, chosen - chosen.mean(axis=0), atol=1e-15)


def test_pca_agrees_with_the_eigenvectors_of_the_covariance():
    pixels = fashion_mnist(n_train=200, n_test=50, pca=None, normalize=False)
    problem = fashion_mnist(n_train=200, n_test=50, pca=6, normalize=False)
    np.testing.assert_allclose(pixels.inputs.mean(axis=0), 0, atol=1e-14)
    values, vectors = np.linalg.eigh(pixels.inputs.T @ pixels.inputs)
    leading = vectors[:, -6:]
    # Inner products within the subspace do not depend on the basis that spans it.
    for rows, projected in ((pixels.inputs, problem.inputs), (pixels.test_inputs, problem.test_inputs)):
        expected = rows @ leading @ leading.T @ pixels.inputs.T
        np.testing.assert_allclose(projected @ problem.inputs.T, expected, atol=1e-9)
    np.testing.assert_allclose((problem.inputs**2).sum(axis=0), values[:-7:-1], rtol=1e-10)
    components = np.linalg.lstsq(pixels.inputs, problem.inputs, rcond=None)[0].T
    assert np.all(components[np.arange(6), np.abs(components).argmax(axis=1)] > 0)


def test_the_test_images_do_not_touch_the_training_inputs(default):
    other = fashion_mnist(n_test=90)
    np.testing.assert_array_equal(other.inputs, default.inputs)
    # Not bit by bit: a matrix product of another height may sum in another order.
    np.testing.assert_allclose(other.test_inputs, default.test_inputs[:90], rtol=1e-12, atol=1e-14)


def test_two_calls_agree(default):
    again = fashion_mnist()
    for field in ("inputs", "targets", "labels", "test_inputs", "test_targets", "test_labels"):
        np.testing.assert_array_equal(getattr(again, field), getattr(default, field))


def test_normalize_only_scales_the_rows(default):
    raw = fashion_mnist(normalize=False)
    norms = np.linalg.norm(raw.inputs, axis=1, keepdims=True)
    assert norms.std() > 0.1
    np.testing.assert_allclose(default.inputs, raw.inputs / norms, rtol=1e-12)


def test_loss_is_handed_on():
    loss = replace(LOSSES["squared"], name="other")
    assert fashion_mnist(n_train=20, n_test=10, loss=loss).loss is loss
    with pytest.raises(InputError, match="unknown loss 'quadratic'"):
        fashion_mnist(n_train=20, n_test=10, loss="quadratic")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("dotted", [False, True])
def test_own_files_are_read_under_either_name(tmp_path, packed, dotted):
    arrays = small_arrays()
    folder = write(tmp_path / "own", arrays, packed=packed, dotted=dotted)
    problem = fashion_mnist(n_train=40, n_test=30, pca=None, normalize=False, path=folder)
    assert problem.inputs.shape == (40, 30)
    order = np.argsort(arrays["train-labels-idx1-ubyte"], kind="stable").reshape(10, 4).T.ravel()
    pixels = arrays["train-images-idx3-ubyte"].reshape(40, 30)[order] / 255
    np.testing.assert_allclose(problem.inputs, pixels - pixels.mean(axis=0), atol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_train": 0}, "n_train is 0; needed: a whole number of at least 1"),
        ({"n_train": True}, "n_train is True"),
        ({"n_test": 2.5}, r"n_test is 2\.5"),
        ({"n_train": 10001}, "n_train=10001 needs 1001 images of class 0, .* holds 1000; give n_train up to"),
        ({"n_test": 10**30}, "give n_test up to 10000"),
        ({"n_train": 2002, "classes": ((3,), (5,))}, "images of class 3, .* give n_train up to 2000"),
        ({"classes": 3}, "two non-empty groups"),
        ({"classes": ((), (1,))}, "two non-empty groups"),
        ({"classes": ((1,), (2,), (3,))}, "two non-empty groups"),
        ({"classes": (("a",), (2,))}, "two non-empty groups"),
        ({"classes": ((0,), (-1, 10))}, r"the labels \[-1, 10\]; 0 to 9 exist"),
        ({"classes": ((0, 1), (1, 2))}, r"the labels \[1\] more than once"),
        ({"classes": ((0, 0), (2,))}, r"the labels \[0\] more than once"),
        ({"pca": 0}, "pca is 0"),
        ({"pca": 50, "n_train": 50}, "pca=50 was given, but the 50 training images .* span 49"),
        ({"pca": 785, "n_train": 900}, "pca=785 was given"),
        ({"n_train": 1, "pca": None}, "training input 0 .* is zero after centring"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        fashion_mnist(**arguments)


def test_missing_files_are_named(tmp_path):
    folder = write(tmp_path / "own", small_arrays())
    (folder / "t10k-labels-idx1-ubyte").unlink()
    old, new = "t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte"
    with pytest.raises(InputError, match=rf"own holds none of {old}\.gz, {old}, {new}\.gz, {new};"):
        fashion_mnist(n_train=10, n_test=10, pca=2, path=folder)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(39, np.uint8), r"\(40, 6, 5\) and .* \(39,\)"),
        ("train-labels-idx1-ubyte", np.zeros((40, 1), np.uint8), r"\(40, 1\)"),
        ("train-images-idx3-ubyte", np.zeros((40, 30), np.uint8), r"\(40, 30\)"),
        ("train-labels-idx1-ubyte", np.arange(40, dtype=np.uint8), "has the label 39; 0 to 9"),
        ("train-images-idx3-ubyte", np.ones((40, 5, 5), np.uint8), "of 25 pixels but test images of 30"),
        ("train-images-idx3-ubyte", np.ones((40, 6, 5), np.uint8), "span 0 directions"),
    ],
)
def test_files_that_do_not_belong_together(tmp_path, name, array, message):
    folder = write(tmp_path / "own", {**small_arrays(), name: array})
    with pytest.raises(InputError, match=message):
        fashion_mnist(n_train=10, n_test=10, pca=2, path=folder)


# The reader

GOOD = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


def header(code: int, *shape: int) -> bytes:
    return bytes([0, 0, code, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reader_round_trip(tmp_path, shape, pack):
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "file").write_bytes(pack(idx(array)))
    read = read_idx(tmp_path / "file")
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"starts with the bytes \(none\)"),
        (b"\x00", "starts with the bytes 00,"),
        (b"\x93NUMPY", "starts with the bytes 934e554d"),
        (header(0x0D, 2, 3) + bytes(24), "type code 0x0d; only uint8"),
        (header(8), "declares 0 dimensions"),
        (header(8, 1, 1, 1, 1) + b"\0", "declares 4 dimensions"),
        (GOOD[:10], "ends within its header of 16 bytes"),
        (GOOD[:-1], "declares 24 bytes of data but holds only 23"),
        (GOOD + b"\0", "declares 24 bytes of data but holds more"),
        (header(8, 0), r"declares the shape \(0,\), 0 bytes"),
        (header(8, 2**32 - 1, 2**32 - 1, 0), r"0\), 0 bytes; 1 to max_bytes=268435456"),
        (header(8, 2**20, 2**10, 2**10), f"{2**40} bytes; 1 to max_bytes=268435456 are read"),
        (header(8, 2**32 - 1, 2**32 - 1, 2**32 - 1), f"{(2**32 - 1) ** 3} bytes"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_reader_refuses(tmp_path, content, message, pack):
    (tmp_path / "file").write_bytes(pack(content))
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file")


def test_reader_budget_and_missing_file(tmp_path):
    (tmp_path / "file").write_bytes(GOOD)
    assert read_idx(tmp_path / "file", max_bytes=24).size == 24
    with pytest.raises(InputError, match="24 bytes; 1 to max_bytes=23 are read"):
        read_idx(tmp_path / "file", max_bytes=23)
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(InputError, match="is not a file"):
            read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(GOOD)[:-3], "cannot be read in full .*end-of-stream"),
        (gzip.compress(GOOD)[:-8] + bytes(8), "cannot be read in full .*CRC"),
        (gzip.compress(GOOD) + b"junk", "cannot be read in full .*Not a gzipped file"),
        (gzip.compress(GOOD) + gzip.compress(b"junk"), "declares 24 bytes of data but holds more"),
        (gzip.compress(GOOD)[:10] + b"\xff" * 40, "cannot be read in full .*invalid block type"),
    ],
)
def test_reader_refuses_damaged_gzip(tmp_path, content, message):
    (tmp_path / "file.gz").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_idx(tmp_path / "file.gz")


def test_no_change_of_one_byte_and_no_cut_gives_other_data(tmp_path):
    good = gzip.compress(GOOD, mtime=0)
    path = tmp_path / "file.gz"
    places = range(len(good))
    changed = [good[:i] + bytes([good[i] ^ bits]) + good[i + 1 :] for i in places for bits in (1, 16, 255)]
    refused = 0
    for content in changed + [good[:i] for i in places]:
        path.write_bytes(content)
        try:
            array = read_idx(path)
        except InputError:
            refused += 1
        else:
            # The header of gzip has bytes, such as the time, that say nothing about the data.
            assert idx(array) == GOOD
    assert refused > 0.8 * len(good) * 4


def test_reader_does_not_expand_a_gzip_bomb_or_allocate_what_is_declared(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(GOOD + bytes(2**26), compresslevel=1))
    (tmp_path / "huge").write_bytes(header(8, 2**20, 2**10, 2**10))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="declares 24 bytes of data but holds more"):
            read_idx(tmp_path / "bomb")
        with pytest.raises(InputError, match="declares the shape"):
            read_idx(tmp_path / "huge")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
