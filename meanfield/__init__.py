"""meanfield: two-layer networks as clouds of particles, at finite N and in both limits.

    f(x) = alpha sum_i m_i a_i phi(w_i . x),   m_i = 1/N

Training moves the cloud. With alpha = O(1) its law follows a transport equation (mean field); with
alpha = O(sqrt N) the tangent kernel freezes (NTK). See docs/notation for the convention.
"""

from typing import TYPE_CHECKING, Any

from . import (
    _machine,
    activations,
    analysis,
    batches,
    datasets,
    diagnostics,
    engines,
    ensembles,
    errors,
    fit,
    identities,
    initial,
    integrators,
    kernels,
    limits,
    linearised,
    losses,
    phases,
    plots,
    population,
    problems,
    projections,
    quadratics,
    stopping,
    tangent,
    targets,
    transport,
    vocabulary,
)
from .activations import Activation
from .analysis import Analysis, analyse
from .engines import set_num_threads
from .ensembles import Ensemble, ensemble
from .initial import GaussianLaw
from .network import Network
from .output import Output
from .population import Population
from .problems import Problem
from .runs import Run
from .scaling import Scaling
from .simulation import resume, simulate, simulate_coupled

if TYPE_CHECKING:
    from . import trajectories
    from .trajectories import Trajectory, open

__version__ = _machine.version("meanfield")

__all__ = [
    "Activation",
    "Analysis",
    "Ensemble",
    "GaussianLaw",
    "Network",
    "Output",
    "Population",
    "Problem",
    "Run",
    "Scaling",
    "Trajectory",
    "activations",
    "analyse",
    "analysis",
    "batches",
    "datasets",
    "diagnostics",
    "engines",
    "ensemble",
    "ensembles",
    "errors",
    "fit",
    "identities",
    "initial",
    "integrators",
    "kernels",
    "limits",
    "linearised",
    "losses",
    "open",
    "phases",
    "plots",
    "population",
    "problems",
    "projections",
    "quadratics",
    "resume",
    "set_num_threads",
    "simulate",
    "simulate_coupled",
    "stopping",
    "tangent",
    "targets",
    "trajectories",
    "transport",
    "vocabulary",
]


def __getattr__(name: str) -> Any:
    """`open`, `Trajectory` and `trajectories` when they are first asked for: h5py takes its time."""
    if name not in ("open", "Trajectory", "trajectories"):
        raise AttributeError(f"module 'meanfield' has no attribute {name!r}")
    from importlib import import_module

    found = import_module(".trajectories", __name__)
    return found if name == "trajectories" else getattr(found, name)
