"""Configs: read strictly, refused by name, built as a script would build them; mutants by the thousand."""

import copy
import inspect
import json
import math
import os
import random
import re
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict

import meanfield as mf
from meanfield import activations, batches, config, datasets, errors, initial, population, problems, stopping, targets
from meanfield.activations import ACTIVATIONS
from meanfield.config import building, reading, sections
from meanfield.errors import InputError
from meanfield.losses import LOSSES
from meanfield.problems import TwoGaussians
from meanfield.scaling import Scaling
from meanfield.trajectories import write_arrays

DOCS = Path(__file__).parent.parent / "docs"
MUTANTS = int(os.environ.get("MEANFIELD_CONFIGS", "2000"))

SMALL = """
[problem]
kind = "teacher-student"
n = 20
n_test = 4
dim = 2
[network]
activation = "tanh"
[start]
n_particles = 8
[run]
times = [0.0, 0.5]
"""
# A table for each problem, convention and start, with what has no default.
PROBLEM_TABLES = {
    "teacher-student": "n = 20, dim = 2, n_test = 3",
    "bilinear": "beta = 2",
    "two-gaussians": "n = 9, n_test = 2, dims = [2, 1], plus = [1.5, 1], minus = [0.5, 1.0]",
    "isotropic-gaussians": "n = 9, dim = 3",
    "anisotropic-gaussians": "n = 9, dim = 4, signal_dim = 2",
    "fashion-mnist": "n_train = 12, n_test = 10, pca = 3, classes = [[1], [2, 0]]",
    "staircase": "n = 9, n_test = 5, dim = 4, degrees = [1, 3]",
    "single-neuron": "n = 9, n_test = 5, dim = 4, threshold = 0.5",
    "spiked": 'n = 9, n_test = 5, dim = 6, signal_dim = 3, noise = "printed"',
    "three-spin": "n = 9, n_test = 5, dim = 3",
    "quadratic": "n = 9, n_test = 5, dim = 2, matrix = [[1.0, 0.5], [0.5, 0]]",
    "population": 'dim = 3, units = 2, heights = [1.0, -2], inputs = "sphere", activation = "relu", probes = 5',
    "arrays": 'path = "no.h5"',
}
SCALING_TABLES = {
    "alpha": 'alpha = 2.0, mobility_a = 0.0, shift = "initial"',
    "mean-field": "",
    "ntk": 'c = 0.5, shift = "none"',
    "geiger": 'alpha = 3.0, dim = 4, form = "code"',
    "golikov": "d_star = 4, q_sigma = -1.0, q_tilde_a = 1.0, q_tilde_w = 0.5, sigma = 2.0",
    "sym-default": "d_star = 4",
    "default": "d_star = 4, d = 16",
    "ic-mf": "d_star = 4, subtracted = true",
    "raw": "sigma_a = 0.5",
    "chizat-bach": "",
    "cob19": 'alpha = 2.0, form = "mean"',
    "mmn18": "",
}
START_TABLES = {
    "gaussian": "n_particles = 8, paired = true, sigma_w = 0.5",
    "sobol": "n_nodes = 16, mean_a = 1.0",
    "gauss-hermite": "order = 3",
}
STOPS = {"margin": "least = 0.5", "risk": "below = 0.1", "loss": "below = 0.1", "speed": "below = 0.1"}
FAMILY_TABLES = {
    "softplus": "beta = 2.0",
    "polynomial": "coefficients = [0.0, 1.0], hermite = true",
    "piecewise_linear": "knots = [0.0, 1], values = [0.0, 1]",
    "biased_relu": "threshold = 0.1",
}


def tabled(kind, rest, key="kind"):
    return f'{{ {key} = "{kind}"{", " + rest if rest else ""} }}'


def variants():
    """Texts of small configs that between them use every section."""
    found = dict(config.EXAMPLES)
    changes = [
        *(f"problem={tabled(kind, rest)}" for kind, rest in PROBLEM_TABLES.items()),
        *(f"network.scaling={tabled(kind, rest)}" for kind, rest in SCALING_TABLES.items()),
        *(f"start={tabled(law, rest, 'law')}" for law, rest in START_TABLES.items()),
        *(f"network.activation={tabled(family, rest, 'family')}" for family, rest in FAMILY_TABLES.items()),
        f"run.stop=[{', '.join(tabled(kind, rest) for kind, rest in STOPS.items())}]",
        'run.times={ end = 2, frames = 3, spacing = "log", first = 0.1 }',
    ]
    for each in changes:
        field, _, value = each.partition("=")
        data = reading._toml(SMALL, "small")
        reading._set(data, field.split("."), reading._value(value, field))
        found[each[:60]] = toml(data)
    return found


def toml(data):
    """TOML of nested dicts, lists, text and numbers; not by the package, which writes none."""
    return "\n".join(f"{json.dumps(name)} = {inline(value)}" for name, value in data.items())


