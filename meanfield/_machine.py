"""What shaped the numbers of a run: versions and processor."""

import hashlib
import platform
from functools import cache
from importlib import metadata
from pathlib import Path


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


@cache
def sources() -> str:
    """SHA-256 of the package's own sources, which change between two versions too."""
    package, total = Path(__file__).resolve().parent, hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        total.update(f"{path.relative_to(package)}\0".encode() + path.read_bytes() + b"\0")
    return total.hexdigest()


def processor() -> str:
    """The processor's name where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
