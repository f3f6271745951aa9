"""The velocity is a gradient, energy is balanced, the risk is convex along mixtures: exact laws on every engine."""

from types import SimpleNamespace

import numpy as np
import oracle
import pytest

import meanfield as mf
from meanfield.activations import ACTIVATIONS
from meanfield.coupled import CoupledField
from meanfield.engines import ENGINES
from meanfield.fields import DataField
from meanfield.losses import Loss

EVERY = pytest.mark.parametrize("name", ACTIVATIONS)
EVERYWHERE = pytest.mark.parametrize("engine", ENGINES)
SCALES = pytest.mark.parametrize("alpha", [0.3, 7.0])


def case(seed=1, n_particles=5, n=6, dim=2):
    """Particles away from the kink of relu, uneven masses and data weights."""
    rng = np.random.default_rng(seed)
    inputs = rng.standard_normal((n, dim))
    drawn = rng.standard_normal((40 * n_particles, 1 + dim))
    clear = np.abs(drawn[:, 1:] @ inputs.T).min(axis=1) > 0.02
    masses, weights = rng.uniform(0.2, 1.0, n_particles), rng.uniform(0.2, 1.0, n)
    return SimpleNamespace(
        particles=drawn[clear][:n_particles],
        masses=masses / masses.sum(),
        inputs=inputs,
        targets=rng.standard_normal(n),
        weights=weights / weights.sum(),
    )


def equal_masses(given):
    return SimpleNamespace(**{**vars(given), "masses": np.full(len(given.masses), 1 / len(given.masses))})


def field_of(given, name, engine="reference", kind=DataField, loss="squared", **scaling):
    problem = mf.Problem(given.inputs, given.targets, given.weights, loss)
    return kind(mf.Network(name, mf.Scaling(**scaling)), problem, given.particles, given.masses, engine)


def velocity_of(field, particles):
    """Velocities as an array (N, 1 + d)."""
    return field.engine.unpack(field.velocity(field.state(particles))[0], len(particles))


def risk_at(given, name, alpha, particles):
    return oracle.risk(
        oracle.ACTIVATIONS[name], particles, given.masses, given.inputs, given.targets, given.weights, alpha
    )


def risk_gradient(given, name, alpha, h=2e-3):
    """dR/dtheta by fourth-order central differences of the oracle's risk, (N, 1 + d)."""
    result = np.empty_like(given.particles)
    for place in np.ndindex(result.shape):
        values = []
        for steps in (-2, -1, 1, 2):
            moved = given.particles.copy()
            moved[place] += steps * h
            values.append(risk_at(given, name, alpha, moved))
        result[place] = (8 * (values[2] - values[1]) - (values[3] - values[0])) / (12 * h)
    return result


def gradient_error(field, given, name):
    """Distance of the velocity from -(1 / 2 alpha^2 m_i) dR/dtheta_i, relative to its largest entry."""
    alpha = field.network.scaling.alpha
    wanted = -risk_gradient(given, name, alpha) / (2 * alpha**2 * given.masses[:, None])
    return np.abs(velocity_of(field, given.particles) - wanted).max() / np.abs(wanted).max()


@EVERYWHERE
@SCALES
@EVERY
def test_velocity_is_the_gradient_of_the_risk(name, alpha, engine):
    """-(N / 2 alpha^2) dR/dtheta_i, with uneven data weights; and with masses m_i in the place of 1/N."""
    for given in (case(), equal_masses(case())):
        assert gradient_error(field_of(given, name, engine, alpha=alpha), given, name) < 1e-9


class Backwards(DataField):
    def driven(self, cloud, sums, *room):
        return -super().driven(cloud, sums, *room)


class Doubled(DataField):
    def driven(self, cloud, sums, *room):
        return 2 * super().driven(cloud, sums, *room)


class WithoutScaling(DataField):
    def driven(self, cloud, sums, *room):
        return self.network.scaling.alpha * super().driven(cloud, sums, *room)