def inline(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {inline(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    if isinstance(value, float):
        return repr(value) if "e" in repr(value) or not math.isfinite(value) else f"{value!r}"
    return json.dumps(value)


VARIANTS = variants()


def refusal(text, *, by=config.parse):
    with pytest.raises(InputError) as caught:
        by(text)
    return str(caught.value)


# Examples


@pytest.mark.parametrize("name", config.EXAMPLES)
def test_an_example_parses_returns_and_runs(name):
    """Through JSON and back it is the same; the risk or the loss falls to less than nine tenths."""
    described = config.parse(config.example(name))
    assert described.name == name and described.description
    again = config.from_json(config.to_json(described))
    assert again == described and config.digest(again) == config.digest(described)
    built = config.build(described)
    run = built.function(built.network, built.problem, built.start, masses=built.masses, **built.arguments)
    first = next(iter(run.records.values()))
    assert first[-1] < 0.9 * first[0]
    assert list(run.records) == list(described.run.record)


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_json_is_the_inverse(text):
    """from_json(to_json(c)) is c, for every section there is; no null is lost, no integer made of a float."""
    described = config.parse(text)
    written = config.to_json(described)
    assert config.from_json(written) == described and config.to_json(config.from_json(written)) == written
    assert "NaN" not in written and json.loads(written)["network"]


def test_the_digest_is_of_what_is_said_and_not_of_how():
    """Order, comments, 1 for 1.0, -0.0 for 0.0 and named defaults change nothing; a value does."""
    told = "[start]\nmean_a = -0.0\nn_particles = 8 # eight\n" + SMALL.replace("[start]\nn_particles = 8\n", "")
    same = config.override(told, ["network.scaling.alpha=1", "run.dt=none", "problem.noise=0"])
    assert config.digest(same) == config.digest(config.parse(SMALL))
    assert len(config.digest(same)) == 64
    other = config.override(SMALL, ["network.scaling.alpha=1.0000000000000002"])
    assert config.digest(other) != config.digest(same)


# Defaults


CALLS = [
    (sections.TeacherStudent, problems.teacher_student, {}),
    (sections.Bilinear, problems.bilinear, {}),
    (sections.Gaussians, [TwoGaussians, TwoGaussians.sample], {}),
    (sections.IsotropicGaussians, [TwoGaussians.isotropic, TwoGaussians.sample], {}),
    (sections.AnisotropicGaussians, [TwoGaussians.anisotropic, TwoGaussians.sample], {}),
    (sections.FashionMnist, datasets.fashion_mnist, {}),
    (sections.Staircase, targets.staircase, {}),
    (sections.SingleNeuron, targets.single_neuron, {}),
    (sections.Spiked, targets.spiked, {}),
    (sections.ThreeSpin, targets.three_spin, {}),
    (sections.Quadratic, targets.quadratic, {}),
    (sections.PopulationRisk, [population.Population, population.teacher], {"without": {"teacher", "teacher_seed"}}),
    (sections.Arrays, problems.Problem, {"only": {"loss"}, "without": {"path"}}),
    (sections.NetworkSection, mf.Network, {"without": {"scaling"}}),
    (sections.Alpha, Scaling, {}),
    (sections.MeanField, Scaling.mean_field, {}),
    (sections.Ntk, Scaling.ntk, {}),
    (sections.Geiger, Scaling.geiger, {}),
    (sections.Golikov, Scaling.golikov, {}),
    (sections.IcMf, [Scaling.ic_mf, Scaling.golikov], {"without": {"options", "q_sigma", "q_tilde_a", "q_tilde_w"}}),
    (sections.Raw, Scaling.raw, {}),
    (sections.ChizatBach, Scaling.chizat_bach, {}),
    (sections.Cob19, Scaling.cob19, {}),
    (sections.Mmn18, Scaling.mmn18, {}),
    (sections.GaussianStart, initial.gaussian, {"without": {"dim"}}),
    (sections.SobolStart, [initial.sobol, initial.GaussianLaw], {"without": {"dim", "law"}}),
    (sections.GaussHermiteStart, [initial.gauss_hermite, initial.GaussianLaw], {"without": {"dim", "law"}}),
    (sections.Softplus, activations.softplus, {}),
    (sections.PolynomialUnits, activations.polynomial, {}),
    (sections.PiecewiseLinearUnits, activations.piecewise_linear, {}),
    (sections.BiasedRelu, activations.biased_relu, {}),
    (sections.Margin, stopping.margin, {}),
    (sections.RiskBelow, stopping.risk, {}),
    (sections.LossBelow, stopping.loss, {}),
    (sections.SpeedBelow, stopping.speed, {}),
    (sections.Minibatch, batches.minibatch, {}),
    (sections.Fresh, batches.fresh, {"without": {"draw"}}),
    (
        sections.RunSection,
        mf.simulate,
        {"without": {"network", "problem", "start", "masses", "progress", "coupled", "record_times", "out"}},
    ),
    (sections.OutputSection, mf.Output, {"without": {"path", "overwrite", "config", "values", "record_times"}}),
]


def mismatches(section, functions, only=None, without=frozenset()):
    """What a section's fields and the parameters of its functions do not share: names and defaults."""
    parameters, functions = {}, functions if isinstance(functions, list) else [functions]
    for each in functions:
        parameters = {**inspect.signature(each).parameters, **parameters}
    parameters = {
        name: each for name, each in parameters.items() if name not in {"self", *without} and name in (only or {name})
    }
    fields = {
        name: each for name, each in section.model_fields.items() if name not in {"kind", "law", "family", *without}
    }
    wrong = sorted(parameters.keys() ^ fields.keys())
    for name in parameters.keys() & fields.keys():
        default = parameters[name].default
        # A convention's width may be left out: it is the start's number of particles.
        is_width = getattr(functions[0], "__self__", None) is Scaling and name in building.WIDTHS.values()
        needed = default is inspect.Parameter.empty and not is_width
        if needed != fields[name].is_required() or not (
            default is inspect.Parameter.empty or fields[name].default == default
        ):
            wrong.append(name)
    return wrong


@pytest.mark.parametrize(("section", "functions", "options"), CALLS, ids=[each[0].__name__ for each in CALLS])
def test_fields_and_defaults_are_those_of_the_function(section, functions, options):
    """Every parameter is a field and every field a parameter, with the same default: one source."""
    assert mismatches(section, functions, **options) == []


def test_another_default_or_a_missing_field_is_caught():
    """Planted: a default of one's own, a field too many."""

    class Wrong(sections.BiasedRelu):
        threshold: sections.Number = 0.25
        height: sections.Number = 1.0

    assert mismatches(Wrong, activations.biased_relu) == ["height", "threshold"]
    assert mismatches(sections.BiasedRelu, activations.softplus) == ["beta", "prefactor", "threshold"]


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_defaults_satisfy_their_own_bounds(text):
    """pydantic does not look at defaults: all of them, written out, are accepted as they stand."""
    full = json.loads(config.to_json(config.parse(text)))
    assert json.loads(config.to_json(config.parse(toml(without_null(full))))) == full


def without_null(value):
    if isinstance(value, dict):
        return {name: "none" if each is None else without_null(each) for name, each in value.items()}
    return [without_null(each) for each in value] if isinstance(value, list) else value


# Every builder is there, and is the one that a script calls


def union(annotation):
    """Tags of a discriminated union."""
    return {reading._tag(each) for each in get_args(get_args(annotation)[0])}


def test_every_kind_has_a_builder():
    """The unions and the tables are the same lists; every convention and criterion of the package is one."""
    assert union(sections.ProblemSection) == set(building.PROBLEMS) == set(PROBLEM_TABLES)
    assert union(sections.ScalingSection) == set(building.SCALINGS) == set(SCALING_TABLES)
    assert union(sections.StartSection) == set(building.STARTS) == set(START_TABLES)
    assert union(sections.Stop) == set(stopping.CRITERIA) == set(STOPS)
    assert union(sections.BatchKind) == set(batches.BATCHES)
    assert union(sections.Family) == set(activations.FAMILIES) == set(FAMILY_TABLES)
    conventions = {name for name, each in vars(Scaling).items() if isinstance(each, classmethod)}
    assert {name.replace("_", "-") for name in conventions} == set(building.SCALINGS) - {"alpha"}


PROBLEMS = {
    "teacher-student": lambda: problems.teacher_student(dim=2, n=20, n_test=3),
    "bilinear": lambda: problems.bilinear(2.0),
    "two-gaussians": lambda: TwoGaussians((2, 1), (1.5, 1.0), (0.5, 1.0)).sample(9, 2),
    "isotropic-gaussians": lambda: TwoGaussians.isotropic(3).sample(9),
    "anisotropic-gaussians": lambda: TwoGaussians.anisotropic(4, 2).sample(9),
    "fashion-mnist": lambda: datasets.fashion_mnist(12, 10, ((1,), (2, 0)), pca=3),
    "staircase": lambda: targets.staircase(4, 9, 5, degrees=(1, 3)),
    "single-neuron": lambda: targets.single_neuron(4, 9, 5, threshold=0.5),
    "spiked": lambda: targets.spiked(6, 3, 9, 5, noise="printed"),
    "three-spin": lambda: targets.three_spin(3, 9, 5),
    "quadratic": lambda: targets.quadratic(2, 9, 5, matrix=[[1.0, 0.5], [0.5, 0.0]]),
    "population": lambda: mf.Population(
        population.teacher(3, 2, heights=[1.0, -2.0]), "relu", inputs="sphere", probes=5
    ),
}


@pytest.mark.parametrize("kind", PROBLEMS)
def test_a_problem_is_the_one_of_a_script(kind):
    """To the last bit, and the loss."""
    units = "relu" if kind == "population" else "tanh"
    changes = [f"problem={tabled(kind, PROBLEM_TABLES[kind])}", f"network.activation={units}"]
    found, direct = config.build(config.override(SMALL, changes)).problem, PROBLEMS[kind]()
    for name in ("inputs", "targets", "weights", "test_inputs", "test_targets"):
        np.testing.assert_array_equal(getattr(found, name), getattr(direct, name))
    assert found.loss == direct.loss and type(found) is type(direct)


SCALINGS = {
    "alpha": Scaling(2.0, mobility_a=0.0, shift="initial"),
    "mean-field": Scaling.mean_field(),
    "ntk": Scaling.ntk(8, 0.5, shift=None),
    "geiger": Scaling.geiger(3.0, 8, 4, form="code"),
    "golikov": Scaling.golikov(8, 4, -1.0, 1.0, 0.5, sigma=2.0),
    "sym-default": Scaling.sym_default(8, 4),
    "default": Scaling.default(16, 4),
    "ic-mf": Scaling.ic_mf(8, 4, subtracted=True),
    "raw": Scaling.raw(8, 0.5),
    "chizat-bach": Scaling.chizat_bach(),
    "cob19": Scaling.cob19(8, 2.0, "mean"),
    "mmn18": Scaling.mmn18(),
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_a_convention_is_the_one_of_a_script(kind):
    """Where no width is named it is the number of particles at the start."""
    text = config.override(SMALL, [f"network.scaling={tabled(kind, SCALING_TABLES[kind])}"])
    assert config.build(text).network.scaling == SCALINGS[kind]


def test_starts_are_those_of_a_script():
    """Samples, Sobol points and Gauss-Hermite nodes with their masses; a bias is one more dimension."""

    def start(law):
        built = config.build(
            config.override(SMALL, [f"start={tabled(law, START_TABLES[law], 'law')}", "network.bias=2"])
        )
        return built.start, built.masses

    particles, masses = start("gaussian")
    np.testing.assert_array_equal(particles, initial.gaussian(8, 3, paired=True, sigma_w=0.5))
    assert masses is None
    np.testing.assert_array_equal(start("sobol")[0], initial.sobol(initial.GaussianLaw(3, mean_a=1.0), 16).nodes)
    for found, direct in zip(start("gauss-hermite"), initial.gauss_hermite(initial.GaussianLaw(3), 3), strict=True):
        np.testing.assert_array_equal(found, direct)


@pytest.mark.parametrize("coupled", [False, True])
def test_a_run_is_the_one_of_a_script(coupled):
    """The same particles, to the last bit, as the call written out."""
    text = config.override(
        SMALL,
        [f"run.coupled={str(coupled).lower()}", "run.ridge=0.5", "run.rtol=1e-3", 'run.record=["risk"]',
         "run.stop=[{kind = 'risk', below = 1e-9}]", "run.keep=last"],
    )  # fmt: skip
    built = config.build(text)
    assert built.function is (mf.simulate_coupled if coupled else mf.simulate)
    run = built.function(built.network, built.problem, built.start, masses=built.masses, **built.arguments)
    direct = built.function(
        mf.Network("tanh"), problems.teacher_student(2, 20, 4), initial.gaussian(8, 2), [0.0, 0.5],
        ridge=0.5, rtol=1e-3, record=["risk"], keep="last",
    )  # fmt: skip
    np.testing.assert_array_equal(run.particles, direct.particles)
    np.testing.assert_array_equal(run.records["risk"], direct.records["risk"])


def test_arrays_from_a_file(tmp_path):
    """What `write_arrays` wrote; a missing array is named."""
    rng = np.random.default_rng(3)
    tree = {
        "inputs": rng.standard_normal((6, 2)),
        "targets": np.array([1.0, -1, 1, 1, -1, 1]),
        "weights": np.arange(6.0),
    }
    write_arrays(tmp_path / "data.h5", tree, {})
    write_arrays(tmp_path / "half.h5", {"inputs": tree["inputs"]}, {})

    def problem(name):
        path = json.dumps(str(tmp_path / name))
        return config.build(config.override(SMALL, [f"problem={{kind='arrays', loss='hinge', path={path}}}"])).problem

    found = problem("data.h5")
    np.testing.assert_array_equal(found.inputs, tree["inputs"])
    np.testing.assert_allclose(found.weights, tree["weights"] / 15.0, rtol=1e-15)
    assert found.loss is LOSSES["hinge"]
    with pytest.raises(InputError, match="has no array targets; needed: inputs"):
        problem("half.h5")
    for name in ("none.h5", "x" * 3000):
        with pytest.raises(InputError):
            problem(name)


def test_times():
    """Linear: equal differences from 0; log: equal ratios from end / 1000. Both ends are there."""
    linear = config.flow_times(sections.Grid(end=20.0, frames=41))
    np.testing.assert_allclose(linear, 0.5 * np.arange(41), atol=1e-14)
    log = config.flow_times(sections.Grid(end=20.0, frames=4, spacing="log"))
    np.testing.assert_allclose(log, [0.02, 0.2, 2.0, 20.0], rtol=1e-12)
    for wrong in ({"end": 1.0, "first": 1.0}, {"end": 1.0, "first": 0.0, "spacing": "log"}):
        with pytest.raises(InputError, match="needed: first below end"):
            config.flow_times(sections.Grid(**wrong))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["run.coupled=true", "run.momentum=1"], "run.momentum is 1.0 with run.coupled"),
        (["run.batches={kind='fresh'}"], "fresh with problem 'teacher-student', whose law is not known"),
        (["start.paired=true", "start.n_particles=7"], "n_particles is 7; needed: an even number"),
        (["network.scaling={kind='raw', sigma_a=1e200}"], "leaves the range of numbers"),
        (["problem={kind='population', dim=3}"], "needed: the teacher's, 'erf'"),
        (["run.times={end=5e-324}"], "needed: strictly increasing"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, message):
    """Fields that are each in range: `build` says so, by the package's own errors."""
    with pytest.raises(InputError, match=re.escape(message)):
        config.build(config.override(SMALL, changes))


HUGE = 2**31 - 1


@pytest.mark.parametrize("kind", sorted(PROBLEM_TABLES.keys() - {"bilinear", "arrays"}))
def test_what_no_machine_holds_is_refused_before_it_is_made(kind):
    """Every size at its largest; and only the dimension, which sets the size of what a target is made of."""
    section = next(each for each in get_args(get_args(sections.ProblemSection)[0]) if reading._tag(each) == kind)
    sizes = [name for name, each in section.model_fields.items() if each.annotation is int and "seed" not in name]
    changes = [f"problem={tabled(kind, PROBLEM_TABLES[kind])}"]
    for chosen in (sizes, [name for name in sizes if name == "dim"]):
        if chosen:
            text = config.override(SMALL, changes + [f"problem.{name}={HUGE}" for name in chosen])
            with pytest.raises(InputError):
                config.build(text)
    with pytest.raises(InputError):
        config.build(config.override(SMALL, [f"start.n_particles={HUGE}", "problem.dim=1000"]))


# Refusals


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            "network.activation=tanhh",
            "network.activation is 'tanhh'; needed: one of {ACTIVATIONS} (did you mean 'tanh'?).",
        ),
        ("network.bias=true", "network.bias is True; needed: a number."),
        ("network.scaling.alpha=0", "network.scaling.alpha is 0; needed: a number above 0."),
        ("network.scaling.alpha=inf", "network.scaling.alpha is inf; needed: a finite number."),
        ("network.scaling.shift=x", "network.scaling.shift is 'x'; needed: initial."),
        ("network.scaling={kind='ntk', C=1}", "network.scaling.C is 1, but there is no such field; needed: one of"),
        ("problem.n=1.5", "problem.n is 1.5; needed: a whole number."),
        ("problem.n=0", "problem.n is 0; needed: a number of at least 1."),
        ("problem.n=1_000_000_000_000", "problem.n is 1000000000000; needed: a number of at most 2147483647."),
        ("problem.kind=teacher", "problem.kind is 'teacher'; needed: one of anisotropic-gaussians,"),
        ("problem={}", "problem.kind is missing; needed: one of anisotropic-gaussians,"),
        ("problem=3", "problem is 3; needed: a table."),
        ("run.times=[1, 0]", "run.times: times go from 1 to 0 at index 1; needed: strictly increasing."),
        ("run.times='x'", "run.times is 'x'; needed: a list or a table."),
        ("run.times=[0, nan]", "run.times.1 is nan; needed: a finite number."),
        ("run.times={frames=9}", "run.times.end is missing; needed: last flow time."),
        ("run.record=['risk', 'risk']", "run.record: ['risk', 'risk'] repeats a name; needed: each once."),
        ("run.stop=[{kind='risk'}]", "run.stop.0.below is missing; needed: risk at which the run ends."),
        ("run.dt=2024-01-01", "run.dt is datetime.date(2024, 1, 1); needed: a number."),
        ("output.live=1", "output.live is 1; needed: true or false."),
        ("start.n_particls=3", "start.n_particls is 3, but there is no such field; needed: one of"),
    ],
)  # fmt: skip
def test_a_faulty_field_is_named(change, line):
    """One line: where, the dotted name, what was given, what is needed."""
    said = refusal(SMALL, by=lambda text: config.override(text, [change], where="run.toml"))
    assert said.startswith("run.toml: " + line.replace("{ACTIVATIONS}", ", ".join(ACTIVATIONS))) and "\n" not in said


