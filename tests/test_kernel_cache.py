"""Machine code on disk: found by another process, never stale, never anyone else's, and never needed."""

import collections
import enum
import hashlib
import json
import math
import os
import re
import runpy
import shutil
import subprocess
import sys
import types
from functools import cache, partial
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import event
from numba.extending import overload

import meanfield as mf
from meanfield import vocabulary
from meanfield.activations import ACTIVATIONS, softplus
from meanfield.engines import cpu, cpu_cache
from meanfield.overlaps import OVERLAPS
from meanfield.vocabulary import tanh

PACKAGE = Path(mf.__file__).resolve().parent
POSIX = pytest.mark.skipif(os.name != "posix", reason="owners and permissions are those of POSIX")
X86 = pytest.mark.skipif(
    "avx2" not in numba.core.registry.cpu_target.target_context.codegen().magic_tuple()[2],
    reason="the host's features do not hold those of a haswell",
)

# A user's script. Its one formula takes a number from each place that a formula can take one from.
SCRIPT = """
import numpy as np
from numba import njit
from numba.core import event

import meanfield as mf
from meanfield.engines import cpu

FACTOR = 2.0

@njit
def helper(z):
    return z + 3.0

def make(shift):
    def formula(z):
        return FACTOR * helper(z) + shift + 5.0, FACTOR + 0.0 * z

    return formula

def value(n_particles):
    \"\"\"phi(1/2), from so many equal particles.\"\"\"
    cloud = np.tile([[1.0], [0.5]], n_particles)
    masses, inputs = np.full(n_particles, 1 / n_particles), cpu.pack_inputs(np.ones((1, 1)), "float64")
    return cpu.predict(mf.Activation("own", make(7.0)), cloud, masses, inputs)[0]

with event.install_recorder("numba:compile") as recorder:
    VALUES = [value(n_particles) for n_particles in SIZES]
COMPILED = len(recorder.buffer)
"""
SCRIPT_VALUE = 2.0 * (0.5 + 3.0) + 7.0 + 5.0
EDITS = {  # what is edited, and the value after this edit and the ones before
    "a literal": ("+ 5.0", "+ 6.0", 20.0),
    "a function that is called": ("z + 3.0", "z + 4.0", 22.0),
    "a value closed over": ("make(7.0)", "make(8.0)", 23.0),
    "a global": ("FACTOR = 2.0", "FACTOR = 4.0", 32.0),
}
BOTH_LOOPS = (1, 2**19)  # particles: for the loop on one thread and for the parallel one


def write_script(place, source=SCRIPT, sizes=BOTH_LOOPS):
    report = "\nimport json\nprint(json.dumps([VALUES, COMPILED]))\n"
    place.write_text(f"SIZES = {sizes}\n" + source + report)


def start(script, folder, **environment):
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "NUMBA_CACHE_DIR": str(folder), **environment}
    return subprocess.Popen([sys.executable, script], env=environment, stdout=subprocess.PIPE, text=True)


def result(process):
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    return json.loads(printed)


def content(folder):
    """Names, times and contents of all files in a folder and below it."""
    every = sorted(each for each in Path(folder).rglob("*") if each.is_file())
    return {each.name: (each.stat().st_mtime_ns, each.read_bytes()) for each in every}


def assert_clean(folder):
    """Nothing but whole files of machine code is left."""
    for name, (_, body) in content(folder).items():
        assert name.endswith(".driver") and not name.startswith(".")
        assert hashlib.sha256(body[32:]).digest() == body[:32]


# Processes


def test_a_second_process_compiles_nothing(tmp_path):
    """It finds all its machine code on disk, and leaves the disk as it is."""
    script, folder = tmp_path / "script.py", tmp_path / "cache"
    write_script(script)
    values, compiled = result(start(script, folder))
    assert values == [SCRIPT_VALUE] * 2
    assert compiled > 0, "compiling has to be seen for its absence to mean anything"
    before = content(folder)
    assert len(before) == 3  # the driver and the two loops

    assert result(start(script, folder)) == [[SCRIPT_VALUE] * 2, 0]
    assert content(folder) == before


