"""A student finds its teacher: the risk falls along the flow and ends below a tenth.   (seconds on two cores)"""

import sys

import numpy as np

import meanfield as mf


def main(out: str = "teacher_student.png", n_particles=500, horizon=40.0):
    problem = mf.problems.teacher_student(dim=5, n=400, teachers=3, seed=1)
    network = mf.Network("erf", scaling=mf.Scaling(alpha=1.0))
    start = mf.initial.gaussian(n_particles, dim=5, seed=2)
    times = np.linspace(0.0, horizon, 21)
    run = mf.simulate(network, problem, start, times, scheme="dopri5", record=["risk", "kernel_drift"], progress=True)
    mf.plots.save(mf.plots.curve(run, "risk"), out)
    print(run)
    return run.records["risk"]


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "teacher_student.png")