def test_every_fault_has_its_line():
    """Of several fields, in several sections and in one; the nearest name is suggested where there is one."""
    changes = ["network.activation=tanhh", "run.scheme=rk5", "run.rtol=-1", "start.seed=-1", "extra=1", "problem.n='5'"]
    lines = refusal(SMALL, by=lambda text: config.override(text, changes)).splitlines()
    assert {line.split()[1] for line in lines} == {each.split("=")[0] for each in changes} and len(lines) == 6
    assert "(did you mean 'rk4'?)" in next(line for line in lines if "run.scheme" in line)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = [1,\nb", r"is no TOML: .*\(at line 2, column 1\)"),
        ("a = 1\na = 2", "is no TOML: Cannot overwrite a value"),
        ("a = " + "[" * 50_000, "too deep"),
        (".".join("a" * 20_000) + " = 1", "has a key of more than 16 parts"),
        (".".join(['"b.c"'] * 20_000) + " = 1", "has a key of more than 16 parts"),
        ("a = " + "9" * 5000, "is no TOML: .*digits"),
        ("a = 0x" + "f" * 9000, "a is a whole number of 36000 bits, but there is no such field"),
        ("", "problem is missing; needed: what is learned"),
        ("a = '" + "x" * 1_000_000 + "'", "has more than 1,000,000 characters"),
        ("\n".join(f"a{k} = 1" for k in range(500)), "config: and 454 more."),
    ],
)  # fmt: skip
def test_a_text_that_is_no_config_is_refused(text, message):
    """Broken, doubled, deep, huge: an InputError in each case, with line and column where the text is no TOML."""
    assert re.search(message, refusal(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 100_000, "too deep"),
        ('{"name": "a", "name": "b"}', "repeats a key"),
        ("[]", "the whole is .*needed: a table"),
        ("NaN", "the whole is nan"),
        ("{", "is no JSON"),
        ('{"name": "\\ud800"}', "name is .*needed: a text"),
    ],
)
def test_json_is_as_strict(text, message):
    """`from_json` refuses what `parse` would, and keys that repeat."""
    assert re.search(message, refusal(text, by=config.from_json))