OF_SOME = """
import sys
import numpy as np
import meanfield as mf
{before}
from meanfield.engines import cpu

def moved(name):
    cloud, inputs = cpu.pack(np.ones((300, 9)), "float64"), cpu.pack_inputs(np.ones((40, 8)), "float64")
    return float(cpu.vjp(mf.activations.ACTIVATIONS[name], cloud, inputs, np.full(40, 0.025), (1.0, 1.0)).sum())

VALUES, COMPILED = [moved(name) for name in {names}], 0
"""
# What Numba does by itself, taken up where the package has changed it.
NUMBERED_FROM_ONE = """
import itertools
from numba.core.bytecode import FunctionIdentity
from meanfield.engines import cpu_cache
FunctionIdentity._unique_ids = itertools.count(10**6)
cpu_cache._first = 0
"""


def names_in_common(tmp_path, before=""):
    """Functions of the package by names that are in the machine code of two processes, one for each activation."""
    script, cache, found = tmp_path / "script.py", tmp_path / "cache", []
    for activation in ("tanh", "relu"):
        write_script(script, OF_SOME.format(before=before, names=[activation]))
        seen = set(content(cache))
        result(start(script, cache))
        new = [body for name, (_, body) in content(cache).items() if name not in seen]
        found.append({name for body in new for name in re.findall(rb"_ZN9meanfield[A-Za-z0-9_$.]+", body)})
    assert all(found), "the check sees no names"
    return found[0] & found[1]


def test_machine_code_of_two_processes_has_no_name_in_common(tmp_path):
    """Or a third one, which loads both, would call functions of the one from the other. It computes what they did."""
    assert not names_in_common(tmp_path)
    script = tmp_path / "script.py"
    write_script(script, OF_SOME.format(before="", names=["relu", "tanh"] * 3))
    values, _ = result(start(script, tmp_path / "cache"))
    of_tanh = 300 * (np.tanh(8.0) + 8 * (1.0 - np.tanh(8.0) ** 2))
    np.testing.assert_allclose(values, [300 * (8.0 + 8.0), of_tanh] * 3, rtol=1e-12)


def test_functions_numbered_from_one_are_caught(tmp_path):
    assert names_in_common(tmp_path, NUMBERED_FROM_ONE)


def test_code_that_refers_to_functions_numbered_before_is_not_kept(tmp_path):
    script = tmp_path / "script.py"
    write_script(script, OF_SOME.format(before=NUMBERED_FROM_ONE.replace("cpu_cache._first = 0", ""), names=["tanh"]))
    result(start(script, tmp_path / "cache"))
    assert not content(tmp_path / "cache")


SAME = """
import sys
import numpy as np
import meanfield as mf
{importing}
problem, start = mf.Problem(np.ones((3, 1)), np.zeros(3)), np.ones((5, 2))
run = mf.simulate(mf.Network({activation}), problem, start, [0.0])
print(run.predictions[0, 0])
"""


def test_a_formula_of_a_module_that_is_not_there(tmp_path):
    """One process has a unit that is the package's `linear`, in a module of its own; the next, without that module,
    finds its machine code, cannot use it, and compiles again."""
    (tmp_path / "mine.py").write_text("def same(z):\n    return z, 1.0 + 0.0 * z\n")
    cases = (
        ("import mine", "mf.Activation('mine', mine.same)", str(tmp_path)),
        ("", "'linear'", str(tmp_path / "elsewhere")),
    )
    digests = {cpu_cache.digest(ACTIVATIONS["linear"].formula)}
    sys.path.insert(0, str(tmp_path))
    try:
        import mine  # pyright: ignore

        digests.add(cpu_cache.digest(mine.same))
    finally:
        sys.path.remove(str(tmp_path))
    assert len(digests) == 1, "else this would mean nothing"
    for importing, activation, path in cases:
        variables = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        variables["PYTHONPATH"] = os.pathsep.join((path, str(PACKAGE.parent)))
        script = SAME.format(importing=importing, activation=activation)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=variables, cwd="/")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["1.0"]


def test_two_processes_at_once(tmp_path):
    """On an empty folder: both are right, and no temporary is left."""
    script, folder = tmp_path / "script.py", tmp_path / "cache"
    write_script(script, sizes=(1,))
    both = [start(script, folder) for _ in range(2)]
    for values, _ in [result(each) for each in both]:
        assert values == [SCRIPT_VALUE]
    assert len(content(folder)) == 2
    assert_clean(folder)


