"""From a `RunConfig` to what `simulate` takes: each section to the function that it describes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import _checks, _memory, batches, datasets, initial, population, problems, stopping, targets
from ..activations import FAMILIES, Activation
from ..errors import InputError
from ..initial import GaussianLaw, Quadrature
from ..network import Network
from ..population import Population
from ..problems import Problem, TwoGaussians
from ..scaling import Scaling
from ..simulation import Run, simulate, simulate_coupled
from .sections import Grid, RunConfig, RunSection, Section


class Built(NamedTuple):
    """What a config describes: function(network, problem, start, masses=masses, **arguments) is the run.

    masses : (N,), or None for 1/N each
    arguments : keyword arguments of the function, `times` among them
    function : `simulate` or `simulate_coupled`
    """

    network: Network
    problem: Problem
    start: np.ndarray
    masses: np.ndarray | None
    arguments: dict[str, Any]
    function: Callable[..., Run]


def build(config: RunConfig) -> Built:
    """The network, problem, start and arguments that a config describes.

    Raises
    ------
    InputError
        Where fields that are each in range do not fit together, a file is not there, or it takes more than 80 % of
        the free memory.
    """
    _checks.instance(config, RunConfig, "config", "a RunConfig, from config.load or config.parse")
    try:
        with np.errstate(all="ignore"):  # what leaves the finite numbers is refused where it is looked at
            return _built(config)
    except (OverflowError, ZeroDivisionError, np.linalg.LinAlgError) as problem:
        raise InputError(f"the config leaves the range of numbers ({problem}); needed: moderate ones.") from problem
    except MemoryError as problem:
        raise InputError(f"the config needs more memory than there is ({problem}); needed: smaller sizes.") from problem
    except OSError as problem:
        raise InputError(f"a file of the config cannot be read ({problem}); needed: another path.") from problem


def _built(config: RunConfig) -> Built:
    needed = {"arrays": 8.0 * ENTRIES.get(config.problem.kind, lambda given: 0)(config.problem)}
    _memory.check(needed, f"problem {config.problem.kind!r}", "Use smaller sizes", adjustable=False)
    problem = PROBLEMS[config.problem.kind](**_arguments(config.problem, "kind"))
    activation, bias = _activation(config.network.activation), config.network.bias
    law = _arguments(config.start, "law")
    dim = Network(activation, bias=bias).seen(problem.dim)
    start, masses = STARTS[config.start.law](dim, **law)
    network = Network(activation, _scaling(config.network.scaling, len(start)), bias)
    if isinstance(problem, Population):
        population.check_units(network, problem)
    return Built(network, problem, start, masses, arguments(config), _function(config))


def _arguments(section: Section, *without: str) -> dict[str, Any]:
    return {name: getattr(section, name) for name in type(section).model_fields if name not in without}


def _activation(given) -> str | Activation:
    return given if isinstance(given, str) else FAMILIES[given.family](**_arguments(given, "family"))


def flow_times(given: tuple[float, ...] | Grid) -> np.ndarray:
    """The flow times of a list or of a `Grid`. Raises InputError where they do not increase."""
    if not isinstance(given, Grid):
        return _checks.times(given)
    first = given.first if given.first is not None else given.end / 1000.0 if given.spacing == "log" else 0.0
    if not first < given.end or (given.spacing == "log" and first == 0.0):
        raise InputError(
            f"times from {first:g} to {given.end:g}, spacing {given.spacing!r}; needed: first below end"
            f"{', and above 0' if given.spacing == 'log' else ''}."
        )
    spaced = np.geomspace if given.spacing == "log" else np.linspace
    return _checks.times(spaced(first, given.end, given.frames))


def _function(config: RunConfig) -> Callable[..., Run]:
    return simulate_coupled if config.run.coupled else simulate


def arguments(config: RunConfig) -> dict[str, Any]:
    """`Built.arguments` alone: neither problem nor start is made. Raises InputError as `build` does."""
    found = _arguments(config.run, "coupled")
    taken = inspect.signature(_function(config)).parameters
    for name in [name for name in found if name not in taken]:
        value = found.pop(name)
        if value != RunSection.model_fields[name].default:
            raise InputError(
                f"run.{name} is {value!r} with run.coupled; needed: one of them, for simulate_coupled has none."
            )
    made = {"times": flow_times(config.run.times), "stop": [_criterion(each) for each in config.run.stop]}
    if config.run.batches is not None and not config.run.coupled:
        made["batches"] = _batches(config)
    return {**found, **made}


def _criterion(given) -> stopping.Criterion:
    return stopping.CRITERIA[given.kind](**_arguments(given, "kind"))


def _batches(config: RunConfig) -> batches.Batches:
    given: Any = config.run.batches
    options = _arguments(given, "kind")
    if given.kind == "fresh":
        kind = config.problem.kind
        if kind not in LAWS:
            raise InputError(
                f"run.batches are fresh with problem {kind!r}, whose law is not known; needed: minibatch, or one of "
                f"{', '.join(LAWS)}."
            )
        options["draw"] = LAWS[kind](**_arguments(config.problem, "kind", "n", "n_test", "seed")).draw
    return batches.BATCHES[given.kind](**options)


def _scaling(given, n_particles: int) -> Scaling:
    options = _arguments(given, "kind")
    width = WIDTHS.get(given.kind)
    if width and options[width] is None:
        options[width] = n_particles
    return SCALINGS[given.kind](**options)


def _sampled(law: Callable[..., TwoGaussians]) -> Callable[..., Problem]:
    return lambda n, n_test, seed, **options: law(**options).sample(n, n_test, seed)


def _population(dim, units, heights, teacher_seed, activation, inputs, probes, seed) -> Population:
    atoms = population.teacher(dim, units, teacher_seed, heights)
    return Population(atoms, _activation(activation), inputs=inputs, probes=probes, seed=seed)


def _from_file(path, loss) -> Problem:
    from ..trajectories import read_arrays  # h5py takes a while to load

    arrays, _ = read_arrays(path)
    if missing := [name for name in ("inputs", "targets") if name not in arrays]:
        raise InputError(f"{path} has no array {' and no '.join(missing)}; needed: inputs (n, d) and targets (n,).")
    rest = {name: arrays.get(name) for name in ("weights", "test_inputs", "test_targets")}
    return Problem(arrays["inputs"], arrays["targets"], loss=loss, name="arrays", **rest)


def _gaussian(dim, n_particles, seed, paired, **law) -> tuple[np.ndarray, None]:
    return initial.gaussian(n_particles, dim, seed, paired=paired, **law), None


def _sobol(dim, n_nodes, seed, paired, **law) -> Quadrature:
    return initial.sobol(GaussianLaw(dim, **law), n_nodes, seed, paired=paired)


def _gauss_hermite(dim, order, **law) -> Quadrature:
    rule = GaussianLaw(dim, **law)
    nodes = min(order ** (1 + dim), 2**24)  # beyond which it is refused
    _memory.check({"nodes": 300.0 * nodes}, f"{nodes:,} nodes", "Use a lower order, or sobol", adjustable=False)
    return initial.gauss_hermite(rule, order)


LAWS: Mapping[str, Callable[..., TwoGaussians]] = {
    "two-gaussians": TwoGaussians,
    "isotropic-gaussians": TwoGaussians.isotropic,
    "anisotropic-gaussians": TwoGaussians.anisotropic,
}
PROBLEMS: Mapping[str, Callable[..., Problem]] = {
    "teacher-student": problems.teacher_student,
    "bilinear": problems.bilinear,
    **{kind: _sampled(law) for kind, law in LAWS.items()},
    "fashion-mnist": datasets.fashion_mnist,
    "staircase": targets.staircase,
    "single-neuron": targets.single_neuron,
    "spiked": targets.spiked,
    "three-spin": targets.three_spin,
    "quadratic": targets.quadratic,
    "population": _population,
    "arrays": _from_file,
}
STARTS: Mapping[str, Callable[..., tuple]] = {
    "gaussian": _gaussian,
    "sobol": _sobol,
    "gauss-hermite": _gauss_hermite,
}
SCALINGS: Mapping[str, Callable[..., Scaling]] = {
    "alpha": Scaling,
    "mean-field": Scaling.mean_field,
    "ntk": Scaling.ntk,
    "geiger": Scaling.geiger,
    "golikov": Scaling.golikov,
    "sym-default": Scaling.sym_default,
    "default": Scaling.default,
    "ic-mf": Scaling.ic_mf,
    "raw": Scaling.raw,
    "chizat-bach": Scaling.chizat_bach,
    "cob19": Scaling.cob19,
    "mmn18": Scaling.mmn18,
}
# What a convention calls the width of the network.
WIDTHS = {
    "ntk": "n_particles", "geiger": "h", "golikov": "d", "sym-default": "d", "default": "d", "ic-mf": "d",
    "raw": "n_particles", "cob19": "m",
}  # fmt: skip


def _of_two_gaussians(dim, given):
    return 4 * (given.n + given.n_test) * dim


# Numbers that a builder holds at once, where it does not hold them against the memory itself.
ENTRIES: Mapping[str, Callable[[Any], int]] = {
    "teacher-student": lambda given: (given.n + given.n_test + given.teachers) * (3 * given.dim + 2 * given.teachers),
    "two-gaussians": lambda given: _of_two_gaussians(sum(given.dims), given),
    "isotropic-gaussians": lambda given: _of_two_gaussians(given.dim, given),
    "anisotropic-gaussians": lambda given: _of_two_gaussians(given.dim, given),
    "staircase": lambda given: (given.n + given.n_test) * (given.dim + 2 * len(given.degrees)),
    "single-neuron": lambda given: 4 * (64 + 2 * given.dim) ** 2,
    "spiked": lambda given: (given.n + given.n_test) * 8 * given.signal_dim,
    "three-spin": lambda given: 8 * given.dim**3,
    "quadratic": lambda given: 6 * given.dim**2,
    "population": lambda given: (given.probes + given.units) * (3 * given.dim + 4 * given.units),
}