def test_files(tmp_path):
    """A file is read; a folder, a missing, a large one and one that is no UTF-8 are refused by name."""
    (tmp_path / "run.toml").write_text(SMALL)
    assert config.load(tmp_path / "run.toml") == config.parse(SMALL)
    (tmp_path / "latin.toml").write_bytes(b'name = "\xe9"')
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    (tmp_path / "wrong.toml").write_text(SMALL.replace("20", "-20"))
    for name, message in {
        "latin.toml": "no UTF-8 at byte 8",
        "large.toml": "more than 1,000,000 bytes",
        "wrong.toml": "^wrong.toml: problem.n is -20; needed: a number of at least 1",
        "missing.toml": "cannot be read",
        ".": "cannot be read",
        "zero\0byte": "cannot be read",
        "x" * 5000: "cannot be read",
    }.items():
        assert re.search(message, refusal(tmp_path / name, by=config.load))


# Overrides and differences


def test_overrides():
    """Values as in TOML, bare words as text; of tables that are there, that are not yet, and of entries of lists."""
    changes = ["network.scaling.alpha=2", "run.scheme = rk4", "run.times=[0, 1, 4]", "output.live=true", 'name="a b"']
    changed = config.override(SMALL, changes)
    assert changed.network.scaling.alpha == 2.0 and changed.run.scheme == "rk4" and changed.run.times == (0.0, 1.0, 4.0)
    assert changed.output.live and changed.name == "a b"
    assert config.override(SMALL, ["run.stop=[{kind='risk', below=1}]", "run.stop.0.below=2"]).run.stop[0].below == 2.0
    fields = {field for field, _, _ in config.differences(config.parse(SMALL), changed)}
    assert fields == {each.split("=")[0].strip() for each in changes}


