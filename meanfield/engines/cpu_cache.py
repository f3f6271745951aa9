"""Compiled drivers on disk, so that a second process starts at once.

Numba's own cache misses on a closure over a compiled function and notices a change in one file only. Here a file's
name is a digest over all that its machine code follows from: the formula with everything it closes over or refers
to, the sources of the vocabulary and the engine, the operation, the dtype, the processor and the versions. Nothing
stale is found, and processes that write at the same time write what does the same.

Numba numbers the functions it compiles from 1 on and puts the number into their names in machine code; a function that
is called and not inlined is found by that name. Code from two processes, loaded into a third, would have functions of
one name that differ, and call each other's. Here numbering starts anywhere in 2^60, so that no two processes meet; what
refers to functions numbered before is not kept.

The files hold machine code: they are read from a folder that only its owner may write to, or not at all.
"""

import hashlib
import itertools
import logging
import os
import pickle
import platform
import re
import stat
import sys
import types
from functools import cache
from pathlib import Path

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core.bytecode import FunctionIdentity
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps
from numba.core.typing.templates import builtin_registry

from .. import vocabulary
from .._files import write_atomically
from .cpu_lanes import VECTOR_BYTES

_log = logging.getLogger(__name__)


_first = 0  # number of this process alone


def _number_anew() -> None:
    """Let functions compiled from now on have numbers of this process alone: far above those that begin at 1."""
    global _first
    _first = 2**56 + int.from_bytes(os.urandom(7))
    FunctionIdentity._unique_ids = itertools.count(_first)  # type: ignore[attr-defined]


def _has_others(library) -> bool:
    """Whether code refers to functions that were numbered before: names hold `B<length>v<number>`."""
    return any(int(number) < _first for number in re.findall(r"B\d+v(\d+)", library.get_llvm_str()))


# Where Numba keeps its numbers elsewhere, nothing is kept on disk.
_NUMBERED = isinstance(getattr(FunctionIdentity, "_unique_ids", None), itertools.count)
if _NUMBERED:
    _number_anew()
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_number_anew)
# Modules a formula may refer to as a whole: what they hold follows from the versions and sources in `_surroundings`.
_FIXED_MODULES = ("math", "numpy", vocabulary.__name__)
_MOST_FILES = 500  # of 50 to 200 KB; the oldest go first


def folder() -> Path:
    """Where compiled drivers are kept: `NUMBA_CACHE_DIR`/meanfield if that is set, else the user's cache folder."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen, "meanfield")
    import platformdirs  # not needed where a folder is named

    return Path(platformdirs.user_cache_dir("meanfield", appauthor=False))


def usable() -> bool:
    """Whether machine code can be kept in that folder: it is this user's, and can be written to or made."""
    place = folder()
    try:
        if place.exists():
            return place.is_dir() and _is_ours(place) and os.access(place, os.W_OK)
        above = next(each for each in place.parents if each.exists())
        return above.is_dir() and os.access(above, os.W_OK)
    except OSError:
        return False


def digest(function) -> str | None:
    """What a function computes, as a digest: its code with all that it closes over or refers to.

    None if that cannot be told, because it refers to an object that is neither a plain number, a string nor a function.
    """
    seen: list[types.FunctionType] = []
    hasher = hashlib.sha256()

    def add(kind, text):
        hasher.update(f"{kind}:{len(text)}:{text};".encode())

    def add_value(value):
        if isinstance(value, Dispatcher):
            options = {
                name: sorted(each) if isinstance(each, set) else each for name, each in value.targetoptions.items()
            }
            add("compiled", repr(sorted(options.items())))
            value = value.py_func
        if isinstance(value, types.FunctionType) and getattr(vocabulary, value.__name__, None) is value:
            add("vocabulary", value.__name__)
        elif isinstance(value, types.FunctionType):
            if value in seen:
                add("again", str(seen.index(value)))
                return
            if any(value is each for each, _ in builtin_registry.globals):
                raise _Unknown  # Numba has another body for it
            seen.append(value)
            add_function(value)
        elif isinstance(value, types.ModuleType):
            if value.__name__ not in _FIXED_MODULES:
                raise _Unknown  # which of its functions are called, and what they are, cannot be told
            add("module", value.__name__)
        elif isinstance(value, types.BuiltinFunctionType | np.ufunc) or value in (float, int, bool):
            add("builtin", f"{getattr(value, '__module__', '')} {value.__name__}")
        elif type(value) in (bool, int, float, complex, str, bytes, types.NoneType, np.float64, np.float32):
            add(type(value).__name__, repr(value))
        elif type(value) is tuple:
            add("tuple", str(len(value)))
            for each in value:
                add_value(each)
        else:
            raise _Unknown

    def add_code(code):
        add("code", code.co_code.hex())
        add("names", " ".join((*code.co_names, *code.co_varnames, *code.co_freevars)))
        for constant in code.co_consts:
            add_code(constant) if isinstance(constant, types.CodeType) else add_value(constant)

    def add_function(function):
        add_code(function.__code__)
        add_value(function.__defaults__ or ())
        add_value(tuple((function.__kwdefaults__ or {}).items()))
        for cell in function.__closure__ or ():
            add_value(cell.cell_contents)
        for name in sorted(_names(function.__code__)):
            if name in function.__globals__:
                add("global", name)
                add_value(function.__globals__[name])

    try:
        add_value(function)
    except (_Unknown, ValueError):  # ValueError: an empty cell
        return None
    return hasher.hexdigest()


