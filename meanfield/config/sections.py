"""The sections of a run's description: every field with its bounds and its meaning.

A section has the fields of the function that it goes to, and their defaults are read from its signature (`given`), so
that none is written twice. A new problem is a section here, a place in `ProblemSection`, and an entry in
`building.PROBLEMS`.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
)
from pydantic_core import core_schema

from .. import _checks, batches, datasets, initial, population, problems, stopping, targets
from ..activations import ACTIVATIONS, biased_relu, piecewise_linear, polynomial, softplus
from ..diagnostics import DIAGNOSTICS
from ..engines import DTYPES, NAMES
from ..errors import InputError
from ..initial import GaussianLaw
from ..integrators import SCHEMES
from ..losses import LOSSES
from ..network import Network
from ..population import Population
from ..problems import TwoGaussians
from ..scaling import Scaling
from ..simulation import simulate
from ..targets import NOISE_RADII

T = TypeVar("T")


def given(function: Callable, name: str, meaning: str, **more: Any) -> Any:
    """A field with the default, if any, that the parameter `name` of `function` has."""
    default = inspect.signature(function).parameters[name].default
    usual: dict[str, Any] = {} if default is inspect.Parameter.empty else {"default": default}
    return Field(**more, **usual, description=meaning)


class Choice:
    """One of the names of a table, as an annotation."""

    def __init__(self, table):
        self.names = list(table)

    def __get_pydantic_core_schema__(self, source, handler):
        return core_schema.literal_schema(self.names)


# A field that is either plain or a table. What is neither is complained of as if it was meant to be plain.
_PLAIN_OR_TABLE = Discriminator(lambda value: "table" if isinstance(value, dict | BaseModel) else "plain")


def _kind(field: str, usual: str) -> BeforeValidator:
    """A table that does not say its `field` is of the usual kind."""
    return BeforeValidator(lambda value: {field: usual, **value} if isinstance(value, dict) else value)


def _different(names):
    if len(set(names)) < len(names):
        raise InputError(f"{list(names)} repeats a name; needed: each once.")
    return names


def _increasing(times):
    _checks.times(times)
    return times


# TOML has no null: "none" says what None says in a script. Adding 0.0 makes -0.0 plain, for one value has one digest.
OrNone = Annotated[T | None, BeforeValidator(lambda value: None if value == "none" else value)]
Few = Annotated[tuple[T, ...], Field(strict=False, max_length=100)]
# Of numbers: the first that is wrong says enough.
Several = Annotated[tuple[T, ...], Field(strict=False, fail_fast=True)]
Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
CountOrZero = Annotated[int, Field(ge=0, le=2**31 - 1)]
Frames = Annotated[int, Field(ge=2, le=10**6)]
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]  # TOML's largest
_PLUS_ZERO = AfterValidator(lambda value: value + 0.0)
Number = Annotated[float, _PLUS_ZERO]
NonNegative = Annotated[float, Field(ge=0), _PLUS_ZERO]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class Section(BaseModel):
    """Strict: no field that is not here, no text for a number, nothing infinite; and it does not change."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, frozen=True)


# Problems


class TeacherStudent(Section):
    """Gaussian inputs, targets from a few erf units."""

    kind: Literal["teacher-student"]
    dim: Count = given(problems.teacher_student, "dim", "d, dimension of the inputs")
    n: Count = given(problems.teacher_student, "n", "number of data points")
    n_test: Count = given(problems.teacher_student, "n_test", "number of test points")
    teachers: Count = given(problems.teacher_student, "teachers", "units of the teacher")
    noise: NonNegative = given(problems.teacher_student, "noise", "standard deviation of noise on the training targets")
    seed: Seed = given(problems.teacher_student, "seed", "of the teacher and the sample")


class Bilinear(Section):
    """x = +-1, y = beta x: the exactly solvable problem, for activation "linear"."""

    kind: Literal["bilinear"]
    beta: Number = given(problems.bilinear, "beta", "slope of the target")


class _Sampled(Section):
    n: Count = given(TwoGaussians.sample, "n", "number of data points")
    n_test: CountOrZero = given(TwoGaussians.sample, "n_test", "number of test points")
    seed: Seed = given(TwoGaussians.sample, "seed", "of the sample")


