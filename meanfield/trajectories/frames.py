"""Rows of a run's file, read when they are asked for: no row is given whose CRC is wrong."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

from .. import _memory
from ..errors import FormatError, InputError
from . import safety, schema

_BLOCK = 4 * 2**20  # bytes read at once to check rows


class Rows:
    """The rows of one series: its steps and times, and whether each row has its CRC.

    count : rows that are there; `drop_torn` lowers it, before steps and times are read
    """

    def __init__(self, file: Any, series: schema.Series, count: int, path: Path, max_bytes: float | None = None):
        self.series, self.count, self.path, self.max_bytes = series, count, path, max_bytes
        self._file, self._sets = file, [file[each] for each in series.paths]
        self._good = np.zeros(count, bool)
        self._bytes = sum(each.dtype.itemsize * int(np.prod(each.shape[1:])) for each in self._sets)

    @cached_property
    def steps(self) -> np.ndarray:
        """(T,) accepted steps so far."""
        return self._sets[0][: self.count]

    @cached_property
    def times(self) -> np.ndarray:
        """(T,) flow times."""
        return self._sets[1][: self.count]

    def column(self, path: str) -> Any:
        """The dataset at `path`; None if this series does not have it."""
        return next((each for each, name in zip(self._sets, self.series.paths, strict=True) if name == path), None)

    def drop_torn(self) -> int:
        """Forget rows at the end whose CRC is wrong; their number."""
        before = self.count
        while self.count and not self._whole(self.count - 1, self.count)[0]:
            self.count -= 1
        return before - self.count

    def check(self, rows: np.ndarray) -> None:
        """FormatError unless each of these rows has its CRC; each is read once for that, O(one row) in memory."""
        self.check_open()
        at_once = max(1, _BLOCK // max(1, self._bytes))
        todo = np.unique(rows[~self._good[rows]])
        for run in np.split(todo, np.flatnonzero(np.diff(todo) > 1) + 1):
            for block in np.split(run, range(at_once, len(run), at_once)):
                if len(block):
                    whole = self._whole(block[0], block[-1] + 1)
                    if not whole.all():
                        raise FormatError(
                            f"{self.path} is damaged: row {block[0] + int(np.argmin(whole))} of its {self.series.name} "
                            "does not have its CRC. The other rows can be read."
                        )

    def row(self, index: int) -> tuple[int, float, list[np.ndarray]]:
        """(step, time, columns) of a row, checked."""
        self.check(np.array([index]))
        step, time, *columns, _ = (each[index] for each in self._sets)
        return int(step), float(time), [np.asarray(each) for each in columns]

    def check_open(self) -> None:
        """InputError where the file was closed."""
        if not self._file:
            raise InputError(f"{self.path} is closed; needed: an open trajectory, mf.open(...). What was read stays.")

    def _whole(self, begin, end):
        with safety.reading(self.path):
            step, time, *columns, said = (each[begin:end] for each in self._sets)
        found = [schema.crc(step[i], time[i], [each[i] for each in columns]) for i in range(end - begin)]
        self._good[begin:end] = np.array(found, dtype=np.int64) == said
        return self._good[begin:end]


class Frames(NDArrayOperatorsMixin):
    """An array on file, (T, ...): rows are read, and held against their CRC, when they are asked for.

    `frames[3]`, `frames[-10:, :, 0]`, `numpy.asarray(frames)`. The first axis takes whole numbers, slices, and arrays
    of either whole numbers or booleans; the others whole numbers and slices.

    minuend : (n,), optional
        What the array is subtracted from: residuals are targets - predictions.
    """

    def __init__(self, rows: Rows, path: str, minuend: np.ndarray | None = None):
        dataset = rows.column(path)
        assert dataset is not None
        self._rows, self._data, self._minuend = rows, dataset, minuend
        self._name = path.split("/")[-2]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._rows.count, *self._data.shape[1:])

    @property
    def ndim(self) -> int:
        return len(self._data.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=object))

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    def __len__(self) -> int:
        return self._rows.count

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"Frames({self._name}, {self.shape}, {self.dtype})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on file becomes one in memory by a copy")
        return self[:].astype(dtype or self.dtype, copy=False)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        return getattr(ufunc, method)(*(each[:] if isinstance(each, Frames) else each for each in inputs), **options)

    def __getitem__(self, index: Any) -> np.ndarray:
        self._rows.check_open()
        first, rest = self._split(index)
        try:
            rows = np.arange(len(self))[first]
        except IndexError as problem:
            raise IndexError(f"{self!r}: {problem}") from None
        kept, shape, turned = _regular(rest, self.shape[1:], self)
        _memory.check({self._name: float(rows.size * np.prod(shape, dtype=object) * self.dtype.itemsize)},
                      f"reading {self._name}", "Read fewer rows at a time", self._rows.max_bytes)  # fmt: skip
        self._rows.check(np.atleast_1d(rows))
        with safety.reading(self._rows.path):
            found = self._read(rows, kept, shape)[(..., *turned)]
        return found if self._minuend is None else self._minuend[rest] - found

    def _read(self, rows, kept, shape):
        if rows.ndim == 0:
            return np.asarray(self._data[(int(rows), *kept)])
        if len(rows) > 1 and np.ptp(np.diff(rows)) == 0 and rows[1] > rows[0]:
            return self._data[(slice(rows[0], rows[-1] + 1, rows[1] - rows[0]), *kept)]
        found = np.empty((len(rows), *shape), self.dtype)
        for place, row in enumerate(rows):
            found[place] = self._data[(int(row), *kept)]
        return found

    def _split(self, index):
        """Index of the rows, and one entry for each of the other axes."""
        given = index if isinstance(index, tuple) else (index,)
        if sum(each is Ellipsis for each in given) > 1 or any(each is None for each in given):
            raise IndexError(f"{self!r} at {index!r}; needed: whole numbers, slices and one '...'.")
        if not any(each is Ellipsis for each in given):
            given = (*given, Ellipsis)
        where = next(i for i, each in enumerate(given) if each is Ellipsis)
        missing = self.ndim - len(given) + 1
        if missing < 0:
            raise IndexError(f"{self!r} at {index!r}; needed: at most {self.ndim} indices.")
        full = (*given[:where], *[slice(None)] * missing, *given[where + 1 :])
        first, rest = full[0], full[1:]
        if isinstance(first, list):
            first = np.asarray(first, dtype=None if first else int)
        if isinstance(first, np.ndarray) and first.ndim != 1:
            raise IndexError(f"{self!r} at an array of {first.ndim} axes; needed: one.")
        return first, rest


def _regular(rest, shape, frames):
    """Whole numbers and slices forwards, the shape of what they select, and the slices that turn it round after."""
    kept, sizes, turned = [], [], []
    for each, size in zip(rest, shape, strict=True):
        if isinstance(each, slice):
            begin, end, step = each.indices(size)
            chosen = range(begin, end, step)
            if step < 0:
                chosen = chosen[::-1]
            kept.append(slice(chosen.start, max(chosen.start, chosen.stop), chosen.step))
            sizes.append(len(chosen))
            turned.append(slice(None, None, -1 if step < 0 else 1))
        elif isinstance(each, int | np.integer) and not isinstance(each, bool):
            if not -size <= each < size:
                raise IndexError(f"{frames!r} at index {each} of an axis of {size}.")
            kept.append(int(each) % size)
        else:
            raise InputError(f"{frames!r} at {each!r}; needed: whole numbers and slices, or numpy.asarray of it first.")
    return kept, sizes, turned