class EqualWeights(DataField):
    def driven(self, cloud, sums, *room):
        alpha, targets = self.network.scaling.alpha, self.problem.targets
        return super().driven(cloud, (targets - (targets - alpha * sums) / self.problem.weights) / alpha, *room)


@pytest.mark.parametrize("kind", [Backwards, Doubled, WithoutScaling, EqualWeights])
def test_a_wrong_field_is_caught(kind):
    given = case()
    assert gradient_error(field_of(given, "tanh", kind=kind, alpha=0.3), given, "tanh") > 0.1


@EVERYWHERE
@EVERY
def test_velocity_is_the_oracle_s(name, engine):
    """Also with mobilities, and with inputs seen through a factor."""
    given, activation = case(2, 70), oracle.ACTIVATIONS[name]
    field = field_of(given, name, engine, alpha=0.8, mobility_a=0.4, mobility_w=3.0, input_scale=0.6)
    wanted = oracle.velocity(
        activation, given.particles, given.masses, 0.6 * given.inputs, given.targets, given.weights, 0.8, (0.4, 3.0)
    )
    np.testing.assert_allclose(velocity_of(field, given.particles), wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())


def test_the_pull_of_another_loss_drives():
    """u = -dl/df of l = cosh(f - y) - 1 is sinh(y - f); a field differs from that of the square only in u."""
    given = case()
    cosh = Loss("cosh", lambda f, y: np.cosh(f - y) - 1, lambda f, y: np.sinh(y - f))
    field = field_of(given, "tanh", loss=cosh, alpha=0.8)
    tanh = oracle.ACTIVATIONS["tanh"]
    residual = given.targets - oracle.predict(tanh, given.particles, given.masses, given.inputs, 0.8)
    wanted = oracle.vjp(tanh, given.particles, given.inputs, given.weights * np.sinh(residual) / 0.8)
    np.testing.assert_allclose(velocity_of(field, given.particles), wanted, rtol=1e-12)


# Energy (F04)


def energy_rates(field, given, name):
    """dR/dt three ways: -2 <u, K u>_P with the oracle's K, through the field's motion, and by the particles' speeds."""
    scaling, weights = field.network.scaling, given.weights
    mobilities = np.r_[scaling.mobility_a, np.full(given.inputs.shape[1], scaling.mobility_w)]
    kernel = oracle.kernel(
        oracle.ACTIVATIONS[name], given.particles, given.masses, given.inputs, (mobilities[0], mobilities[1])
    )
    state = field.state(given.particles)
    pull = weights * (given.targets - field.predict(state))
    (cloud,) = field.velocity(state)
    speeds = field.engine.unpack(cloud, len(given.particles)) ** 2 / mobilities
    return (
        -2 * pull @ kernel @ pull,
        -2 * pull @ field.motion(state[0], cloud),
        -2 * scaling.alpha**2 * given.masses @ speeds.sum(axis=1),
    )


@EVERYWHERE
@SCALES
@EVERY
def test_energy_balance(name, alpha, engine):
    """dR/dt = -2 <u, K u>_P = -2 alpha^2 sum_i m_i |v_i|^2; with mobilities |v_i|^2 is v_a^2/xi_a + |v_w|^2/xi_w."""
    given = case(3, 70, 9, 3)
    for mobilities in ({}, {"mobility_a": 0.4, "mobility_w": 3.0}):
        first, *others = energy_rates(field_of(given, name, engine, alpha=alpha, **mobilities), given, name)
        assert first < 0
        np.testing.assert_allclose(others, first, rtol=1e-12)


@EVERY
def test_the_motion_is_the_kernel_s(name):
    """dF/dt = K P u at every data point."""
    given = case(4)
    field = field_of(given, name, "cpu", alpha=7.0, mobility_a=0.4, mobility_w=3.0)
    state = field.state(given.particles)
    kernel = oracle.kernel(oracle.ACTIVATIONS[name], given.particles, given.masses, given.inputs, (0.4, 3.0))
    wanted = kernel @ (given.weights * (given.targets - field.predict(state)))
    np.testing.assert_allclose(
        field.motion(state[0], field.velocity(state)[0]), wanted, rtol=0, atol=1e-12 * np.abs(wanted).max()
    )


