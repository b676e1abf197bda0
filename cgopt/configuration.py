"""What there is to compute with: versions, threads, devices, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform

from .kernels import cpu, gpu

LIBRARIES = ("numpy", "scipy", "numba", "torch", "jax")
EXTRAS = {  # what is asked for when it is missing: a library, and the extra that brings it
    "pyamg": ("amg", "classical coarsening in cgopt.preconditioners.Multigrid"),
    "safetensors": ("nn", "networks in files"),
    "matplotlib": ("plot", "figures"),
    "gymnasium": ("rl", "reinforcement learning"),
}


def version_of(name: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> list[str]:
    """The lines that `show_config` prints."""
    from . import __version__

    lines = [f"cgopt {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
    found = {name: version_of(name) for name in LIBRARIES}
    lines.append(", ".join(f"{name} {version}" for name, version in found.items() if version))
    lines.append(f"CPU: {os.cpu_count()} processors, {cpu.get_num_threads()} of {cpu.max_num_threads()} threads in use")
    reason = gpu.available()
    lines.append(f"GPU: {'; '.join(gpu.describe())}" if reason is None else f"GPU: none in use; {reason}")
    for name, (extra, purpose) in EXTRAS.items():
        if version_of(name) is None:
            lines.append(f"missing: {name}, for {purpose}: pip install 'cgopt[{extra}]'")
    return lines


def show_config() -> None:
    """Print versions, threads, devices, and what is missing.

    Examples
    --------
    >>> import cgopt
    >>> cgopt.show_config()
    cgopt ...
    CPU: ...
    GPU: ...
    """
    print("\n".join(describe()))
