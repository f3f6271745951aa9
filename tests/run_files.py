"""Small files of runs for the tests of the reader, written row by row as a run writes them."""

from dataclasses import dataclass, field

import numpy as np

from meanfield import Network, Problem
from meanfield.trajectories import schema, settings, writer

TIMES = np.linspace(0.0, 1.0, 9)
STATE = {
    "status": "complete", "stopped_by": "time", "steps": 80, "rejected": 2, "evaluations": 500, "seconds": 1.5,
    "resumed": 0,
}  # fmt: skip


@dataclass
class Written:
    """What a file holds: path -> all rows of a dataset that grows, in order; and what the run was."""

    network: Network
    problem: Problem
    series: tuple
    rows: dict = field(default_factory=dict)
    arrays: dict = field(default_factory=dict)
    settings: dict = field(default_factory=dict)


def circles(times, start):
    """A smooth flow: every component of every particle, u cos t + (1 - u) sin 2t, and its velocity."""
    t = np.asarray(times)[:, None, None]
    return start * np.cos(t) + (1 - start) * np.sin(2 * t), -start * np.sin(t) + 2 * (1 - start) * np.cos(2 * t)


def write(
    path, *, times=TIMES, n_particles=7, dim=2, keep="all", dtype="float64", velocities=True, residuals=False,
    records=("risk", "weight_norm"), m=3, live=False, compression="none", state=STATE, seed=0, close=True,
    config="a = 1\n", network=None,
):  # fmt: skip
    """Write a run whose particles go along `circles`; everything else in it is random."""
    rng = np.random.default_rng(seed)
    tests = {"test_inputs": rng.standard_normal((m, dim)), "test_targets": rng.standard_normal(m)} if m else {}
    problem = Problem(rng.standard_normal((5, dim)), rng.standard_normal(5), rng.dirichlet(np.ones(5)),
                      labels=np.arange(5), name="small", **tests)  # fmt: skip
    network = network or Network("tanh")
    start = rng.standard_normal((n_particles, 1 + dim))
    kept = np.arange(n_particles)[keep] if isinstance(keep, slice) else np.arange(n_particles)
    masses = rng.dirichlet(np.ones(n_particles))
    series = schema.series(particles=len(kept), components=1 + dim, n=5, m=m, records=records, keep=keep, dtype=dtype,
                           velocities=velocities, residuals=residuals)  # fmt: skip
    arguments = {"scheme": "dopri5", "engine": "cpu", "dtype": "float64", "record": list(records), "keep": keep,
                 "stop": [], "batches": None}  # fmt: skip
    names = [b"a", *(b"w%d" % (1 + i) for i in range(dim))]
    arrays = {
        "/particle": kept.astype("<i8"), "/component": np.array(names, "S16"), "/datum": np.arange(5),
        "/particles/neurons/mass": masses[kept], "/meanfield/start": start, "/meanfield/start_masses": masses,
        **({"/test_datum": np.arange(m)} if m else {}),
        **{f"/meanfield/problem/{name}": value for name, value in settings.arrays_of(problem).items()},
    }  # fmt: skip
    found = Written(network, problem, series, arrays=arrays, settings=settings.describe(network, problem, arguments))
    moved = dict(zip(("position", "velocity"), circles(times, start[kept]), strict=True))
    writer.create(path, series, arrays, found.settings, config=config, live=live, compression=compression)
    file = writer.Writer(path, series, live)
    file.begin({each.name: 0 for each in series}, {"status": "running"})
    for each in series:
        at = times[-1:] if each.name == "last" else times
        found.rows[each.step], found.rows[each.time] = np.arange(len(at)) * 10, np.asarray(at)
        for column in each.columns:
            name = column.path.split("/")[-2]
            values = moved[name][-len(at) :] if name in moved else rng.standard_normal((len(at), *column.shape))
            found.rows[column.path] = values.astype(column.dtype)
        for row, time in enumerate(at):
            file.append(each.name, 10 * row, time, [found.rows[column.path][row] for column in each.columns])
    if close:
        file.close(state)
        return found
    return found, file