def test_a_field_that_loses_energy_elsewhere_is_caught():
    given = case(3)
    first, *others = energy_rates(field_of(given, "tanh", kind=Doubled, alpha=0.3), given, "tanh")
    assert all(abs(other / first - 1) > 0.5 for other in others)


# Convexity (F05)


def mixture(left, right, s):
    """(1 - s) mu + s nu: the particles of both, each with its share of mass."""
    return SimpleNamespace(
        **{
            **vars(left),
            "particles": np.concatenate([left.particles, right.particles]),
            "masses": np.concatenate([(1 - s) * left.masses, s * right.masses]),
        }
    )


def transported(left, right, s):
    """Every particle of mu a share s of the way to one of nu: a path along which the identity does not hold."""
    return SimpleNamespace(**{**vars(left), "particles": (1 - s) * left.particles + s * right.particles})


def two_clouds():
    left, right = case(5, 66), case(5, 66)
    right.particles = np.random.default_rng(6).normal((1.0, 0.5, -0.5), 1.0, right.particles.shape)
    return left, right


def convexity_gap(path, name, engine, s):
    """(1-s) R(mu) + s R(nu) - R(path(s)), and s (1-s) E_p (f_mu - f_nu)^2."""

    def predictions(given):
        field = field_of(given, name, engine, alpha=1.3)
        return field.predict(field.state(given.particles))

    left, right = two_clouds()
    clouds = left, right, path(left, right, s)
    f_left, f_right, f_between = (predictions(each) for each in clouds)
    risks = [left.weights @ (left.targets - f) ** 2 for f in (f_left, f_right, f_between)]
    return (1 - s) * risks[0] + s * risks[1] - risks[2], s * (1 - s) * left.weights @ (f_left - f_right) ** 2


@EVERYWHERE
@EVERY
def test_the_risk_is_convex_along_mixtures(name, engine):
    """(1-s) R(mu) + s R(nu) - R((1-s) mu + s nu) = s (1-s) E_p (f_mu - f_nu)^2, an identity."""
    for s in (0.25, 0.9):
        gap, wanted = convexity_gap(mixture, name, engine, s)
        assert wanted > 1e-3 and abs(gap - wanted) < 1e-12


def test_no_such_identity_along_transport():
    gap, wanted = convexity_gap(transported, "tanh", "reference", 0.25)
    assert abs(gap - wanted) > 0.1 * wanted


# Masses


@EVERYWHERE
def test_splitting_a_particle_changes_nothing(engine):
    """Two atoms of half the mass at one place move like the one."""
    given = case(7)
    split = SimpleNamespace(
        **{
            **vars(given),
            "particles": np.concatenate([given.particles, given.particles[:2]]),
            "masses": np.concatenate([given.masses * np.r_[0.5, 0.75, 1, 1, 1], given.masses[:2] * (0.5, 0.25)]),
        }
    )
    whole, parts = (velocity_of(field_of(each, "tanh", engine), each.particles) for each in (given, split))
    np.testing.assert_allclose(parts, np.concatenate([whole, whole[:2]]), rtol=1e-13)


@EVERYWHERE
def test_an_atom_of_mass_zero_is_driven_and_does_not_drive(engine):
    given = case(7)
    beside = SimpleNamespace(**{**vars(given), "masses": np.append(given.masses, 0.0)})
    beside.particles = np.concatenate([given.particles, [[0.5, -1.0, 2.0]]])
    alone, both = (velocity_of(field_of(each, "tanh", engine), each.particles) for each in (given, beside))
    np.testing.assert_allclose(both[:-1], alone, rtol=1e-13)
    assert np.abs(both[-1]).min() > 0


