"""Population dynamics: risk by quadrature, velocity as its gradient and as the mean over a large sample; their law."""

import numpy as np
import pytest
from scipy.special import erf

import meanfield as mf
from meanfield import activations, population
from meanfield.activations import ACTIVATIONS
from meanfield.engines import cpu, reference
from meanfield.errors import InputError
from meanfield.overlaps import HOMOGENEOUS, OVERLAPS
from meanfield.population import Population, PopulationField

POLYNOMIALS = {"quadratic": activations.quadratic(), "quartic": activations.polynomial([0.1, 0.3, -0.4, 0.2, 0.05])}
EVERY = pytest.mark.parametrize("name", [*(each.name for each in OVERLAPS), *POLYNOMIALS])
ON_SPHERE = [("sphere", each) for each in (*(each.name for each in HOMOGENEOUS), *POLYNOMIALS)]
ON_BOTH = pytest.mark.parametrize(
    ("law", "name"), [*(("gaussian", each) for each in (*(each.name for each in OVERLAPS), *POLYNOMIALS)), *ON_SPHERE]
)
ENGINES = pytest.mark.parametrize("engine", ["cpu", "reference"])
UNITS = {"erf": erf, "relu": lambda z: np.maximum(z, 0.0), "linear": lambda z: z}
UNITS |= {
    "quadratic": lambda z: z**2,
    "quartic": lambda z: 0.1 + 0.3 * z - 0.4 * z**2 + 0.2 * z**3 + 0.05 * z**4,
}


def given(name, dim=3, n_particles=7, shift=None, alpha=0.7, seed=0, law="gaussian"):
    rng = np.random.default_rng(seed)
    activation = POLYNOMIALS.get(name, name)
    problem = Population(population.teacher(dim, 2, seed=1), activation, probes=20, inputs=law)
    network = mf.Network(activation, mf.Scaling(alpha, mobility_a=0.6, mobility_w=1.4, shift=shift))
    return network, problem, rng.standard_normal((n_particles, 1 + dim)), rng.dirichlet(np.full(n_particles, 5.0))


def by_quadrature(name, network, problem, particles, masses):
    """E (f* - f)^2 in one dimension, by Gauss and Legendre between the kink at 0 and 14 standard deviations."""
    nodes, weights = np.polynomial.legendre.leggauss(200)
    total, unit = 0.0, UNITS[name]
    for low, high in ((-14.0, 0.0), (0.0, 14.0)):
        x = (low + high) / 2 + (high - low) / 2 * nodes
        f = network.scaling.alpha * unit(np.outer(x, particles[:, 1])) @ (masses * particles[:, 0])
        target = unit(np.outer(x, problem.teacher[:, 1])) @ problem.teacher[:, 0]
        total += (high - low) / 2 * weights @ ((target - f) ** 2 * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))
    return total


@EVERY
def test_risk_is_that_of_quadrature(name):
    """To 1e-10 of it."""
    network, problem, particles, masses = given(name, dim=1)
    wanted = by_quadrature(name, network, problem, particles, masses)
    assert population.risk(network, problem, particles, masses) == pytest.approx(wanted, rel=1e-10)
    assert population.risk(network, problem, 1.001 * particles, masses) != pytest.approx(wanted, rel=1e-5)


def test_risk_in_blocks(monkeypatch):
    network, problem, particles, masses = given("erf")
    whole = population.risk(network, problem, particles, masses)
    monkeypatch.setattr(population, "_ENTRIES", 20)
    assert population.risk(network, problem, particles, masses) == pytest.approx(whole, rel=1e-14)


def gradient_error(field, network, problem, particles, masses, start=None):
    """Largest distance of the velocity from -(mobility / 2 alpha^2 m_i) dR/dtheta_i, over its largest entry."""
    gradient, h = np.empty_like(particles), 1e-4

    def at(moved):
        return population.risk(network, problem, moved, masses, start)

    for place in np.ndindex(particles.shape):
        values = []
        for steps in (-2, -1, 1, 2):
            moved = particles.copy()
            moved[place] += steps * h
            values.append(at(moved))
        gradient[place] = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
    scaling = network.scaling
    wanted = -gradient / (2 * scaling.alpha**2 * masses[:, None])
    wanted *= np.r_[scaling.mobility_a, np.full(particles.shape[1] - 1, scaling.mobility_w)]
    velocity = field.particles(field.velocity(field.state(particles)))
    return np.abs(velocity - wanted).max() / np.abs(wanted).max()