def test_a_temporary_left_behind_is_caught(folder, monkeypatch):
    def leave(path, write):
        write(path.with_name("." + path.name))

    monkeypatch.setattr(cpu_cache, "write_atomically", leave)
    multiply(2.0)
    with pytest.raises(AssertionError):
        assert_clean(folder)


# Formulas


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder, not there yet, where this test's machine code goes."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return cpu_cache.folder()


@pytest.fixture(autouse=True, scope="module")
def shared_loop():
    """Have the loop that every driver shares, so that only drivers are compiled and written from here on."""
    cpu.predict(mf.activations.linear, np.ones((2, 1)), np.ones(1), cpu.pack_inputs(np.ones((1, 1)), "float64"))


def phi_at_half(formula):
    """phi(1/2) as the CPU engine computes it, and how often something was compiled for that."""
    cloud, inputs = np.array([[1.0], [0.5]]), cpu.pack_inputs(np.ones((1, 1)), "float64")
    with event.install_recorder("numba:compile") as recorder:
        got = cpu.predict(mf.Activation("own", formula), cloud, np.ones(1), inputs)[0]
    return got, len(recorder.buffer)


def assert_edits_are_seen(script):
    source, wanted = SCRIPT, SCRIPT_VALUE
    for edited, after, next_value in [*EDITS.values(), ("", "", None)]:
        write_script(script, source, sizes=(1,))
        values = runpy.run_path(str(script))["VALUES"]
        assert values == [wanted]
        source, wanted = source.replace(edited, after), next_value


def test_an_edited_formula_is_seen(folder, tmp_path):
    """Whatever of it is edited; and each version is kept beside the others."""
    assert_edits_are_seen(tmp_path / "script.py")
    assert len(content(folder)) == 1 + len(EDITS)
    write_script(tmp_path / "script.py", sizes=(1,))
    first = runpy.run_path(str(tmp_path / "script.py"))
    assert (first["VALUES"], first["COMPILED"]) == ([SCRIPT_VALUE], 0)


def test_a_digest_of_the_code_alone_is_caught(folder, tmp_path, monkeypatch):
    """Constants, globals and what is closed over are not in the code."""
    monkeypatch.setattr(cpu_cache, "digest", lambda formula: formula.__code__.co_code.hex())
    with pytest.raises(AssertionError):
        assert_edits_are_seen(tmp_path / "script.py")


HEIGHT = 1.0


def of_global(z):
    return HEIGHT * z, HEIGHT


def with_height(height):
    """`of_global`, where the global is another."""
    return types.FunctionType(of_global.__code__, {**globals(), "HEIGHT": height}, "of_global")


def of_closure(height):
    return lambda z: (height * z, height)


def of_default(height):
    def formula(z, height=height):
        return height * z, height

    return formula


def of_nested(sign):
    if sign > 0:

        def formula(z):
            inner = lambda y: y + 1.0  # noqa: E731
            return inner(z), 1.0
    else:

        def formula(z):
            inner = lambda y: y - 1.0  # noqa: E731
            return inner(z), 1.0

    return formula


def of_helper(height, **options):
    @numba.njit(**options)
    def helper(z):
        return height * z * z

    return lambda z: (helper(z), 2.0 * height * z)


DOUBLE, TRIPLE = (numba.njit(lambda z: 2.0 * z), numba.njit(lambda z: 3.0 * z))


def of_three(first, second, third):
    return lambda z: (first(z) + 10.0 * second(z) + 100.0 * third(z), 1.0)


def of_mathematics(module):
    return lambda z: (module.sin(z), module.cos(z))


def of_vocabulary(function):
    return lambda z: (function(z), 1.0)


def of_enumeration(height):
    Numbers = enum.Enum("Numbers", {"FACTOR": height})
    return lambda z: (Numbers.FACTOR.value * z, 1.0)


def of_named_tuple(fields):
    constants = collections.namedtuple("Constants", fields)(2.0, 3.0)
    return lambda z: (constants.height * z, 1.0)


