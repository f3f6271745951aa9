"""Files that are damaged, or made to harm: one clear error or what was written, in little memory, and never a crash.

Mutations: MEANFIELD_MUTATIONS of them, by default 1,000; all are read in another process, to crash or hang there.
"""

import hashlib
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from run_files import STATE, write

import meanfield as mf
from meanfield.errors import FormatError
from meanfield.trajectories import inspection, reader, safety
from meanfield.trajectories.checkpoint import read_checkpoint

MUTATIONS = int(os.environ.get("MEANFIELD_MUTATIONS", "1000"))
SECONDS = 10  # that one file may take
SMALL = {"records": ("risk",), "m": 0, "n_particles": 4}


# Every dataset, every attribute


def places(path):
    """(path, attribute or None) of everything in a file but HDF5's own."""
    found = []
    with h5py.File(path, "r") as file:
        for name, entry in safety.walk(file, path)[0].items():
            own = [each for each in entry.attrs if each not in safety.SCALES]
            found += [(name, each) for each in own] + [(name, None)] * (
                isinstance(entry, h5py.Dataset) and entry.size > 0
            )
    return found


def flip(value):
    """The value with one bit of its last byte that counts changed."""
    value = np.array(value)
    raw = bytearray(value.tobytes())
    raw[max(0, len(bytes(raw).rstrip(b"\0")) - 1)] ^= 1
    return np.frombuffer(bytes(raw), value.dtype).reshape(value.shape)


def test_a_flipped_bit_is_found_wherever_it_is(tmp_path):
    """One bit in each dataset and in each attribute, as HDF5 would store it: FormatError for each, when all is read;
    and flipped back the file is whole."""
    path = tmp_path / "run.h5"
    write(path, residuals=True)
    everything = places(path)
    assert len(everything) > 40 and ("/particles/neurons/velocity/value", None) in everything
    for name, attribute in everything:
        before = change(path, name, attribute)
        with pytest.raises(FormatError), mf.open(path) as run:
            run.check()
        change(path, name, attribute, before)
    with mf.open(path) as run:
        assert run.check() == {"frames": 9, "records": 9}


def change(path, name, attribute, to=None):
    """Flip a bit of a dataset or an attribute, or write what was there before; what was there."""
    with h5py.File(path, "r+") as file:
        if attribute is not None:
            before = np.asarray(file[name].attrs[attribute])
            file[name].attrs.modify(attribute, flip(before) if to is None else to)
        else:
            before = file[name][()]
            file[name][()] = flip(before) if to is None else to
    return before


# Mutations


def mutate(content, rng):
    """A bit flipped, a part cut off, or a part overwritten; every other one where the file is not empty."""
    content, kind = bytearray(content), rng.integers(4)
    used = np.flatnonzero(np.frombuffer(bytes(content), np.uint8))
    where = int(rng.choice(used)) if rng.integers(2) else int(rng.integers(len(content)))
    if kind == 0:
        return content[:where]
    if kind == 1:
        size = int(rng.integers(1, 65))
        content[where : where + size] = rng.bytes(len(content[where : where + size]))
    else:
        for at in (where, *rng.choice(used, int(rng.integers(0, 3)))):
            content[at] ^= 1 << int(rng.integers(8))
    return content


def everything(path):
    """All that the strict reader gives of a file."""
    with reader.open(path) as run:
        run.check()
        arrays = {name: np.asarray(getattr(run, name)) for name in
                  ("times", "step_numbers", "particles", "velocities", "predictions", "test_predictions", "residuals",
                   "record_times", "kept", "masses", "start", "start_masses")}  # fmt: skip
        arrays |= run.records
        arrays |= {f"problem.{name}": getattr(run.problem, name) for name in ("inputs", "targets", "weights")}
        said = [
            run.settings,
            run.contents.state,
            run.provenance,
            run.config,
            run.torn,
            list(run.records),
            repr(run.network),
        ]
        return arrays, json.dumps(said)


def naive(path):
    """What most scripts do: visit, and read."""
    arrays = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda name, entry: arrays.update({name: entry[()]} if isinstance(entry, h5py.Dataset) else {}))
    return arrays, ""