@ON_BOTH
@ENGINES
@pytest.mark.parametrize("shift", [None, "initial", -0.4])
def test_velocity_is_the_gradient_of_the_risk(law, name, engine, shift):
    """To 1e-9 by differences of fourth order; with the offset f_0 as atoms that stay."""
    network, problem, particles, masses = given(name, shift=shift, law=law)
    start = np.random.default_rng(9).standard_normal(particles.shape)
    field = PopulationField(network, problem, start, masses, engine)
    offset = None if shift is None else (start, masses)
    assert gradient_error(field, network, problem, particles, masses, offset) < 1e-9


class WithoutTeacher(PopulationField):
    def __init__(self, *args):
        super().__init__(*args)
        self._fixed_weights = 0.0 * self._fixed_weights


class Attracted(PopulationField):
    def velocity(self, state, out=None):
        return tuple(-each for each in super().velocity(state))


@pytest.mark.parametrize("kind", [WithoutTeacher, Attracted])
def test_a_wrong_field_is_caught(kind):
    network, problem, particles, masses = given("erf")
    assert gradient_error(kind(network, problem, particles, masses), network, problem, particles, masses) > 0.1


def sample_velocities(name, network, problem, particles, masses, sphere):
    """Data-mediated velocities of 40 samples of 5000 inputs, N(0, I) or of length sqrt(d)."""
    rng, velocities = np.random.default_rng(5), []
    for _ in range(40):
        inputs = rng.standard_normal((5000, problem.dim))
        if sphere:
            inputs *= np.sqrt(problem.dim) / np.sqrt((inputs**2).sum(axis=1))[:, None]
        targets = UNITS[name](inputs @ problem.teacher[:, 1:].T) @ problem.teacher[:, 0]
        field = mf.fields.DataField(network, mf.Problem(inputs, targets), particles, masses)
        velocities.append(field.particles(field.velocity(field.state(particles))))
    return np.array(velocities)


@ON_BOTH
def test_velocity_is_the_mean_over_a_large_sample(law, name):
    """Their mean within five of its standard errors; on the sphere polynomials of a Gaussian input are told apart."""
    network, problem, particles, masses = given(name, law=law)
    velocities = sample_velocities(name, network, problem, particles, masses, law == "sphere")
    field = PopulationField(network, problem, particles, masses)
    exact = field.particles(field.velocity(field.state(particles)))
    error = velocities.std(axis=0, ddof=1) / np.sqrt(40)
    assert (np.abs(velocities.mean(axis=0) - exact) / error).max() < 5.0
    assert (np.abs(velocities.mean(axis=0) - 1.1 * exact) / error).max() > 5.0
    if law == "sphere" and name in POLYNOMIALS:
        other = PopulationField(network, given(name)[1], particles, masses)
        wrong = other.particles(other.velocity(other.state(particles)))
        assert (np.abs(velocities.mean(axis=0) - wrong) / error).max() > 5.0


def test_probes_on_the_sphere():
    """Of length sqrt(d), their mean within five standard errors of 0, targets those of the teacher."""
    problem = Population(population.teacher(4, 2), "relu", inputs="sphere", probes=4000)
    np.testing.assert_allclose((problem.inputs**2).sum(axis=1), 4.0, rtol=1e-14)
    assert np.abs(problem.inputs.mean(axis=0)).max() < 5 / np.sqrt(4000)
    targets = np.maximum(problem.inputs @ problem.teacher[:, 1:].T, 0.0) @ problem.teacher[:, 0]
    np.testing.assert_allclose(problem.targets, targets, rtol=1e-12, atol=1e-14)
    assert repr(problem) == "Population(2 teachers, dim=4, relu, 4000 probes on the sphere)"


def test_risk_on_the_sphere_is_the_mean_over_a_large_sample():
    """Within five standard errors of 250,000 inputs; that of Gaussian inputs is not."""
    network, problem, particles, masses = given("quartic", law="sphere")
    x = np.random.default_rng(7).standard_normal((250_000, problem.dim))
    x *= np.sqrt(problem.dim) / np.linalg.norm(x, axis=1, keepdims=True)
    unit = UNITS["quartic"]
    f = network.scaling.alpha * unit(x @ particles[:, 1:].T) @ (masses * particles[:, 0])
    squares = (unit(x @ problem.teacher[:, 1:].T) @ problem.teacher[:, 0] - f) ** 2
    error = squares.std() / 500.0
    assert abs(population.risk(network, problem, particles, masses) - squares.mean()) < 5 * error
    assert abs(population.risk(network, given("quartic")[1], particles, masses) - squares.mean()) > 5 * error


