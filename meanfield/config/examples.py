"""Runs to begin from, as commented TOML; each takes seconds on one core. What is not named has its default."""

from .. import _checks

_TEACHER_STUDENT = """\
name = "teacher-student"
description = "A student of 200 units learns three erf units in the mean-field scaling."

[problem]
kind = "teacher-student"
dim = 5
n = 400
teachers = 3

[network]
activation = "erf"

[network.scaling]
alpha = 1.0                # O(1): features move

[start]
n_particles = 200
seed = 1

[run]
times = { end = 20.0, frames = 21 }
record = ["risk", "test_risk"]
"""

_FASHION_MNIST = """\
name = "fashion-mnist"
description = "Trousers against shirts, pullovers and dresses, until every margin is 1."

[problem]
kind = "fashion-mnist"
n_train = 200
n_test = 200
classes = [[1], [0, 2, 3]]   # targets -1 and +1
pca = 10                     # "none" keeps the pixels
loss = "soft-hinge"

[network]
activation = { family = "softplus", beta = 5.0 }

[start]
n_particles = 200
paired = true                # f = 0 at the start

[run]
times = { end = 50.0, frames = 26, spacing = "log", first = 0.01 }
record = ["loss", "test_error"]
stop = [{ kind = "margin" }, { kind = "loss", below = 1e-4 }]
"""

_LAZY = """\
name = "lazy"
description = "The same flow in the NTK scaling, with the residual integrated beside it."

[problem]
kind = "teacher-student"
n = 100

[network]
activation = "tanh"
scaling = { kind = "ntk", c = 1.0 }   # alpha = c sqrt(N), learning f - f_0

[start]
n_particles = 512

[run]
times = [0.0, 1.0, 3.0, 10.0]
coupled = true
record = ["risk", "kernel_drift"]
"""

_LANGEVIN = """\
name = "langevin"
description = "Noise and a ridge: the law goes down a free energy (Euler and Maruyama)."

[problem]
kind = "teacher-student"
dim = 2
n = 200
teachers = 1

[network]
activation = "tanh"

[start]
n_particles = 300

[run]
times = { end = 10.0, frames = 11 }
scheme = "euler"
dt = 0.05
temperature = 0.01
ridge = 0.1
noise_seed = 3
record = ["risk"]
"""

_SGD = """\
name = "sgd"
description = "Gradient descent on 20 of 400 data points a step; dt is the learning rate in flow time."

[problem]
kind = "teacher-student"
n = 400

[network]
activation = "erf"

[start]
n_particles = 100

[run]
times = { end = 20.0, frames = 21 }   # multiples of dt
scheme = "euler"
dt = 0.05
batches = { kind = "minibatch", size = 20, seed = 1 }
record = ["risk", "test_risk"]
"""

_ONE_PASS = """\
name = "one-pass"
description = "One new data point a step of two Gaussian classes that no linear classifier tells apart."

[problem]
kind = "isotropic-gaussians"
dim = 10
delta = 0.6
n = 500                    # where the risk is measured

[network]
activation = { family = "piecewise_linear", knots = [0.5, 1.5], values = [-2.5, 7.5] }
scaling = { kind = "mmn18" }

[start]
n_particles = 100
sigma_a = 0.0              # all output weights start at 1
sigma_w = 0.3
mean_a = 1.0

[run]
times = { end = 2.0, frames = 11 }
scheme = "euler"
dt = 0.002
batches = { kind = "fresh", size = 1 }
record = ["risk"]
keep = "last"
"""

_POPULATION = """\
name = "population"
description = "The population risk in closed form: no data. Sobol points stand for the law of the particles."

[problem]
kind = "population"
dim = 10
units = 2
activation = "erf"

[network]
activation = "erf"         # the teacher's

[start]
law = "sobol"
n_nodes = 256              # a power of two

[run]
times = { end = 10.0, frames = 11 }
record = ["risk"]
stop = [{ kind = "risk", below = 1e-6 }]

[output]
record_times = [0.0, 1.0, 10.0]
"""

EXAMPLES = {
    "teacher-student": _TEACHER_STUDENT,
    "fashion-mnist": _FASHION_MNIST,
    "lazy": _LAZY,
    "langevin": _LANGEVIN,
    "sgd": _SGD,
    "one-pass": _ONE_PASS,
    "population": _POPULATION,
}


def example(name: str) -> str:
    """The TOML text called `name` in `EXAMPLES`. Raises InputError if there is none."""
    return _checks.find(EXAMPLES, name, "example")