def same(one, other):
    return one[1] == other[1] and set(one[0]) == set(other[0]) and all(
        a.dtype == other[0][name].dtype and np.array_equal(a, other[0][name]) for name, a in one[0].items()
    )  # fmt: skip


def verdict(found, expected):
    """ "right", "torn": fewer rows at the end, and the file says so, or "wrong"."""
    if same(found, expected):
        return "right"
    short = {name: value[: len(found[0].get(name, ()))] for name, value in expected[0].items()}
    dropped = bool(found[1]) and json.loads(found[1])[4]
    return "torn" if dropped and same((found[0], ""), (short, "")) else "wrong"


def read_mutations(original, begin, end, how):
    """Runs in another process: a line for each mutation, so that the last line says where it ended."""
    inspection.limit_process(3600.0, 2 * 2**30)
    original, read = Path(original), {"strict": everything, "naive": naive}[how]
    content, expected, changed = original.read_bytes(), read(original), original.with_name(f"changed-{how}.h5")
    for number in range(int(begin), int(end)):
        changed.write_bytes(mutate(content, np.random.default_rng([2, number])))
        signal.alarm(SECONDS)  # ends the process
        try:
            said = verdict(read(changed), expected)
        except FormatError:
            said = "error"
        except Exception as problem:
            said = "error" if how == "naive" else f"other {problem!r}"
        print(number, said, flush=True)
    os._exit(0)


def tally(original, count, how):
    """What came of mutations 0 to count - 1; a process that one of them ends is begun again behind it."""
    found, number = {}, 0
    while number < count:
        command = [sys.executable, __file__, "mutations", str(original), str(number), str(count), how]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600)
        for line in done.stdout.splitlines():
            at, _, said = line.partition(" ")
            number = int(at) + 1
            found[said] = found.get(said, 0) + 1
        if done.returncode:
            assert done.returncode < 0, done.stderr
            said = "hang" if done.returncode == -signal.SIGALRM else "crash"
            found[said], number = found.get(said, 0) + 1, number + 1
    return found


def test_mutations_are_an_error_or_a_right_read(tmp_path):
    """Of all mutations: no crash, no hang over 10 s, no silent difference, no other error; and all kinds were met."""
    write(tmp_path / "run.h5", **SMALL)
    found = tally(tmp_path / "run.h5", MUTATIONS, "strict")
    print(f"\n{MUTATIONS} mutations, strict reader: {found}")
    assert set(found) == {"error", "right"}, found
    assert sum(found.values()) == MUTATIONS and min(found.values()) > MUTATIONS / 20