class Gaussians(_Sampled):
    """Two Gaussian classes, y = +1 and -1, with a standard deviation on each block of coordinates."""

    kind: Literal["two-gaussians"]
    dims: Several[Count] = given(TwoGaussians, "dims", "sizes of the blocks of coordinates", min_length=1)
    plus: Several[Positive] = given(TwoGaussians, "plus", "standard deviations of class +1, one a block", min_length=1)
    minus: Several[Positive] = given(
        TwoGaussians, "minus", "standard deviations of class -1, one a block", min_length=1
    )


class IsotropicGaussians(_Sampled):
    """Two Gaussian classes x | y ~ N(0, (1 + y delta)^2 I_d)."""

    kind: Literal["isotropic-gaussians"]
    dim: Count = given(TwoGaussians.isotropic, "dim", "d, dimension of the inputs")
    delta: Share = given(TwoGaussians.isotropic, "delta", "standard deviations are 1 +- delta")


class AnisotropicGaussians(_Sampled):
    """Two Gaussian classes that differ in the first coordinates alone."""

    kind: Literal["anisotropic-gaussians"]
    dim: Count = given(TwoGaussians.anisotropic, "dim", "d, dimension of the inputs")
    signal_dim: Count = given(TwoGaussians.anisotropic, "signal_dim", "coordinates that tell the classes apart")
    delta: Share = given(TwoGaussians.anisotropic, "delta", "standard deviations there are 1 +- delta")


def _two(groups):
    if len(groups) != 2:
        raise InputError(f"{len(groups)} groups of classes were given; needed: two, such as [[0, 1], [2]].")
    return groups


Classes = Several[Annotated[int, Field(ge=0, le=9)]]


class FashionMnist(Section):
    """Two groups of Fashion-MNIST classes, targets -1 and +1."""

    kind: Literal["fashion-mnist"]
    n_train: Count = given(datasets.fashion_mnist, "n_train", "number of training images")
    n_test: Count = given(datasets.fashion_mnist, "n_test", "number of test images")
    classes: OrNone[Annotated[Several[Classes], AfterValidator(_two)]] = given(
        datasets.fashion_mnist, "classes", "labels with target -1, and those with +1; none: 0 to 4 and 5 to 9"
    )
    pca: OrNone[Count] = given(datasets.fashion_mnist, "pca", "principal components kept; none: all pixels")
    normalize: bool = given(datasets.fashion_mnist, "normalize", "inputs of Euclidean norm 1")
    path: OrNone[FilePath] = given(datasets.fashion_mnist, "path", "folder of the IDX files; none: the shipped ones")
    loss: Annotated[str, Choice(LOSSES)] = given(datasets.fashion_mnist, "loss", "what is minimised")


class Staircase(Section):
    """x on the sphere of radius sqrt(d), target sum_l x_1 ... x_l over degrees l, scaled."""

    kind: Literal["staircase"]
    dim: Count = given(targets.staircase, "dim", "d, dimension of the inputs")
    n: Count = given(targets.staircase, "n", "number of data points")
    n_test: Count = given(targets.staircase, "n_test", "number of test points")
    degrees: Several[Count] = given(targets.staircase, "degrees", "degrees of the terms, each once", min_length=1)
    seed: Seed = given(targets.staircase, "seed", "of the sample")


class SingleNeuron(Section):
    """x on the sphere of radius sqrt(d), target one relu neuron."""

    kind: Literal["single-neuron"]
    dim: Count = given(targets.single_neuron, "dim", "d, dimension of the inputs, at least 2")
    n: Count = given(targets.single_neuron, "n", "number of data points")
    n_test: Count = given(targets.single_neuron, "n_test", "number of test points")
    threshold: Number = given(targets.single_neuron, "threshold", "of the neuron; below sqrt(d)")
    seed: Seed = given(targets.single_neuron, "seed", "of the neuron and the sample")


class Spiked(Section):
    """Spiked covariates: a target of the first coordinates, noise in the others."""

    kind: Literal["spiked"]
    dim: Count = given(targets.spiked, "dim", "d, dimension of the inputs")
    signal_dim: Count = given(targets.spiked, "signal_dim", "d_0, coordinates of the target, from 2 to d - 1")
    n: Count = given(targets.spiked, "n", "number of data points")
    n_test: Count = given(targets.spiked, "n_test", "number of test points")
    spike: Positive = given(targets.spiked, "spike", "r, size of a signal coordinate")
    noise: Annotated[str, Choice(NOISE_RADII)] = given(targets.spiked, "noise", "radius of the noise coordinates")
    seed: Seed = given(targets.spiked, "seed", "of target and sample")


