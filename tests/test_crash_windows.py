"""What may happen between two writes: ends without a status, checkpoints that do not fit, values, readers, names."""

import json
import os
import shutil
import time

import numpy as np
import pytest
from on_file import differing, digests

import meanfield as mf
from meanfield.errors import FileError, FormatError, InputError
from meanfield.trajectories import recording, schema, writer

TIMES = [0.0, 1.0, 2.0, 3.0]
PROBLEM, START = mf.problems.teacher_student(dim=3, n=30, seed=1), mf.initial.gaussian(20, 3, seed=1)
NETWORK = mf.Network("erf", mf.Scaling(2.0))


def run(path, times=TIMES, **options):
    names = mf.Output.__dataclass_fields__
    own = {name: options.pop(name) for name in [*options] if name in names}
    options = {"record": ["risk"], **options}
    with mf.simulate(NETWORK, PROBLEM, START, times, out=mf.Output(path, **own), **options) as done:  # pyright: ignore
        return done


def child(work):
    """Do something in another process, which must not come back; its exit code."""
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.mark.parametrize("keep", ["all", "last"])
def test_killed_between_the_last_checkpoint_and_the_status(keep, tmp_path, monkeypatch):
    """`resume` has only to call it complete: the same datasets and counts as a run that was let alone."""
    run(tmp_path / "whole.h5", keep=keep)
    with monkeypatch.context() as patch:
        patch.setattr(writer.Writer, "close", lambda *rest: os._exit(9))
        assert child(lambda: run(tmp_path / "run.h5", keep=keep)) == 9
    with mf.open(tmp_path / "run.h5") as found:
        assert found.status == "running"
    with mf.resume(tmp_path / "run.h5") as found:
        assert found.status == "complete" and found.steps > 0
    assert differing(digests(tmp_path / "whole.h5"), digests(tmp_path / "run.h5")) in ([], set())


def test_a_value_that_does_not_fit_leaves_the_rows_before_it(tmp_path):
    """Refused by name, before a byte of its row is written; the rest follows when the record is mended."""

    def level(now, first):
        return np.zeros(3) if now.time > 1.0 else 0.0

    with pytest.raises(InputError, match=r"/observables/level/value is to be \(3,\) in a row; needed: \(\)"):
        run(tmp_path / "run.h5", record=[level], checkpoint_seconds=0.0)
    with mf.open(tmp_path / "run.h5") as found:
        assert found.status == "failed" and list(found.record_times) == [0.0, 1.0]

    def level(now, first):
        return 0.0

    with mf.resume(tmp_path / "run.h5", record=[level]) as found:
        assert found.status == "complete" and list(found.record_times) == TIMES


def test_a_reader_does_not_stop_the_end_of_a_live_run(tmp_path):
    """Opened while it grows and held beyond its end: the run is complete all the same."""
    path, seen = tmp_path / "run.h5", tmp_path / "seen"

    def read():
        with mf.open(path) as found:
            seen.write_text(found.status)
            time.sleep(1.5)
        os._exit(0)

    def wait(now, first):
        if now.time == 1.0:
            wait.child = os.fork()
            if wait.child == 0:
                read()
            while not seen.exists():
                time.sleep(0.05)
        return 0.0

    run(path, record=[wait], live=True)
    assert os.waitpid(wait.child, 0)[1] == 0 and seen.read_text() == "running"
    with mf.open(path) as found:
        assert found.status == "complete"


def test_a_checkpoint_ahead_of_its_file(tmp_path):
    """After a power failure, say: the one before is taken; and rows are on the disk before a checkpoint counts them."""
    order, whole = [], tmp_path / "whole.h5"
    run(whole)

    class Seen(Exception):
        pass

    with pytest.MonkeyPatch.context() as patch:
        sync, save = writer.Writer.sync, recording.write_checkpoint
        patch.setattr(writer.Writer, "sync", lambda self: (order.append("rows"), sync(self))[1])
        patch.setattr(recording, "write_checkpoint", lambda *rest: (order.append("checkpoint"), save(*rest))[1])

        def stop(now, first):
            shutil.copy(tmp_path / "run.h5", tmp_path / "before.h5") if now.time == 1.0 else None
            if now.time == 3.0:
                raise Seen
            return 0.0

        with pytest.raises(Seen):
            run(tmp_path / "run.h5", record=[stop], checkpoint_seconds=0.0)
    assert order[:1] == ["checkpoint"] and order[1::2] == ["rows"] * len(order[1::2])
    shutil.copy(tmp_path / "before.h5", tmp_path / "run.h5")
    with pytest.raises(FormatError, match="fewer rows of frames, records than its checkpoint"):
        mf.resume(tmp_path / "run.h5", record=[stop])  # and so has the one before