class _Unknown(Exception):
    pass


def _names(code):
    """Global names and attributes in a code object and the ones inside it."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return set(code.co_names).union(*(_names(each) for each in inner))


@cache
def _surroundings() -> str:
    """Digest of what all drivers have in common: the sources they are built from, the versions, the processor."""
    hasher = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for source in (*sorted((package / "engines").glob("*.py")), package / "vocabulary.py", package / "interactions.py"):
        hasher.update(source.read_bytes())
    versions = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
    codegen = numba.core.registry.cpu_target.target_context.codegen()  # type: ignore[attr-defined]
    # Variables that shape machine code, and those that do not but start the same.
    others = ("NUMBA_CACHE_DIR", "NUMBA_NUM_THREADS")
    chosen = sorted(
        (name, value) for name, value in os.environ.items() if name.startswith("NUMBA_") and name not in others
    )
    hasher.update(repr((versions, platform.platform(), codegen.magic_tuple(), chosen, VECTOR_BYTES)).encode())
    return hasher.hexdigest()


def attach(driver, *identity: str | None) -> None:
    """Let a Numba function find and leave its machine code on disk; `identity` tells it from the others.

    Without effect where the identity has a None, or the folder cannot be written to or belongs to someone else.
    """
    if _NUMBERED and None not in identity:
        driver._cache = _DriverCache(identity)


class _DriverCache:
    """What Numba asks of a cache: one file per driver and signature."""

    cache_path = property(lambda self: str(folder()))

    def __init__(self, identity):
        self._identity = identity

    def _path(self, signature) -> Path:
        key = repr((self._identity, str(signature), _surroundings()))
        return folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:40]}.driver"

    def load_overload(self, signature, target_context):
        target_context.refresh()
        path = self._path(signature)
        try:
            if not _is_ours(path.parent):
                return None
            if not _is_ours(path):
                return None
            content = path.read_bytes()
            if hashlib.sha256(content[32:]).digest() != content[:32]:
                _log.info("compiled driver %s is damaged; compiling again", path)
                return None
            return CompileResult._rebuild(target_context, *pickle.loads(content[32:]))
        except OSError:
            return None
        except Exception as problem:
            # The same formula, written in a module that this process does not have: Numba looks for its globals.
            _log.info("compiled driver %s cannot be used here (%s); compiling again", path, problem)
            return None

    def save_overload(self, signature, result):
        if result.library.has_dynamic_globals or any(not each.can_cache for each in result.lifted):
            return
        if _has_others(result.library):
            _log.info("compiled driver not kept: it refers to functions compiled before `import meanfield`")
            return
        try:
            path = self._path(signature)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(path.parent):
                return
            body = dumps(result._reduce())
            write_atomically(path, lambda to: to.write_bytes(hashlib.sha256(body).digest() + body))
            path.chmod(0o600)
            files = sorted(path.parent.glob("*.driver"), key=lambda each: each.stat().st_mtime)
            for old in files[:-_MOST_FILES]:
                old.unlink(missing_ok=True)
        except OSError as problem:
            _log.info("compiled driver not kept: %s", problem)

    def enable(self): ...

    def disable(self): ...

    def flush(self): ...


def _is_ours(path: Path) -> bool:
    """Whether only its owner, who is this user, may write to a folder or file that is there."""
    if os.name != "posix":
        return path.exists()
    found = path.stat()
    return found.st_uid == os.getuid() and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