def of_named_tuple_class(fields):
    Pair = collections.namedtuple("Pair", fields)
    return lambda z: (Pair(z, 2.0 * z).height, 1.0)


def of_overload(height):
    def stub(z):
        return z

    @overload(stub)
    def body(z):
        return lambda z: height * z

    return lambda z: (stub(z), 1.0)


DIFFERENT = {
    "a literal": (lambda z: (2.0 * z, 1.0), lambda z: (3.0 * z, 1.0)),
    "the type of a literal": (lambda z: (2 * z, 1.0), lambda z: (2.0 * z, 1.0)),
    "the sign of a zero": (of_closure(0.0), of_closure(-0.0)),
    "an operator": (lambda z: (z + 2.0, 1.0), lambda z: (z - 2.0, 1.0)),
    "a global": (with_height(1.0), with_height(2.0)),
    "a value closed over": (softplus(1.0).formula, softplus(2.0).formula),
    "its last bit": (of_closure(1.0), of_closure(math.nextafter(1.0, 2.0))),
    "a tuple closed over": (of_closure((1.0, 2.0)), of_closure((2.0, 1.0))),
    "a default": (of_default(1.0), of_default(2.0)),
    "a nested function": (of_nested(1), of_nested(-1)),
    "what a compiled helper closes over": (of_helper(1.0), of_helper(2.0)),
    "the order of helpers": (of_three(DOUBLE, TRIPLE, TRIPLE), of_three(TRIPLE, DOUBLE, DOUBLE)),
    "a module": (of_mathematics(math), of_mathematics(np)),
    "a word of the vocabulary": (of_vocabulary(vocabulary.exp), of_vocabulary(vocabulary.tanh)),
    "a function of NumPy": (of_vocabulary(np.exp), of_vocabulary(np.tanh)),
}
FORMULAS = pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)


def assert_told_apart(digest, one, other):
    assert isinstance(digest(one), str) and isinstance(digest(other), str)
    assert digest(one) != digest(other)


@FORMULAS
def test_formulas_that_differ_have_digests_that_differ(one, other):
    assert_told_apart(cpu_cache.digest, one, other)


def test_a_digest_of_less_is_caught():
    """Of the code, of the name, of the object: each fails for one pair at least."""
    for less in (lambda each: each.__code__.co_code.hex(), lambda each: each.__qualname__):
        with pytest.raises(AssertionError):
            for one, other in DIFFERENT.values():
                assert_told_apart(less, one, other)
    with pytest.raises(AssertionError):
        assert_the_same(lambda each: str(id(each)), softplus(1.0).formula, softplus(1.0).formula)


# Pairs that compute different things and must not share a digest; None would do, which means: do not keep.
CONFUSED = {
    "which of two helpers comes again": (
        of_three(DOUBLE, TRIPLE, DOUBLE),
        of_three(DOUBLE, TRIPLE, TRIPLE),
    ),
    "the members of an enumeration": (
        of_enumeration(1.0),
        of_enumeration(2.0),
    ),
    "the fields of a named tuple": (
        of_named_tuple("height width"),
        of_named_tuple("width height"),
    ),
    "the fields of a named tuple's class": (
        of_named_tuple_class("height width"),
        of_named_tuple_class("width height"),
    ),
    "the options of a compiled helper": (
        of_helper(1.0),
        of_helper(1.0, fastmath=True),
    ),
    "the body of a user's overload": (
        of_overload(1.0),
        of_overload(2.0),
    ),
}


@pytest.mark.parametrize(
    ("one", "other"),
    [pytest.param(one, other, id=name) for name, (one, other) in CONFUSED.items()],
)
def test_formulas_that_differ_never_share_machine_code(one, other):
    assert cpu_cache.digest(one) is None or cpu_cache.digest(one) != cpu_cache.digest(other)


def test_the_value_of_helpers_that_come_again(folder):
    """The law behind the digests: the second formula is not given the first one's machine code."""
    one, other = CONFUSED["which of two helpers comes again"]
    assert phi_at_half(one)[0] == 1.0 + 10.0 * 1.5 + 100.0 * 1.0
    assert phi_at_half(other)[0] == 1.0 + 10.0 * 1.5 + 100.0 * 1.5