@pytest.mark.parametrize(
    "change",
    ["run.scheme", "=3", "run..x=1", "run.scheme=", "run.scheme=a b", "run.rtol=1\nname = 'x'", "run.stop.0.below=1",
     "network.activation.beta=1", "run.times.5=1", "run.rtol=[1", "run.rtol=1 2"],
)  # fmt: skip
def test_an_assignment_that_is_none_is_refused(change):
    """No field, no value, more than one, an entry that is not there."""
    refusal(SMALL, by=lambda text: config.override(text, [change]))


def test_differences_are_those_of_the_digest():
    """None between equals; symmetric; empty exactly where the digests agree, over all pairs of the examples."""
    described = [config.parse(text) for text in config.EXAMPLES.values()]
    for old in described:
        for new in described:
            there, back = config.differences(old, new), config.differences(new, old)
            assert sorted((name, b, a) for name, a, b in there if name == "name") == [x for x in back if x[0] == "name"]
            assert {name for name, _, _ in there} == {name for name, _, _ in back}
            assert (not there) == (config.digest(old) == config.digest(new)) == (old is new)


# Mutants

ODD = [
    0, 1, -1, 2, 3.5, -2.0, 0.0, -0.0, 1e-320, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 10**12, 2**31,
    2**63 - 1, 2**64, -(2**63), 16**400, True, False, "", "none", "initial", "tanh", "risk", "x" * 3000, "0", "nan",
    "é\n",
    [], {}, [[]], [1], [1.0, 2.0], [2, 1], ["risk"], [float("nan")], [True], {"kind": "risk"}, {"kind": "ntk"},
    {"kind": ["ntk"]}, {"kind": 3}, {"law": "sobol"}, {"family": "softplus", "beta": float("inf")}, {"end": 1},
    {"end": float("nan")}, {"a": {"b": {"c": 1}}}, [{"kind": "margin", "least": float("inf")}],
]  # fmt: skip