@pytest.mark.parametrize("kind", ["running", "live"])
def test_mutations_of_a_killed_run_and_of_a_live_one(tmp_path, kind):
    """A fifth as many of a run that was cut off, whose damaged end may go if `torn` says so, and of a file with
    the newer layout of HDF5."""
    options = {"live": True} if kind == "live" else {"state": {**STATE, "status": "running"}}
    write(tmp_path / "run.h5", **SMALL, **options)
    found = tally(tmp_path / "run.h5", MUTATIONS // 5, "strict")
    print(f"\n{MUTATIONS // 5} mutations, {kind}: {found}")
    assert set(found) <= {"error", "right", "torn"} and found["error"] and found["right"]
    assert kind == "running" or "torn" not in found


def test_a_naive_reader_does_not_pass_that(tmp_path):
    """Of the same mutations it takes some for the file: the test above can fail."""
    write(tmp_path / "run.h5", **SMALL)
    found = tally(tmp_path / "run.h5", 100, "naive")
    print(f"\n100 mutations, naive reader: {found}")
    assert found["wrong"] > 5


# Files made to harm


def replaced(path, name, make):
    """The file of a run, with something else at `name`."""
    write(path, **SMALL)
    with h5py.File(path, "r+") as file:
        shape = file[name].shape if name in file and isinstance(file[name], h5py.Dataset) else ()
        if name in file:
            del file[name]
        make(file, name, shape)


def elsewhere(file, name, shape):
    """Data in another file: here a text that is no one's business."""
    secret = Path(file.filename).with_name("secret.txt")
    secret.write_bytes(b"a secret" * 100)
    file.create_dataset(name, shape, "<f8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(file, name, shape):
    other = Path(file.filename).with_name("other.h5")
    with h5py.File(other, "w") as source:
        source["x"] = np.ones(shape)
    layout = h5py.VirtualLayout(shape, "<f8")
    layout[...] = h5py.VirtualSource(str(other), "x", shape)
    file.create_virtual_dataset(name, layout)


def link(to):
    return lambda file, name, shape: file.__setitem__(name, h5py.SoftLink(to))


def link_to_itself(file, name, shape):
    file[name] = h5py.ExternalLink(file.filename, name)


def cycle(file, name, shape):
    file[name] = file["/meanfield"]


def bomb(file, name, shape):
    """8 GiB of zeros behind gzip, in chunks of 16 MiB, which take 16 KiB each."""
    data = file.create_dataset(name, (2**30,), "<f8", chunks=(2**21,), compression="gzip", maxshape=(None,))
    packed = zlib.compress(bytes(2**24), 9)
    for chunk in range(0, 2**30, 2**21):
        data.id.write_direct_chunk((chunk,), packed)


def unknown_filter(file, name, shape):
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_chunk((1024,))
    layout.set_filter(32123, h5py.h5z.FLAG_OPTIONAL, (1, 2))
    space = h5py.h5s.create_simple((4,), (h5py.h5s.UNLIMITED,))
    h5py.h5d.create(file.id, name.encode(), h5py.h5t.IEEE_F64LE, space, layout)


def rows(dtype):
    return lambda file, name, shape: file.create_dataset(name, shape, dtype, maxshape=(None, *shape[1:]), chunks=True)


def attribute(where, key, value):
    return lambda file, name, shape: file[where].attrs.__setitem__(key, value)


def plain(value):
    return lambda file, name, shape: file.create_dataset(name, data=value)


def huge(file, name, shape):
    file.create_dataset(name, (2**57,), "<f8", chunks=(1024,), maxshape=(None,))


def huge_rows(file, name, shape):
    """Every dataset of a series claims 2^50 rows."""
    for each in ("/record_step", "/record_time", "/observables/risk/value", "/meanfield/integrity/records"):
        file[each].resize(2**50, axis=0)


def deep(file, name, shape):
    for level in range(100):
        file = file.create_group(f"g{level}")


def nested_state(file, name, shape):
    raw = b"[" * 900
    file["/meanfield"].attrs.modify("state", np.array(raw + b" %08x" % zlib.crc32(raw), "S1024"))


PATHS = np.bytes_(b'{"network": {}, "problem": {}, "run": {"record": ["../x"], "keep": "all"}}')
TIME, STARTS, TARGETS = "/record_time", "/meanfield/start", "/meanfield/problem/targets"
HOSTILE = {
    "external link": (TARGETS, lambda file, name, shape: file.__setitem__(name, h5py.ExternalLink("other.h5", "/x"))),
    "external link to itself": (TARGETS, link_to_itself),
    "soft link": (TARGETS, link("/meanfield/problem/weights")),
    "soft link to itself": (TARGETS, link(TARGETS)),
    "cycle of hard links": ("/meanfield/problem/again", cycle),
    "cycle to the root": ("/meanfield/again", lambda file, name, shape: file.__setitem__(name, file["/"])),
    "data in another file": (TARGETS, elsewhere),
    "virtual dataset": (TARGETS, virtual),
    "1 EiB": (TIME, huge),
    "1 EiB of nothing": ("/extra", huge),
    "2^50 rows": ("/none", huge_rows),
    "gzip bomb": (TIME, bomb),
    "gzip bomb beside": ("/extra", bomb),
    "unknown filter": (TIME, unknown_filter),
    "text of variable length": ("/parameters/settings", plain("{}")),
    "config of variable length": ("/parameters/config", plain("a = 1")),
    "attribute of variable length": ("/none", attribute("/h5md/creator", "name", "meanfield")),
    "attribute too many": ("/none", attribute("/h5md", "more", 1)),
    "attribute of a dataset": ("/none", attribute("/datum", "more", 1)),
    "references": (TARGETS, lambda file, name, shape: file.create_dataset(name, shape, h5py.ref_dtype)),
    "compound": (TARGETS, lambda file, name, shape: file.create_dataset(name, shape, [("a", "<f8"), ("b", "<i4")])),
    "ragged": (TARGETS, lambda file, name, shape: file.create_dataset(name, shape, h5py.vlen_dtype("<f8"))),
    "opaque": (TARGETS, lambda file, name, shape: file.create_dataset(name, shape, h5py.opaque_dtype("V16"))),
    "no shape": (TARGETS, plain(h5py.Empty("<f8"))),
    "named type": ("/extra", lambda file, name, shape: file.__setitem__(name, np.dtype("<f8"))),
    "big-endian": (STARTS, lambda file, name, shape: file.create_dataset(name, shape, ">f8")),
    "single": (STARTS, lambda file, name, shape: file.create_dataset(name, shape, "<f4")),
    "integers": (TIME, rows("<i8")),
    "another shape": (STARTS, lambda file, name, shape: file.create_dataset(name, (4, 2), "<f8")),
    "one too many": ("/extra", plain(1.0)),
    "a group too many": ("/meanfield/extra", lambda file, name, shape: file.create_group(name)),
    "many groups": ("/none", lambda file, name, shape: [file.create_group(f"/x/{i}") for i in range(10_001)]),
    "deep groups": ("/none", deep),
    "one missing": ("/meanfield/problem/weights", lambda file, name, shape: None),
    "a group for an array": (TARGETS, lambda file, name, shape: file.create_group(name)),
    "an array for a group": ("/meanfield/problem", plain(1.0)),
    "not the same time": ("/observables/risk/time", rows("<f8")),
    "a pickle": ("/parameters/settings", plain(np.void(pickle.dumps(print)))),
    "a pickle as text": ("/parameters/settings", plain(np.bytes_(pickle.dumps({"a": 1}, 0)))),
    "nested settings": ("/parameters/settings", plain(np.bytes_(b"[" * 100_000))),
    "settings that say NaN": ("/parameters/settings", plain(np.bytes_(b'{"run": NaN}'))),
    "records as paths": ("/parameters/settings", plain(PATHS)),
    "nested state": ("/none", nested_state),
    "another schema": ("/none", lambda file, name, shape: file["/meanfield"].attrs.modify("schema", 2)),
}  # fmt: skip


# Checkpoints made to harm: each with the SHA-256 of what it holds


def forge(path, make):
    """A checkpoint that would do, changed by `make(file, numbers)` before its SHA-256 is taken."""
    numbers = {
        "run": "a", "versions": {"python": "3"}, "resumed": 0, "changes": {}, "seconds": 1.5, "event": 1, "now": 0.5,
        "stopped_by": None, "evaluations": 9, "schedule": {"accepted": 3, "rejected": 0, "_within": [0.0, 1.0, 0.1, 3]},
        "counts": {"frames": 1},
    }  # fmt: skip
    image = io.BytesIO()
    with h5py.File(image, "w", libver=("earliest", "v108")) as file:
        file["plan_times"] = np.arange(2.0)
        file["plan_frames"] = file["plan_records"] = np.ones(2, bool)
        file["state_0"], file["velocity_0"] = np.ones((4, 3)), np.zeros((4, 3))
        raw = make(file, numbers)
        if "numbers" not in file:
            raw = json.dumps(numbers).encode() if raw is None else raw
            file["numbers"] = np.frombuffer(raw, np.uint8)
    raw = image.getvalue()
    path.write_bytes(b"meanfield checkpoint 1 " + hashlib.sha256(raw).hexdigest().encode() + b"\n" + raw)


def instead(name, make):
    """Something else at `name`, as the files above have it."""

    def change(file, numbers):
        shape = file[name].shape if name in file else ()
        if name in file:
            del file[name]
        make(file, name, shape)

    return change


def number(name, value):
    return lambda file, numbers: numbers.__setitem__(name, value)


def packed(file, name, shape):
    """1 GiB of zeros behind gzip."""
    data = file.create_dataset(name, (2**27,), "<f8", chunks=(2**21,), compression="gzip")
    for chunk in range(0, 2**27, 2**21):
        data.id.write_direct_chunk((chunk,), zlib.compress(bytes(2**24), 9))


CHECKPOINTS = {
    "gzip bomb": instead("state_0", packed),
    "1 EiB": instead("state_0", huge),
    "1 GiB that is not there": instead("state_0", lambda file, name, shape: file.create_dataset(name, (2**27,), "<f8")),
    "chunks": instead("state_0", lambda file, name, shape: file.create_dataset(name, shape, "<f8", chunks=True)),
    "data in another file": instead("state_0", lambda file, name, shape: file.create_dataset(
        name, shape, "<f8", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])),
    "external link": instead("state_0", lambda file, name, shape: file.__setitem__(
        name, h5py.ExternalLink("other.h5", "/x"))),
    "soft link": instead("state_0", link("/velocity_0")),
    "cycle": instead("state_0", lambda file, name, shape: file.__setitem__(name, file["/"])),
    "group": instead("state_0", lambda file, name, shape: file.create_group(name)),
    "single": instead("state_0", lambda file, name, shape: file.create_dataset(name, shape, "<f4")),
    "big-endian": instead("state_0", lambda file, name, shape: file.create_dataset(name, shape, ">f8")),
    "ragged": instead("state_0", lambda file, name, shape: file.create_dataset(name, shape, h5py.vlen_dtype("<f8"))),
    "scalar": instead("state_0", plain(1.0)),
    "no state": instead("state_0", lambda file, name, shape: None),
    "state 2 of 2": instead("state_2", plain(np.ones(3))),
    "state 00": instead("state_00", plain(np.ones(3))),
    "one too many": instead("extra", plain(np.ones(3))),
    "a long name": instead("x" * 5000, plain(np.ones(3))),
    "flags that are numbers": instead("plan_frames", plain(np.ones(2))),
    "a longer plan": instead("plan_times", plain(np.arange(3.0))),
    "numbers as text": instead("numbers", plain(np.bytes_(b"{}"))),
    "many numbers": lambda file, numbers: b"[" + b"{}," * 2**23 + b"1]",
    "nested numbers": lambda file, numbers: b"[" * 100_000,
    "no JSON": lambda file, numbers: pickle.dumps(print),
    "a list": lambda file, numbers: b"[]",
    "digits": lambda file, numbers: b"9" * 10_000,
    "NaN": lambda file, numbers: json.dumps(numbers | {"now": float("nan")}).encode(),
    "infinity by digits": lambda file, numbers: json.dumps(numbers).replace("0.5", "1e999").encode(),
    "a number missing": lambda file, numbers: numbers.__delitem__("seconds"),
    "a number too many": number("extra", 1),
    "changes in a list": number("changes", []),
    "event before": number("event", -1),
    "event after": number("event", 3),
    "event that is true": number("event", True),
    "counts by text": number("counts", {"frames": "1"}),
    "a schedule without steps": number("schedule", {}),
    "a schedule of text": number("schedule", {"accepted": 1, "rejected": 0, "_h": "1"}),
}  # fmt: skip


def read_hostile(folder):
    """Runs in another process: what each file comes to, and the most memory it took."""
    before = most_memory()
    said = {}
    for path in sorted(each for each in Path(folder).iterdir() if each.suffix in (".h5", ".ckpt")):
        begin = time.perf_counter()
        signal.alarm(SECONDS)
        try:
            if path.suffix == ".ckpt":
                read_checkpoint(path)
            else:
                with reader.open(path) as run:
                    run.check()
            found = "read"
        except Exception as problem:
            found = f"{type(problem).__name__} {problem}"
        said[path.name] = [found, time.perf_counter() - begin]
    print(json.dumps([said, before, most_memory()]))


def most_memory():
    """MB that this process has held at most. What `resource` says of it counts the process that started it, too."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return next(int(line.split()[1]) / 2**10 for line in lines if line.startswith("VmHWM"))


def hostile_files(folder):
    """`folder`, with one file of each kind in it."""
    for kind, (name, make) in HOSTILE.items():
        replaced(folder / f"{kind}.h5", name, make)
    (folder / "other.h5").unlink(missing_ok=True)
    for kind, make in CHECKPOINTS.items():
        forge(folder / f"{kind}.ckpt", make)
    return folder


def read_elsewhere(folder):
    """What `read_hostile` says of them, in another process."""
    command = [sys.executable, __file__, "hostile", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder of one file of each kind, and what came of them in another process."""
    folder = hostile_files(tmp_path_factory.mktemp("hostile"))
    return folder, *read_elsewhere(folder)


def test_harmful_files_are_refused_in_little_memory(hostile):
    """Each a FormatError of one line that names the file, within a second's order; the process stays below 300 MB."""
    _, said, before, peak = hostile
    print(
        f"\n{len(said)} files, peak {peak:.0f} MB ({before:.0f} before), "
        f"longest {max(seconds for _, seconds in said.values()):.2f} s"
    )
    assert set(said) == {f"{kind}.h5" for kind in HOSTILE} | {f"{kind}.ckpt" for kind in CHECKPOINTS}
    for name, (found, seconds) in said.items():
        assert found.startswith("FormatError ") and name in found and "\n" not in found, (name, found)
        assert len(found) < 600 and seconds < SECONDS, (name, found)
    assert peak < 300.0, peak


def test_a_naive_reader_falls_for_some(hostile):
    """It follows the links, reads the secret, and believes shapes; so the files do what they are said to."""
    folder = hostile[0]
    with h5py.File(folder / "data in another file.h5", "r") as file:
        assert file[TARGETS][()].tobytes().startswith(b"a secret")
    with h5py.File(folder / "soft link.h5", "r") as file:
        assert np.array_equal(file[TARGETS], file["/meanfield/problem/weights"])
    with h5py.File(folder / "cycle to the root.h5", "r") as file:
        assert file["/meanfield/again" * 50 + TARGETS].shape == (5,)
    with h5py.File(folder / "1 EiB.h5", "r") as file:
        assert file[TIME].nbytes == 2**60
    with h5py.File(folder / "gzip bomb.h5", "r") as file:
        assert file[TIME].nbytes == 2**33 and not file[TIME][-5:].any()
        assert (folder / "gzip bomb.h5").stat().st_size < 20 * 2**20
    virtual_file = folder / "virtual dataset.h5"
    with h5py.File(virtual_file, "r") as file:
        assert file[TARGETS].shape == (5,) and file[TARGETS].is_virtual


def test_a_forged_checkpoint_is_read_where_nothing_is_wrong(tmp_path):
    """So what is refused above is refused for what was changed."""
    forge(tmp_path / "run.ckpt", lambda file, numbers: None)
    arrays, numbers = read_checkpoint(tmp_path / "run.ckpt")
    assert set(arrays) == {"plan_times", "plan_frames", "plan_records", "state_0", "velocity_0"}
    assert arrays["state_0"].shape == (4, 3) and numbers["schedule"]["accepted"] == 3


@pytest.mark.parametrize("kind", ["single", "one too many", "changes in a list", "soft link"])
def test_a_checkpoint_that_only_its_digest_guards_is_believed(kind, tmp_path):
    """Read as HDF5 and JSON alone, they hold what no run wrote: the test above can fail."""
    forge(tmp_path / "run.ckpt", CHECKPOINTS[kind])
    head, _, raw = (tmp_path / "run.ckpt").read_bytes().partition(b"\n")
    assert head.endswith(hashlib.sha256(raw).hexdigest().encode())
    with h5py.File(io.BytesIO(raw), "r") as file:
        assert file["state_0"][()].shape == (4, 3) and isinstance(json.loads(file["numbers"][()].tobytes()), dict)


def test_verify_ends_what_does_not_end(tmp_path):
    """A process that has a time of 1 ms is ended, and that is a FormatError."""
    write(tmp_path / "run.h5", times=np.linspace(0, 1, 400), **SMALL)
    with pytest.raises(FormatError, match=r"run.h5 was not read within 0.001 s; needed: more seconds"):
        inspection.verify(tmp_path / "run.h5", seconds=0.001)


if __name__ == "__main__":
    {"mutations": read_mutations, "hostile": read_hostile}[sys.argv[1]](*sys.argv[2:])
