"""What a run was given, as plain data, and back: what a file holds so that another process can go on from it.

Plain data are numbers, names, and functions with their arguments (`_origins`); a user's own activation, loss, batches,
criterion or record is a name alone, and has to be handed in again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from .. import _checks, _origins, stopping
from ..activations import ACTIVATIONS, Activation
from ..activations import FAMILIES as ACTIVATION_FAMILIES
from ..batches import BATCHES
from ..diagnostics import DIAGNOSTICS
from ..errors import FormatError, InputError
from ..integrators import SCHEMES, Geiger, MinimisingMovement, Tableau
from ..losses import FAMILIES as LOSS_FAMILIES
from ..losses import LOSSES, Loss
from ..network import Network
from ..population import Population
from ..problems import Problem
from ..scaling import Scaling

_PROBLEM = ("inputs", "targets", "weights", "test_inputs", "test_targets", "labels", "test_labels", "teacher")


def describe(network: Network, problem: Problem, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a run, plain data. `arguments` are those of `simulate` that are no arrays."""
    own: dict[str, Any] = {"name": problem.name, "loss": _origins.describe(problem.loss, LOSSES)}
    if isinstance(problem, Population):
        activation = _origins.describe(problem.activation, ACTIVATIONS)
        own["population"] = {"activation": activation, "inputs": problem.law}
    return {
        "network": {
            "activation": _origins.describe(network.activation, ACTIVATIONS),
            "scaling": asdict(network.scaling),
            "bias": network.bias,
        },
        "problem": own,
        "run": plain(arguments),
    }


def plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `simulate`, or some of them, as plain data."""
    return {name: _PLAIN.get(name, _scalar)(value) for name, value in arguments.items()}


def arrays_of(problem: Problem) -> dict[str, np.ndarray]:
    """The problem's arrays by name; those that are not there are left out."""
    found = {name: getattr(problem, name, None) for name in _PROBLEM}
    return {name: _numeric(value) for name, value in found.items() if value is not None}


def _numeric(value):
    """As a file holds it: little-endian numbers of a width that every reader knows; labels that are words by number."""
    kind = value.dtype.kind
    if kind == "f" and value.dtype.itemsize > 8:
        return value.astype("<f8")
    if kind in "biuf":
        return value.astype(value.dtype.newbyteorder("<"), copy=False)
    words = value.astype(str) if kind == "O" else value  # of several types, which have no order
    return np.unique(words, return_inverse=True)[1].reshape(value.shape).astype("<i8", copy=False)


def network(settings: Mapping[str, Any], activation: str | Activation | None = None) -> Network:
    """The network of a run; `activation` where that is the user's own."""
    data = settings["network"]
    found = _origins.make(data["activation"], ACTIVATIONS, ACTIVATION_FAMILIES, "activation", activation)
    return Network(found, Scaling(**data["scaling"]), data["bias"])


def problem(settings: Mapping[str, Any], arrays: Mapping[str, np.ndarray], loss: str | Loss | None = None) -> Problem:
    """The problem of a run; `loss` where that is the user's own."""
    data = settings["problem"]
    if "population" in data:
        own = data["population"]
        activation = _origins.make(own["activation"], ACTIVATIONS, ACTIVATION_FAMILIES, "activation")
        made = Population(arrays["teacher"], activation, inputs=own["inputs"], probes=len(arrays["inputs"]))
        for name in ("inputs", "targets"):  # the probes as they were drawn, from whatever seed
            object.__setattr__(made, name, arrays[name])
        return made
    tests = {name: arrays[name] for name in ("test_inputs", "test_targets") if arrays[name].size}
    labels = {name: arrays[name] for name in ("labels", "test_labels") if name in arrays}
    found = _origins.make(data["loss"], LOSSES, LOSS_FAMILIES, "loss", loss)
    return Problem(arrays["inputs"], arrays["targets"], arrays["weights"], found, **tests, **labels, name=data["name"])


def arguments(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `simulate` that a run had; `given` holds what is the user's own: record, stop, batches."""
    run = dict(settings["run"])
    try:
        run["scheme"] = _make_scheme(run["scheme"])
        run["record"] = [_own_record(each, given.get("record") or ()) for each in run["record"]]
        run["stop"] = _stop(run["stop"], given.get("stop"))
        if run["batches"] is not None:
            run["batches"] = _origins.make(run["batches"], {}, BATCHES, "batches", given.get("batches"))
        if isinstance(run["keep"], list):
            run["keep"] = slice(*run["keep"])
    except (LookupError, TypeError, AttributeError) as problem:
        raise FormatError(
            f"the settings of the run cannot be used ({problem!r}); needed: as they were written."
        ) from problem
    return run


def _name(function: Callable) -> str:
    return getattr(function, "__name__", repr(function))


def _own_record(data, given: Sequence):
    if isinstance(data, str):
        return _checks.find(DIAGNOSTICS, data, "record") and data
    for each in given:
        if not isinstance(each, str) and _name(each) == data["own"]:
            return each
    raise InputError(
        f"the run records {data['own']!r}, a function of its own, which no file holds; needed: record=[...] with it."
    )


def _stop(data, given):
    if given is not None:
        given = stopping.check(given)
        if _describe_stop(given) != data:
            raise InputError(f"stop is {given!r}; needed: the run's criteria, {data}.")
        return given
    return [_origins.make(each, {}, stopping.CRITERIA, "stop") for each in data]


def _scalar(value):
    return value.item() if isinstance(value, np.generic) else value


def _describe_engine(engine):
    return engine if isinstance(engine, str) else engine.NAME


def _describe_record(record):
    return [each if isinstance(each, str) else {"own": _name(each)} for each in record]


def _describe_stop(stop):
    return [_origins.describe(each, {}) for each in stopping.check(stop)]


def _describe_batches(batches):
    return None if batches is None else _origins.describe(batches, {})


def _describe_keep(keep):
    return [_scalar(each) for each in (keep.start, keep.stop, keep.step)] if isinstance(keep, slice) else keep


def _describe_scheme(scheme):
    if isinstance(scheme, str) or SCHEMES.get(scheme.name) == scheme:
        return scheme if isinstance(scheme, str) else scheme.name
    return {"kind": type(scheme).__name__, **asdict(scheme)}


def _make_scheme(data):
    if isinstance(data, str):
        return _checks.find(SCHEMES, data, "scheme") and data
    kinds = {each.__name__: each for each in (Tableau, Geiger, MinimisingMovement)}
    rest = {name: value for name, value in data.items() if name != "kind"}
    if data.get("kind") not in kinds:
        raise FormatError(f"the run has a scheme {data!r}; needed: one of {', '.join(kinds)}.")
    if data["kind"] == "Tableau":
        rest["stages"] = tuple(map(tuple, rest["stages"]))
        for name in ("weights", "embedded"):
            rest[name] = None if rest[name] is None else tuple(rest[name])
    return kinds[data["kind"]](**rest)


_PLAIN: dict[str, Callable[[Any], Any]] = {
    "scheme": _describe_scheme, "engine": _describe_engine, "record": _describe_record, "stop": _describe_stop,
    "batches": _describe_batches, "keep": _describe_keep,
}  # fmt: skip