def mutant(rng, bases, within=None):
    """A valid config with one to three changes, `within` a section: a value, a key removed, added, renamed or moved."""
    data = json.loads(rng.choice(bases))
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        tables = [data[within] if within else data]
        for table in tables:  # which grows: every table and list within
            inner = table.values() if isinstance(table, dict) else table
            tables += [each for each in inner if isinstance(each, dict | list)]
        table = rng.choice([each for each in tables if each] or tables)
        key = rng.choice(list(table)) if isinstance(table, dict) and table else rng.randrange(len(table) or 1)
        change, odd = rng.randrange(8), copy.deepcopy(rng.choice(ODD))
        if isinstance(table, list):
            table[key : key + 1] = [] if change == 0 else [odd] * rng.choice((1, 1, 2))
        elif change == 0:
            del table[key]
        elif change == 1:
            table[rng.choice(["extra", "kind", "Alpha", "é b", "", "__class__", "dim", "seed"])] = odd
        elif change == 2:
            table[key + "s"] = table.pop(key)
        elif change == 3:
            table[key] = {key: table[key]}
        elif change == 4:
            table[key] = [table[key]]
        elif change == 5 and isinstance(table[key], float | int) and not isinstance(table[key], bool):
            table[key] = rng.choice((-table[key], float(table[key]), str(table[key]), 0, math.inf, -math.inf, math.nan))
        else:
            table[key] = odd
    return data