class ThreeSpin(Section):
    """x on the sphere of radius sqrt(d), target the 3-spin function."""

    kind: Literal["three-spin"]
    dim: Count = given(targets.three_spin, "dim", "d, dimension of the inputs")
    n: Count = given(targets.three_spin, "n", "number of data points")
    n_test: Count = given(targets.three_spin, "n_test", "number of test points")
    seed: Seed = given(targets.three_spin, "seed", "of couplings and sample")


class Quadratic(Section):
    """x ~ N(0, I_d), target x'Bx - tr B."""

    kind: Literal["quadratic"]
    dim: Count = given(targets.quadratic, "dim", "d, dimension of the inputs")
    n: Count = given(targets.quadratic, "n", "number of data points")
    n_test: Count = given(targets.quadratic, "n_test", "number of test points")
    matrix: OrNone[Several[Several[Number]]] = given(
        targets.quadratic, "matrix", "B, a list of rows, symmetric; none: random, of E f*^2 = 1"
    )
    seed: Seed = given(targets.quadratic, "seed", "of matrix and sample")


class Softplus(Section):
    """prefactor/beta log(1 + e^(beta z))."""

    family: Literal["softplus"]
    beta: Positive = given(softplus, "beta", "sharpness of the kink")
    prefactor: Number = given(softplus, "prefactor", "slope at infinity")


class PolynomialUnits(Section):
    """sum_k c_k z^k to degree 4."""

    family: Literal["polynomial"]
    coefficients: Several[Number] = given(
        polynomial, "coefficients", "c_0, c_1, ..., up to five", min_length=1, max_length=5
    )
    hermite: bool = given(polynomial, "hermite", "coefficients of Hermite polynomials He_k, not of powers")


class PiecewiseLinearUnits(Section):
    """Linear between points, constant outside."""

    family: Literal["piecewise_linear"]
    knots: Several[Number] = given(piecewise_linear, "knots", "where it bends, increasing", min_length=2, max_length=4)
    values: Several[Number] = given(piecewise_linear, "values", "phi at the knots", min_length=2, max_length=4)


class BiasedRelu(Section):
    """max(z - threshold, 0)."""

    family: Literal["biased_relu"]
    threshold: Number = given(biased_relu, "threshold", "where the unit begins")


Family = Annotated[Softplus | PolynomialUnits | PiecewiseLinearUnits | BiasedRelu, Field(discriminator="family")]
Units = Annotated[Annotated[str, Choice(ACTIVATIONS), Tag("plain")] | Annotated[Family, Tag("table")], _PLAIN_OR_TABLE]


class PopulationRisk(Section):
    """The population risk of a law of inputs and a teacher, in closed form: no sample."""

    kind: Literal["population"]
    dim: Count = given(population.teacher, "dim", "d, dimension of the inputs")
    units: Count = given(population.teacher, "units", "M, units of the teacher")
    heights: OrNone[Several[Number]] = given(
        population.teacher, "heights", "output weights of the teacher; none: +-1/sqrt(M) in turn"
    )
    teacher_seed: Seed = given(population.teacher, "seed", "of the teacher's directions")
    activation: Units = given(Population, "activation", "the teacher's, and the network's that is to learn it")
    inputs: Literal["gaussian", "sphere"] = given(Population, "inputs", "law of the inputs")
    probes: Count = given(Population, "probes", "inputs at which predictions are recorded")
    seed: Seed = given(Population, "seed", "of the probes")


class Arrays(Section):
    """Arrays of an HDF5 file: inputs, targets; weights, test_inputs and test_targets if they are there."""

    kind: Literal["arrays"]
    path: FilePath = Field(description="file that trajectories.write_arrays wrote; relative to the working directory")
    loss: Annotated[str, Choice(LOSSES)] = given(problems.Problem, "loss", "what is minimised")