def assert_the_same(digest, one, other):
    assert one is not other and isinstance(digest(one), str) and digest(one) == digest(other)


def test_a_formula_built_again_has_the_same_digest():
    for make, *arguments in (
        (lambda beta: softplus(beta).formula, 2.0),
        (with_height, 2.0),
        (of_closure, (1.0, None, "x", True)),
        (of_default, 2.0),
        (of_nested, 1),
        (of_helper, 2.0),
        (of_three, DOUBLE, TRIPLE, DOUBLE),
    ):
        assert_the_same(cpu_cache.digest, make(*arguments), make(*arguments))


def test_a_formula_that_calls_itself_has_a_digest():
    def formula(z):
        return formula(z)

    assert isinstance(cpu_cache.digest(formula), str)


class Constants:
    height = 2.0


def foreign_module():
    module = types.ModuleType("a_user_s_module")
    module.helper = DOUBLE
    return module


USER = foreign_module()
TABLE = np.array([2.0])
UNKNOWN = {
    "a module of the user's": lambda z: (USER.helper(z), 2.0),
    "the package as a whole": lambda z: (2.0 * mf.vocabulary.maximum(z, 0.0), 2.0),
    "an array": lambda z: (TABLE[0] * z, 2.0),
}


@pytest.mark.parametrize("formula", UNKNOWN.values(), ids=UNKNOWN)
def test_what_cannot_be_told_is_compiled_and_not_kept(folder, formula):
    """A formula that refers to an object of unknown content has no digest, runs, and leaves no file."""
    assert cpu_cache.digest(formula) is None
    got, compiled = phi_at_half(formula)
    assert got == 1.0 and compiled > 0
    assert content(folder) == {}


def test_a_formula_that_can_be_told_is_kept(folder):
    """Beside the test above: what that would look like if these were kept."""
    got, compiled = phi_at_half(of_closure(2.0))
    assert got == 1.0 and compiled > 0
    assert len(content(folder)) == 1
    assert phi_at_half(of_closure(2.0)) == (1.0, 0)


@pytest.mark.parametrize("unknown", [Constants(), [1.0], {"height": 1.0}, {1.0}, partial(max, 0.0)], ids=str)
def test_unknown_objects_have_no_digest(unknown):
    assert cpu_cache.digest(of_closure(unknown)) is None
    assert cpu_cache.digest(of_closure((1.0, unknown))) is None
    assert cpu_cache.digest(of_default(unknown)) is None
    assert cpu_cache.digest(with_height(unknown)) is None


def test_a_cell_without_content_has_no_digest():
    def make():
        formula = lambda z: (later * z, 1.0)  # noqa: E731
        found = cpu_cache.digest(formula)
        later = 1.0
        return found, cpu_cache.digest(formula), later

    before, after, _ = make()
    assert before is None and isinstance(after, str)


# Folders. A small function in place of a driver: what is asked of the cache is the same.


def multiply(factor, identity=None):
    """3 times the factor, by a function that is kept on disk, and whether it was found there."""

    @numba.njit
    def product(x):
        return factor * x

    cpu_cache.attach(product, "product", str(factor if identity is None else identity))
    product.compile((numba.types.float64,))
    return product(3.0), product.stats.cache_hits.total() > 0


def test_what_was_left_is_found(folder):
    assert multiply(2.0) == (6.0, False)
    assert folder.stat().st_mode & 0o777 == 0o700 or os.name != "posix"
    before = content(folder)
    assert multiply(2.0) == (6.0, True)
    assert multiply(4.0) == (12.0, False)
    assert len(content(folder)) == 2 and content(folder).items() >= before.items()


def test_none_in_the_identity_means_not_kept(folder):
    @numba.njit
    def product(x):
        return 2.0 * x

    cpu_cache.attach(product, "product", None)
    assert product(3.0) == 6.0 and content(folder) == {}