def bases():
    return [json.dumps(without_null(json.loads(config.to_json(config.parse(text))))) for text in VARIANTS.values()]


def kept(given, found):
    """Whether an accepted value is what was given: no key unknown, no text for a number, nothing infinite."""
    if isinstance(given, dict):
        return (
            isinstance(found, BaseModel)
            and given.keys() <= type(found).model_fields.keys()
            and all(kept(each, getattr(found, name)) for name, each in given.items())
        )
    if isinstance(given, list):
        return isinstance(found, tuple) and len(found) == len(given) and all(map(kept, given, found))
    if isinstance(given, bool) or isinstance(found, bool):
        return given is found
    if isinstance(given, str):
        return given == found or (given == "none" and found is None)
    return isinstance(found, int | float) and math.isfinite(found) and type(found)(given) == found


def is_small(described):
    """Whether it may be built here: nothing that takes memory or time."""
    sizes = [
        each
        for section in (described.problem, described.start)
        for name, each in section
        if isinstance(each, int) and "seed" not in name
    ]
    return math.prod(max(each, 1) for each in sizes) < 10**6


def holes(number, seed, within=None):
    """Of so many mutants: those that neither parse as given nor are refused by name; how many did parse, and build."""
    rng, texts, found, parsed, built = random.Random(seed), bases(), [], 0, 0
    for _ in range(number):
        data = mutant(rng, texts, within)
        text = toml(data)
        try:
            described = config.parse(text)
        except InputError as refused:
            names = tuple([*sections.RunConfig.model_fields, *data, *map(repr, data)])
            if not all(
                line.startswith(tuple(f"config: {name}" for name in names)) for line in str(refused).splitlines()
            ):
                found.append((text, f"no field is named: {refused}"))
            continue
        except Exception as other:
            found.append((text, repr(other)))
            continue
        parsed += 1
        if not kept(data, described):
            found.append((text, "accepted"))
        elif config.from_json(config.to_json(described)) != described:
            found.append((text, "not its own JSON"))
        elif not accepts(SCHEMA, data):
            found.append((text, "the schema refuses it"))
        elif is_small(described):
            try:
                config.build(described)
                built += 1
            except Exception as other:
                if not type(other).__module__.startswith(errors.__name__):
                    found.append((text, f"build: {other!r}"))
    return found, parsed, built