def test_the_one_before_where_the_last_counts_more_rows_than_there_are(tmp_path):
    """Checkpoints of 1 and of 3 frames beside a file cut back to 2 (a power failure): from the first, bit for bit."""
    whole, path, kept = tmp_path / "whole.h5", tmp_path / "run.h5", tmp_path / "kept.h5"
    run(whole)
    save = recording.Recording.save

    def sparing(self, position):
        if position.event in (1, 3) and position.now in TIMES:
            save(self, position)
        if position.event == 2 and position.now == 2.0:
            shutil.copy(path, kept)  # two frames

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recording.Recording, "save", sparing)
        child(lambda: run(path, checkpoint_seconds=0.0))
    both = (recording.read_checkpoint(tmp_path / name)[1] for name in ("run.ckpt", "run.ckpt.prev"))
    assert [each["counts"]["frames"] for each in both] == [3, 1]
    shutil.copy(kept, path)
    mf.resume(path).close()
    assert not differing(digests(whole), digests(path))


def test_the_checkpoint_before_is_taken_where_the_last_is_of_another_run(tmp_path):
    """A replacement that was killed before its file was made: the old run is there, and goes on."""
    run(tmp_path / "whole.h5", times=[*TIMES, 4.0])
    run(tmp_path / "run.h5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "create", lambda *rest, **more: os._exit(9))
        assert child(lambda: run(tmp_path / "run.h5", overwrite=True, record=["loss"])) == 9
    mf.resume(tmp_path / "run.h5", times=[*TIMES, 4.0]).close()
    assert not differing(digests(tmp_path / "whole.h5"), digests(tmp_path / "run.h5"))


@pytest.mark.parametrize("name", ["run.ckpt", "run.hdf5", "run", "run.lock"])
def test_names_that_would_meet_those_beside_the_file(name, tmp_path):
    with pytest.raises(InputError, match=r"ends in \.h5"):
        run(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def predictions(now, first):
    return 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": [predictions]}, "a record is called 'predictions'"),
        ({"record": [lambda now, first: 0.0]}, "a record is called '<lambda>'"),
    ],
)
def test_what_cannot_be_replaces_nothing(options, message, tmp_path):
    run(tmp_path / "run.h5")
    before = digests(tmp_path / "run.h5")
    with pytest.raises(InputError, match=message):
        run(tmp_path / "run.h5", overwrite=True, **options)
    assert not differing(before, digests(tmp_path / "run.h5"))
    mf.resume(tmp_path / "run.h5", end=4.0).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"end": 1e9}, "more than 1,000,000 times; needed: a nearer end"),
        ({"end": 2.0}, "end is 2, and the run's last time 3; needed: a later one"),
        ({"change": {"momentum": 1.0}}, "change holds 'momentum'"),
        ({"change": {"rtoll": 1.0}}, "change holds 'rtoll'"),
    ],
)
def test_a_refused_resume_changes_nothing(options, message, tmp_path):
    run(tmp_path / "run.h5")
    before = (tmp_path / "run.ckpt").read_bytes()
    with pytest.raises(InputError, match=message):
        mf.resume(tmp_path / "run.h5", **options)
    assert (tmp_path / "run.ckpt").read_bytes() == before


def test_noise_has_no_velocities(tmp_path):
    run(tmp_path / "run.h5", velocities=True, scheme="euler", dt=0.5)
    with pytest.raises(InputError, match="velocities=True with noise or batches"):
        mf.resume(tmp_path / "run.h5", end=4.0, change={"temperature": 0.1})


