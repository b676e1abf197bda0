"""Files that training goes on from: arrays in safetensors, everything else as JSON in the same file's header.

One file, written beside its place, forced to disk and renamed: a reader sees the old one or the new one, whatever
happens. Nothing in it is ever executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    from safetensors import safe_open
    from safetensors.numpy import save
except ModuleNotFoundError as error:
    raise ModuleNotFoundError('checkpoints need safetensors: pip install "cgopt[rl]"') from error

Array = npt.NDArray[Any]
FORMAT = "cgopt_rl checkpoint 1"
KEY = "cgopt_rl"


def write(path: str | os.PathLike[str], header: dict[str, Any], arrays: dict[str, Array]) -> None:
    """Write a checkpoint, atomically.

    Parameters
    ----------
    path : str or path
        Folders that it lies in are made.
    header : dict
        What JSON can hold.
    arrays : dict of str to ndarray
    """
    stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json.dumps({"format": FORMAT, "digest": _digest(stored), **header})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(beside, "wb") as file:
            file.write(save(stored, metadata={KEY: text}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    if hasattr(os, "O_DIRECTORY"):  # the new name itself is on disk only when the folder is
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read a checkpoint.

    Returns
    -------
    header : dict
    arrays : dict of str to ndarray

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, or not a checkpoint of this library.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except Exception as error:  # the library raises its own class, and others for other damage
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    if KEY not in metadata:
        raise ValueError(f"{path} is a safetensors file, but not a checkpoint of cgopt_rl")
    try:
        header: dict[str, Any] = json.loads(metadata[KEY])
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: its header is not JSON") from error
    if header.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {header.get('format')!r}; this version reads {FORMAT!r}")
    if header.pop("digest", None) != _digest(arrays):
        raise ValueError(f"{path} is damaged: its arrays are not those that were written")
    return header, arrays


def nest(groups: dict[str, dict[str, Array]]) -> dict[str, Array]:
    """Groups of arrays as one dictionary with names ``group/name``."""
    return {f"{group}/{name}": array for group, arrays in groups.items() for name, array in arrays.items()}


def group(arrays: dict[str, Array], name: str) -> dict[str, Array]:
    """One group of what `nest` returned; empty if there is none."""
    start = f"{name}/"
    return {key.removeprefix(start): array for key, array in arrays.items() if key.startswith(start)}


def _digest(arrays: dict[str, Array]) -> str:
    """Of names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