ProblemSection = Annotated[
    TeacherStudent
    | Bilinear
    | Gaussians
    | IsotropicGaussians
    | AnisotropicGaussians
    | FashionMnist
    | Staircase
    | SingleNeuron
    | Spiked
    | ThreeSpin
    | Quadratic
    | PopulationRisk
    | Arrays,
    Field(discriminator="kind"),
]


# The network

_WIDTH = "width of the network; none: the number of particles at the start"
Shift = OrNone[
    Annotated[
        Annotated[Literal["initial"], Tag("word")] | Annotated[Number, Tag("number")],
        Discriminator(lambda value: "word" if isinstance(value, str) else "number"),
    ]
]


class Alpha(Section):
    """The canonical convention: f = alpha sum_i m_i a_i phi(w_i . x)."""

    kind: Literal["alpha"] = "alpha"
    alpha: Positive = given(Scaling, "alpha", "factor of f: O(1) mean field, O(sqrt N) NTK")
    mobility_a: NonNegative = given(Scaling, "mobility_a", "xi_a, factor on the velocity of the output weights")
    mobility_w: NonNegative = given(Scaling, "mobility_w", "xi_w, factor on the velocity of the inner weights")
    shift: Shift = given(Scaling, "shift", 'F = f - s f_0: none (s = 0), "initial" (s = 1) or s')
    input_scale: Positive = given(Scaling, "input_scale", "factor on the inputs")
    time_scale: Positive = given(Scaling, "time_scale", "native time per unit of flow time")


class MeanField(Section):
    """alpha = 1."""

    kind: Literal["mean-field"]


class Ntk(Section):
    """alpha = c sqrt(N), learning f - f_0."""

    kind: Literal["ntk"]
    n_particles: OrNone[Count] = Field(default=None, description=_WIDTH)
    c: Positive = given(Scaling.ntk, "c", "alpha over sqrt(N)")
    shift: Shift = given(Scaling.ntk, "shift", 'F = f - s f_0: none (s = 0), "initial" (s = 1) or s')


class Geiger(Section):
    """Geiger, Spigler, Jacot & Wyart (arXiv 1906.08034)."""

    kind: Literal["geiger"]
    alpha: Positive = given(Scaling.geiger, "alpha", "their alpha")
    h: OrNone[Count] = Field(default=None, description=_WIDTH)
    dim: Count = given(Scaling.geiger, "dim", "d, whose root divides the inputs; 1 leaves them as they are")
    loss: Literal["half-square", "square"] = given(Scaling.geiger, "loss", "their loss, which sets their clock")
    form: Literal["paper", "code"] = given(Scaling.geiger, "form", "their clock in print or in their code")


class _Golikov(Section):
    d: OrNone[Count] = Field(default=None, description=_WIDTH)
    d_star: Count = given(Scaling.golikov, "d_star", "width of the reference")
    sigma: Positive = given(Scaling.golikov, "sigma", "scale of the output weights at d = d_star")
    eta_a: Positive = given(Scaling.golikov, "eta_a", "rate of the output weights at d = d_star")
    eta_w: Positive = given(Scaling.golikov, "eta_w", "rate of the inner weights at d = d_star")


class Golikov(_Golikov):
    """Golikov (arXiv 2003.05884, 2006.06574)."""

    kind: Literal["golikov"]
    q_sigma: Number = given(Scaling.golikov, "q_sigma", "exponent of the scale of the output weights in the width")
    q_tilde_a: Number = given(Scaling.golikov, "q_tilde_a", "exponent of the output weights' rate")
    q_tilde_w: Number = given(Scaling.golikov, "q_tilde_w", "exponent of the inner weights' rate")


class SymDefault(_Golikov):
    """Golikov's exponents (-1/2, 1/2, 1/2)."""

    kind: Literal["sym-default"]


class Default(_Golikov):
    """Golikov's exponents (-1/2, 1, 0)."""

    kind: Literal["default"]


class IcMf(_Golikov):
    """Golikov's mean field with the initial network corrected."""

    kind: Literal["ic-mf"]
    subtracted: bool = given(Scaling.ic_mf, "subtracted", "frozen term less the initial network's own")


class Raw(Section):
    """f = sum_i A_i phi(w_i . x) with one rate for both layers."""

    kind: Literal["raw"]
    n_particles: OrNone[Count] = Field(default=None, description=_WIDTH)
    sigma_a: Positive = given(Scaling.raw, "sigma_a", "standard deviation of A")
    eta: Positive = given(Scaling.raw, "eta", "learning rate")