@pytest.mark.parametrize("place", ["", "meanfield"])
def test_a_path_that_is_a_file(tmp_path, monkeypatch, place):
    """Instead of the folder, or of the one above it: everything is compiled in memory, the file as it was."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "cache" / place
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    before = content(tmp_path)
    for _ in range(2):
        assert multiply(2.0) == (6.0, False)
    assert content(tmp_path) == before


def test_the_engine_runs_without_a_folder(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("mine")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    got, compiled = phi_at_half(of_closure(6.0))
    assert got == 3.0 and compiled > 0


@POSIX
def test_a_folder_that_cannot_be_written_to(folder):
    """What lies there is used; what does not is compiled and not kept."""
    assert multiply(2.0) == (6.0, False)
    before = content(folder)
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            pytest.skip("this user (root?) may write to a read-only folder")
        assert multiply(2.0) == (6.0, True)
        assert multiply(4.0) == (12.0, False)
    finally:
        folder.chmod(0o700)
    assert content(folder) == before


def plant(folder):
    """Machine code that multiplies by 5, where the one that multiplies by 2 is looked for."""
    assert multiply(5.0, identity=2.0) == (15.0, False)
    return content(folder)


def test_planted_machine_code_would_be_run(folder):
    """Beside the tests below: in the user's own folder it is, so that its absence there means something."""
    plant(folder)
    assert multiply(2.0) == (15.0, True)


@POSIX
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o770, 0o702, 0o720], ids=oct)
def test_a_folder_others_may_write_to_is_left_alone(folder, mode):
    """Nothing is read from it: what lies there may be theirs. Nothing is written either."""
    before = plant(folder)
    folder.chmod(mode)
    assert multiply(2.0) == (6.0, False)
    assert multiply(4.0) == (12.0, False)
    assert content(folder) == before


@POSIX
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o750], ids=oct)
def test_a_folder_others_may_read_is_used(folder, mode):
    multiply(2.0)
    folder.chmod(mode)
    assert multiply(2.0) == (6.0, True)
    assert multiply(4.0) == (12.0, False) and len(content(folder)) == 2


@POSIX
def test_a_folder_of_someone_else_s_is_left_alone(folder, monkeypatch):
    before = plant(folder)
    stranger = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: stranger)
    assert multiply(2.0) == (6.0, False)
    assert content(folder) == before


@POSIX
@pytest.mark.parametrize("mode", [0o666, 0o620], ids=oct)
def test_a_file_others_may_write_to_is_not_read(folder, mode):
    """In a folder that others may enter; a umask of 0 or 002 makes such files."""
    plant(folder)
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(mode)
    assert multiply(2.0) == (6.0, False)


def flipped(place):
    def flip(body):
        body = bytearray(body)
        body[int(place * (len(body) - 1))] ^= 0x10
        return bytes(body)

    return flip