def test_masses_are_scaled_to_sum_to_one():
    given = case(7)
    thrice = SimpleNamespace(**{**vars(given), "masses": 3.0 * given.masses})
    np.testing.assert_allclose(field_of(thrice, "tanh").masses, given.masses, rtol=1e-15)


# Mobilities and shift


@EVERYWHERE
def test_mobilities_scale_their_blocks(engine):
    given = case(8)
    plain = velocity_of(field_of(given, "tanh", engine), given.particles)
    scaled = velocity_of(field_of(given, "tanh", engine, mobility_a=0.25, mobility_w=8.0), given.particles)
    np.testing.assert_array_equal(scaled, plain * (0.25, 8.0, 8.0))  # powers of two: exact
    frozen = velocity_of(field_of(given, "tanh", engine, mobility_w=0.0), given.particles)
    np.testing.assert_array_equal(frozen, plain * (1.0, 0.0, 0.0))


@EVERYWHERE
def test_the_shift_makes_the_predictor_start_at_zero(engine):
    """F = f - f_0: zero at the start in bits, at training and test inputs, whatever the start."""
    given = case(9, 70)
    problem = mf.Problem(
        given.inputs, given.targets, given.weights, test_inputs=-given.inputs, test_targets=given.targets
    )
    network = mf.Network("softplus", mf.Scaling(7.0, shift="initial"))
    field = DataField(network, problem, given.particles, given.masses, engine)
    state = field.state(given.particles)
    np.testing.assert_array_equal(field.predict(state), 0.0)
    np.testing.assert_array_equal(field.predict_test(state), 0.0)


@EVERYWHERE
def test_the_shift_is_a_shift_of_the_targets(engine):
    """F = f - f_0 with targets y moves like f with targets y + f_0, along a whole run."""
    given = case(9, 70)
    f_0 = oracle.predict(oracle.ACTIVATIONS["tanh"], given.particles, given.masses, given.inputs, 3.0)
    assert np.abs(f_0).max() > 0.1
    runs = []
    for targets, shift in ((given.targets, "initial"), (given.targets + f_0, None)):
        problem = mf.Problem(given.inputs, targets, given.weights)
        network = mf.Network("tanh", mf.Scaling(3.0, shift=shift))
        runs.append(
            mf.simulate(
                network,
                problem,
                given.particles,
                [0.0, 1.0, 4.0],
                masses=given.masses,
                scheme="rk4",
                dt=0.1,
                engine=engine,
            )
        )
    shifted, plain = runs
    np.testing.assert_allclose(shifted.particles, plain.particles, rtol=0, atol=1e-12)
    np.testing.assert_allclose(shifted.predictions, plain.predictions - f_0, rtol=0, atol=1e-12)
    np.testing.assert_allclose(shifted.residuals, plain.residuals, rtol=0, atol=1e-12)
    assert np.abs(shifted.particles[-1] - shifted.particles[0]).max() > 0.1


# The residual as a state (F02)


@EVERYWHERE
@EVERY
def test_the_coupled_residual_moves_by_the_kernel(name, engine):
    """r starts at y - F and dr/dt = -K P r, whatever r; the particles are driven by r, not by y - F."""
    given, activation = case(10), oracle.ACTIVATIONS[name]
    field = field_of(given, name, engine, CoupledField, alpha=0.7)
    cloud, residual = field.state(given.particles)
    f = oracle.predict(activation, given.particles, given.masses, given.inputs, 0.7)
    np.testing.assert_allclose(residual, given.targets - f, rtol=0, atol=1e-13 * np.abs(residual).max())

    other = np.random.default_rng(11).standard_normal(len(residual))
    moved, change = field.velocity((cloud, other))
    pull = given.weights * other
    kernel = oracle.kernel(activation, given.particles, given.masses, given.inputs)
    np.testing.assert_allclose(change, -kernel @ pull, rtol=0, atol=1e-12 * np.abs(change).max())
    wanted = oracle.vjp(activation, given.particles, given.inputs, pull / 0.7)
    got = field.engine.unpack(moved, len(given.particles))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