class ChizatBach(Section):
    """Chizat & Bach (arXiv 1805.09545)."""

    kind: Literal["chizat-bach"]


class Cob19(Section):
    """Chizat, Oyallon & Bach (arXiv 1812.07956)."""

    kind: Literal["cob19"]
    m: OrNone[Count] = Field(default=None, description=_WIDTH)
    alpha: Positive = given(Scaling.cob19, "alpha", "their alpha")
    form: Literal["sqrt", "mean", "sum"] = given(Scaling.cob19, "form", "what their h is")


class Mmn18(Section):
    """Mei, Montanari & Nguyen (arXiv 1804.06561)."""

    kind: Literal["mmn18"]


ScalingSection = Annotated[
    Alpha | MeanField | Ntk | Geiger | Golikov | SymDefault | Default | IcMf | Raw | ChizatBach | Cob19 | Mmn18,
    Field(discriminator="kind"),
    _kind("kind", "alpha"),
]


class NetworkSection(Section):
    """An activation, a bias and a scaling."""

    activation: Units = given(Network, "activation", "a name, or a table of a family and its parameters")
    bias: NonNegative = given(Network, "bias", "beta, a last input that is always beta; 0: no bias")
    scaling: ScalingSection = Field(
        default=Alpha(), description="the canonical alpha, or a convention of the literature"
    )


# The start


class _Law(Section):
    sigma_a: NonNegative = given(GaussianLaw, "sigma_a", "standard deviation of the output weights a")
    sigma_w: Positive = given(GaussianLaw, "sigma_w", "standard deviation of the inner weights w")
    mean_a: Number = given(GaussianLaw, "mean_a", "mean of the output weights a")


class GaussianStart(_Law):
    """Independent Gaussian particles."""

    law: Literal["gaussian"] = "gaussian"
    n_particles: Count = given(initial.gaussian, "n_particles", "N, number of particles")
    seed: Seed = given(initial.gaussian, "seed", "of the particles")
    paired: bool = given(initial.gaussian, "paired", "pairs (a, w), (-a, w), so that f_0 = 0; N even, mean_a 0")


class SobolStart(_Law):
    """Scrambled Sobol points of the Gaussian law, equal masses."""

    law: Literal["sobol"]
    n_nodes: Count = given(initial.sobol, "n_nodes", "number of points, a power of two")
    seed: Seed = given(initial.sobol, "seed", "of the scramble")
    paired: bool = given(initial.sobol, "paired", "half as many points, as (a, w) and (-a, w)")


class GaussHermiteStart(_Law):
    """Tensor Gauss-Hermite nodes of the Gaussian law, with their masses."""

    law: Literal["gauss-hermite"]
    order: Annotated[int, Field(ge=1, le=4096)] = given(
        initial.gauss_hermite, "order", "nodes an axis, order^(1 + d) in all"
    )


StartSection = Annotated[
    GaussianStart | SobolStart | GaussHermiteStart, Field(discriminator="law"), _kind("law", "gaussian")
]


# The run


class Grid(Section):
    """Flow times from `first` to `end`, at equal distances or equal ratios."""

    end: Positive = Field(description="last flow time")
    frames: Frames = Field(default=50, description="number of times, the first and the last included")
    spacing: Literal["linear", "log"] = Field(default="linear", description="equal distances or equal ratios")
    first: OrNone[NonNegative] = Field(default=None, description="first time; none: 0, or end / 1000 if log")


Times = Annotated[
    Annotated[Several[NonNegative], Field(min_length=1, max_length=10**6), AfterValidator(_increasing), Tag("plain")]
    | Annotated[Grid, Tag("table")],
    _PLAIN_OR_TABLE,
]


class Margin(Section):
    """y F(x) >= least at every training input, y = +-1."""

    kind: Literal["margin"]
    least: Number = given(stopping.margin, "least", "margin of all training inputs")


class RiskBelow(Section):
    """sum_k p_k (y_k - F(x_k))^2 < below."""

    kind: Literal["risk"]
    below: Positive = given(stopping.risk, "below", "risk at which the run ends")


class LossBelow(Section):
    """sum_k p_k l(F(x_k), y_k) < below."""

    kind: Literal["loss"]
    below: Positive = given(stopping.loss, "below", "loss at which the run ends")