DAMAGE = {
    "half of it": lambda body: body[: len(body) // 2],
    "all but the last byte": lambda body: body[:-1],
    "a few bytes": lambda body: body[:7],
    "nothing": lambda body: b"",
    "a byte too many": lambda body: body + b"\0",
    "its first byte flipped": flipped(0.0),
    "a byte in the middle flipped": flipped(0.5),
    "its last byte flipped": flipped(1.0),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_replaced(folder, damage):
    """What is left of it is not run, but compiled again, and found the next time."""
    assert multiply(2.0) == (6.0, False)
    (file,) = folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(AssertionError):
        assert_clean(folder)
    assert multiply(2.0) == (6.0, False)
    assert_clean(folder)
    assert list(folder.iterdir()) == [file]
    assert multiply(2.0) == (6.0, True)


def test_the_oldest_files_go_first(folder, monkeypatch):
    """Beyond the most that are kept; other files stay."""
    monkeypatch.setattr(cpu_cache, "_MOST_FILES", 3)
    folder.mkdir(mode=0o700, parents=True)
    for age, name in enumerate(("newest.driver", "older.driver", "oldest.driver", "note.txt")):
        (folder / name).write_text(name)
        os.utime(folder / name, (1e9 - age, 1e9 - age))
    multiply(2.0)
    names = set(content(folder))
    assert {"newest.driver", "older.driver", "note.txt"} < names and "oldest.driver" not in names and len(names) == 4
    assert multiply(2.0) == (6.0, True)


# The key


def test_other_surroundings_are_another_file(folder, monkeypatch):
    """What was compiled before the engine, a version or the processor changed is not found after."""
    assert multiply(2.0) == (6.0, False)
    monkeypatch.setattr(cpu_cache, "_surroundings", lambda: "other")
    assert multiply(2.0) == (6.0, False)
    assert len(content(folder)) == 2
    monkeypatch.undo()


def test_surroundings_left_out_of_the_key_are_caught(folder, monkeypatch):
    monkeypatch.setattr(cpu_cache, "_surroundings", lambda: "the same")
    plant(folder)
    monkeypatch.setattr(cpu_cache, "_surroundings", lambda: "the same")
    assert multiply(2.0) == (15.0, True)


def test_the_surroundings_are_the_engine_s_sources(tmp_path, monkeypatch):
    """A copy of the package has the same digest; one more line in any source of the engine, another."""
    shutil.copytree(PACKAGE, tmp_path / "meanfield", ignore=shutil.ignore_patterns("__pycache__", "_data"))
    monkeypatch.setattr(cpu_cache, "__file__", str(tmp_path / "meanfield" / "engines" / "cpu_cache.py"))
    digest = cpu_cache._surroundings.__wrapped__
    assert digest() == cpu_cache._surroundings()
    sources = [*(tmp_path / "meanfield" / "engines").glob("cpu*.py")]
    sources += [
        tmp_path / "meanfield" / name
        for name in ("engines/coefficients.py", "engines/elementary.py", "vocabulary.py", "interactions.py")
    ]
    assert len(sources) > 8
    for source in sources:
        before = source.read_bytes()
        source.write_bytes(before + b"\n# edited\n")
        assert digest() != cpu_cache._surroundings(), source.name
        source.write_bytes(before)
    (tmp_path / "meanfield" / "plots.py").write_bytes(b"")  # which no machine code follows from
    assert digest() == cpu_cache._surroundings()


PLACE = """
import json
from meanfield.engines import cpu_cache
print(json.dumps(cpu_cache._DriverCache(("predict",))._path("a signature").name))
"""


@cache
def file_name(**environment):
    """Name of the file of a driver in a process with these environment variables."""
    process = subprocess.run(
        [sys.executable, "-c", PLACE],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent), **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(process.stdout)


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"}, marks=X86, id="processor"),
        pytest.param({"MEANFIELD_VECTOR_BYTES": "16"}, id="width of vectors"),
        pytest.param({"NUMBA_OPT": "1"}, id="optimisation"),
    ],
)
def test_variables_that_shape_the_machine_code_are_in_its_key(environment):
    """Else a process with other variables is given code that was compiled under these."""
    assert file_name() == cpu_cache._DriverCache(("predict",))._path("a signature").name
    assert file_name(**environment) != file_name()


# Where it is


def test_the_folder(monkeypatch, tmp_path):
    """Below `NUMBA_CACHE_DIR`, else in the user's cache folder; and `doctor` says which."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    assert cpu_cache.folder() == tmp_path / "meanfield"
    assert cpu.doctor()["machine code"] == str(tmp_path / "meanfield")
    for unset in ("", None):
        monkeypatch.setenv("NUMBA_CACHE_DIR", "") if unset == "" else monkeypatch.delenv("NUMBA_CACHE_DIR")
        assert cpu_cache.folder().name == "meanfield" and tmp_path not in cpu_cache.folder().parents


def test_doctor_says_where_machine_code_cannot_be_kept(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "open" / "meanfield").mkdir()
    (tmp_path / "open" / "meanfield").chmod(0o777)
    for place in (tmp_path / "file" / "x", tmp_path / "open"):
        monkeypatch.setenv("NUMBA_CACHE_DIR", str(place))
        assert "not used: it cannot be written to" in cpu.doctor()["machine code"], place
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "new" / "folder"))
    assert cpu_cache.usable()


def test_formulas_of_the_package_are_all_kept():
    """Every built-in activation and overlap has a digest of its own."""
    digests = [cpu_cache.digest(each.formula) for each in (*ACTIVATIONS.values(), *OVERLAPS.values())]
    assert None not in digests and len(set(digests)) == len(digests)
    assert cpu_cache.digest(lambda z: (tanh(z), 1.0)) is not None