def test_a_resume_that_a_reader_stops_changes_nothing(tmp_path):
    run(tmp_path / "run.h5")
    before = (tmp_path / "run.ckpt").read_bytes()
    with mf.open(tmp_path / "run.h5"), pytest.raises(FileError, match="close what reads it"):
        mf.resume(tmp_path / "run.h5", end=6.0, change={"rtol": 1e-3})
    assert (tmp_path / "run.ckpt").read_bytes() == before
    with mf.resume(tmp_path / "run.h5") as found:
        assert found.changes == {} and list(found.times) == TIMES


def test_a_change_is_seen_afterwards(tmp_path):
    run(tmp_path / "run.h5")
    with mf.resume(tmp_path / "run.h5", end=4.0, change={"rtol": 1e-3}) as found:
        assert found.changes == {"rtol": "0.001"}
    assert mf.trajectories.info(tmp_path / "run.h5")["changes"] == {"rtol": "0.001"}


def test_another_activation_of_the_same_name_is_refused(tmp_path):
    """By the predictions on file; the right one goes on."""
    own = mf.Activation("own", lambda z: (z / (1.0 + z * z) ** 0.5, (1.0 + z * z) ** -1.5))
    other = mf.Activation("own", lambda z: (z, 1.0 + 0.0 * z))
    mf.simulate(mf.Network(own), PROBLEM, START, [0.0, 1.0], out=tmp_path / "run.h5").close()  # pyright: ignore
    with pytest.raises(InputError, match="gives other predictions than the run's"):
        mf.resume(tmp_path / "run.h5", end=2.0, activation=other)
    with mf.resume(tmp_path / "run.h5", end=2.0, activation=own) as found:
        assert found.status == "complete"


def test_a_damaged_row_stops_a_resume(tmp_path):
    """It is said before hours of work, and `repair` does not call it whole."""
    run(tmp_path / "run.h5")
    with mf.open(tmp_path / "run.h5") as found:
        row = np.array(found.particles[1])
    raw = (tmp_path / "run.h5").read_bytes()
    place = raw.index(row.tobytes())
    (tmp_path / "run.h5").write_bytes(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
    for use in (lambda: mf.resume(tmp_path / "run.h5", end=4.0), lambda: mf.trajectories.repair(tmp_path / "run.h5")):
        with pytest.raises(FormatError, match="row 1 of its frames does not have its CRC"):
            use()


def test_after_it_is_closed(tmp_path):
    found = run(tmp_path / "run.h5")
    with pytest.raises(InputError, match=r"run\.h5 is closed"):
        found.particles[0]


def test_numbers_beyond_float32(tmp_path):
    with pytest.raises(InputError, match="beyond float32"):
        mf.simulate(  # pyright: ignore
            NETWORK, PROBLEM, START * np.array([1e300, 1.0, 1.0, 1.0]), [0.0], out=mf.Output(
                tmp_path / "run.h5", save_dtype="float32"
            ),
        )  # fmt: skip


def test_what_is_not_finite_is_null_in_the_progress(tmp_path):
    def level(now, first):
        return float("nan")

    run(tmp_path / "run.h5", record=[level])
    refuse = pytest.fail
    lines = [
        json.loads(each, parse_constant=refuse) for each in (tmp_path / "run.progress.jsonl").read_text().splitlines()
    ]
    assert any("level" in each and each["level"] is None for each in lines)


def test_a_state_that_is_too_long_is_no_state():
    """Cut silently it would be a damaged file: criteria with long names are cut before."""
    with pytest.raises(ValueError, match="needed: at most"):
        schema.seal({"stopped_by": "x" * 2000})


def test_a_criterion_of_many_signs(tmp_path):
    many = mf.stopping.Criterion("\U0001f600" * 100, lambda look: look.time > 1.0)
    assert run(tmp_path / "run.h5", stop=[many]).status == "complete"


def test_there_is_no_run(tmp_path):
    with pytest.raises(InputError, match=r"nosuch\.h5 is not a file"):
        mf.resume(tmp_path / "nosuch.h5")
    assert list(tmp_path.iterdir()) == []
