"""What shaped the numbers of a run: versions and processor."""

import platform
from importlib import metadata


def version(name: str) -> str:
    """The version of a package; "unknown" where it is not installed, but a checkout that is imported from, say."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of everything that shapes the numbers."""
    names = ("meanfield", "numpy", "numba", "scipy", "pot", "h5py", "matplotlib")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