def accepts(schema, value, root=None):
    """Whether a JSON Schema accepts a value: the keywords that ours uses."""
    root = schema if root is None else root
    if "$ref" in schema:
        return accepts(root["$defs"][schema["$ref"].rpartition("/")[2]], value, root)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    checks = {
        "type": lambda name: {
            "object": isinstance(value, dict), "array": isinstance(value, list), "string": isinstance(value, str),
            "boolean": isinstance(value, bool), "number": number, "integer": number and value == int(value),
            "null": value is None,
        }[name],
        "enum": lambda names: value in names,
        "const": lambda name: value == name,
        "anyOf": lambda several: any(accepts(each, value, root) for each in several),
        "oneOf": lambda several: sum(accepts(each, value, root) for each in several) == 1,
        "required": lambda names: all(name in value for name in names),
        "additionalProperties": lambda allowed: allowed or value.keys() <= schema["properties"].keys(),
        "properties": lambda fields: all(accepts(fields[each], value[each], root) for each in fields if each in value),
        "items": lambda inner: all(accepts(inner, each, root) for each in value),
        "minItems": lambda bound: len(value) >= bound,
        "maxItems": lambda bound: len(value) <= bound,
        "minLength": lambda bound: len(value) >= bound,
        "maxLength": lambda bound: len(value) <= bound,
        "pattern": lambda pattern: re.search(pattern, value) is not None,
        "minimum": lambda bound: value >= bound,
        "maximum": lambda bound: value <= bound,
        "exclusiveMinimum": lambda bound: value > bound,
        "exclusiveMaximum": lambda bound: value < bound,
    }  # fmt: skip
    if "type" in schema and not checks["type"](schema["type"]):
        return False
    return all(checks[name](argument) for name, argument in schema.items() if name in checks)


SCHEMA = config.json_schema()


def test_mutants_parse_as_given_or_are_refused_by_name():
    """0 holes: no other exception, nothing unknown or infinite accepted; what builds raises the package's errors."""
    found, parsed, built = holes(MUTANTS, seed=7)
    assert found == []
    assert parsed > 0.05 * MUTANTS and built > 0.02 * MUTANTS, "hardly any mutant lives: this would mean nothing"
    assert parsed < 0.9 * MUTANTS


@pytest.mark.parametrize(
    "hole", [{"extra": "allow"}, {"extra": "ignore"}, {"allow_inf_nan": True}, {"strict": False}], ids=str
)
def test_a_hole_in_one_section_is_caught(hole, monkeypatch):
    """Planted: [run] alone is less strict, in each way that pydantic knows."""

    class Leaky(sections.RunSection):
        model_config = ConfigDict(**hole)

    class Whole(sections.RunConfig):
        run: Leaky  # pyright: ignore

    assert holes(500, seed=7, within="run")[0] == []
    monkeypatch.setattr(reading, "RunConfig", Whole)
    assert holes(500, seed=7, within="run")[0]


# The schema and the page


@pytest.mark.parametrize("text", VARIANTS.values(), ids=VARIANTS)
def test_the_schema_accepts_what_parse_accepts(text):
    """And refuses a field that there is not, a name of no table, and a bound overstepped."""
    data = reading._toml(text, "text")
    assert accepts(SCHEMA, data)
    for path, value in ((["run", "schem"], "rk4"), (["run", "scheme"], "rk5"), (["run", "rtol"], 0), (["network"], {})):
        wrong = json.loads(json.dumps(data))
        reading._set(wrong, path, value)
        assert not accepts(SCHEMA, wrong)


def test_the_schema_describes_every_field():
    """Each with a meaning; every reference leads somewhere; the names are those of the tables."""
    definitions = SCHEMA["$defs"]
    for table in (SCHEMA, *definitions.values()):
        assert table["additionalProperties"] is False and table["description"]
        for name, field in table["properties"].items():
            assert field.get("description") or name in ("kind", "law", "family"), name
    references = set(re.findall(r'"#/\$defs/(\w+)"', json.dumps(SCHEMA)))
    assert references == definitions.keys()
    assert definitions["FashionMnist"]["properties"]["loss"]["enum"] == list(LOSSES)


def page_differs(page):
    """Whether the generated part of the page is not what the schema says now."""
    return page.split("<!-- fields: begin -->\n")[1].split("<!-- fields: end -->")[0].strip() != config.table().strip()


def test_the_page_is_up_to_date():
    """docs/config.md shows the fields as they are (docs/update_config.py writes them), and examples that parse."""
    page = (DOCS / "config.md").read_text()
    assert not page_differs(page)
    assert page_differs(page.replace("`rtol`", "`rtoll`"))
    shown = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert shown and all(config.parse(text) for text in shown)