class SpeedBelow(Section):
    """sqrt(sum_i m_i |v_i|^2) < below."""

    kind: Literal["speed"]
    below: Positive = given(stopping.speed, "below", "speed of the particles, per unit of flow time")


Stop = Annotated[Margin | RiskBelow | LossBelow | SpeedBelow, Field(discriminator="kind")]


class Minibatch(Section):
    """Data points of the problem for each step, without replacement."""

    kind: Literal["minibatch"]
    size: Count = given(batches.minibatch, "size", "data points a step")
    seed: Seed = given(batches.minibatch, "seed", "of the draws")


class Fresh(Section):
    """New data for each step: of two Gaussian classes, whose law can be drawn from."""

    kind: Literal["fresh"]
    size: Count = given(batches.fresh, "size", "data points a step")
    seed: Seed = given(batches.fresh, "seed", "of the draws")


BatchKind = Annotated[Minibatch | Fresh, Field(discriminator="kind")]


class RunSection(Section):
    """How the flow is integrated and what is recorded."""

    times: Times = given(simulate, "times", "flow times at which the run is recorded: increasing, or a table")
    coupled: bool = Field(default=False, description="integrate the residual beside the particles (simulate_coupled)")
    scheme: Annotated[str, Choice(SCHEMES)] = given(simulate, "scheme", "time integrator")
    rtol: Positive = given(simulate, "rtol", "relative tolerance of adaptive steps")
    atol: Positive = given(simulate, "atol", "absolute tolerance of adaptive steps, in units of a parameter")
    dt: OrNone[Positive] = given(simulate, "dt", "largest fixed step, in flow time; none: adaptive steps")
    engine: Annotated[str, Choice(NAMES)] = given(simulate, "engine", "what computes")
    dtype: Annotated[str, Choice(DTYPES)] = given(simulate, "dtype", "precision of the particles")
    record: Annotated[Few[Annotated[str, Choice(DIAGNOSTICS)]], AfterValidator(_different)] = given(
        simulate, "record", "what is measured at every time"
    )
    keep: Literal["all", "last"] = given(simulate, "keep", "particles that stay in memory: at all times or the last")
    max_steps: Count = given(simulate, "max_steps", "most steps tried, in all")
    max_bytes: OrNone[Positive] = given(simulate, "max_bytes", "most memory, in bytes; none: 80 % of what is free")
    stop: Few[Stop] = given(simulate, "stop", "criteria of which the first that holds ends the run")
    ridge: NonNegative = given(simulate, "ridge", "lambda, of (lambda/2) alpha^2 sum_i m_i |theta_i|^2")
    temperature: NonNegative = given(simulate, "temperature", 'tau, of the noise; needs scheme "euler" with dt')
    noise_seed: Seed = given(simulate, "noise_seed", "of the noise")
    momentum: NonNegative = given(simulate, "momentum", "its delay tau, in flow time; 0: none")
    batches: OrNone[BatchKind] = given(simulate, "batches", 'data of each step; needs scheme "euler" with dt')


class OutputSection(Section):
    """What is written, and how often."""

    save_dtype: Annotated[str, Choice(DTYPES)] = Field(default="float64", description="precision of particles on file")
    velocities: bool = Field(default=False, description="write velocities beside the particles")
    live: bool = Field(default=False, description="let the file be read while the run goes on")
    checkpoint_seconds: Positive = Field(default=60.0, description="wall-clock seconds between checkpoints")
    record_times: OrNone[Times] = Field(default=None, description="flow times that are written; none: run.times")
    compression: Literal["none", "blosc2"] = Field(default="none", description="of the arrays on file")


class RunConfig(Section):
    """A run, described: what is learned, by what, from where, how, and what is written."""

    name: Annotated[str, Field(max_length=200)] = Field(default="", description="what the run is called")
    description: Annotated[str, Field(max_length=10_000)] = Field(default="", description="what it is for")
    problem: ProblemSection = Field(description="what is learned")
    network: NetworkSection = Field(description="what learns it")
    start: StartSection = Field(description="particles at flow time 0")
    run: RunSection = Field(description="how the flow is integrated")
    output: OutputSection = Field(default=OutputSection(), description="what is written")