def test_risk_falls_as_the_velocity_says():
    """dR/dt = -2 alpha^2 sum_i m_i |v_i|^2, by differences along a run; `record` knows the closed form."""
    problem, start = Population(population.teacher(4, 3, seed=2), "erf"), mf.initial.gaussian(40, 4, seed=3)
    network, times = mf.Network("erf", mf.Scaling(0.8)), [0.0, 0.999, 1.0, 1.001, 5.0, 50.0]
    for engine in ("cpu", "reference"):
        run = mf.simulate(network, problem, start, times, rtol=1e-10, atol=1e-12, record=["risk"], engine=engine)
        risks, field = run.records["risk"], PopulationField(network, problem, start)
        speed = field.speed(field.state(run.particles[2]))
        assert (risks[3] - risks[1]) / 0.002 == pytest.approx(-2 * 0.8**2 * speed**2, rel=1e-5)
        assert (np.diff(risks) < 0).all() and risks[-1] < 0.05 * risks[0]
        assert risks[2] == pytest.approx(population.risk(network, problem, run.particles[2]), rel=1e-12)
    assert run.predictions.shape == (6, 500)


def test_records_and_criteria_are_in_closed_form():
    problem, start = Population(population.teacher(2, 2, seed=2), "erf", probes=3), mf.initial.gaussian(40, 2, seed=3)
    network = mf.Network("erf", mf.Scaling(shift="initial"))
    run = mf.simulate(
        network, problem, start, np.linspace(0, 50, 51), record=["risk", "loss"], stop=mf.stopping.risk(0.02)
    )
    assert run.stopped_by == "risk below 0.02" and run.records["risk"][-1] < 0.02 <= run.records["risk"][-2]
    np.testing.assert_allclose(run.records["loss"], run.records["risk"] / 2)
    assert "at the probes" in repr(run)
    same = population.risk(mf.Network("erf"), problem, np.c_[2 * problem.teacher[:, :1], problem.teacher[:, 1:]])
    assert 0.0 <= same < 1e-14


def test_float32_is_near():
    problem, start = Population(population.teacher(4, 3, seed=2), "relu"), mf.initial.gaussian(300, 4, seed=3)
    velocities = [
        field.particles(field.velocity(field.state(start)))
        for field in (
            PopulationField(mf.Network("relu"), problem, start, None, "cpu", dtype) for dtype in mf.engines.DTYPES
        )
    ]
    assert np.abs(velocities[0] - velocities[1]).max() < 1e-5 * np.abs(velocities[0]).max()


def test_engines_agree():
    network, problem, particles, masses = given("relu", n_particles=300)
    fields = [PopulationField(network, problem, particles, masses, each) for each in (cpu, reference)]
    moved = [each.particles(each.velocity(each.state(particles))) for each in fields]
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-11, atol=1e-13)


def test_what_does_not_fit():
    atoms, start = population.teacher(2), mf.initial.gaussian(5, 2)
    with pytest.raises(InputError, match=r"'tanh' has no closed form .* those of erf, relu, linear, and polynomials"):
        Population(atoms, "tanh")
    with pytest.raises(InputError, match="needed: the teacher's, 'erf', 1 and no bias"):
        mf.simulate(mf.Network("relu"), Population(atoms), start, [1.0])
    with pytest.raises(InputError, match="input scale 1 and bias 2; needed: the teacher's, 'erf', 1 and no bias"):
        mf.simulate(mf.Network("erf", bias=2.0), Population(atoms), mf.initial.gaussian(5, 3), [1.0])
    with pytest.raises(
        InputError, match=r"'erf' has no closed form .* for the sphere; those of relu, linear, and poly"
    ):
        Population(atoms, "erf", inputs="sphere")
    with pytest.raises(InputError, match=r"unknown law of inputs 'sphare'\. Did you mean 'sphere'"):
        Population(atoms, "relu", inputs="sphare")
    with pytest.raises(InputError, match="a Population has none: use simulate"):
        mf.simulate_coupled(mf.Network("erf"), Population(atoms), start, [1.0])
    with pytest.raises(InputError, match="teacher has shape"):
        Population(np.ones((3, 1)))
    with pytest.raises(InputError, match="heights has 2 entries; needed: 3"):
        population.teacher(2, 3, heights=[1.0, 2.0])
    assert repr(Population(atoms)) == "Population(3 teachers, dim=2, erf, 500 probes)"
    assert ACTIVATIONS["erf"] is Population(atoms).activation
