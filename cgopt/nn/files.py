"""Networks and parameters in files: safetensors, whose header is JSON and which can hold nothing that runs."""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np

from ..arrays import Array
from .mlp import MLP
from .network import Network
from .recurrent import RNN

FORMAT = "cgopt.nn 1"


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError('saving and loading need safetensors: pip install "cgopt[nn]"') from error
    return safetensors


def save(path: str | os.PathLike[str], network: Network, theta: Array, **arrays: Array) -> None:
    """Write a network and its parameters.

    Parameters
    ----------
    path : str or path
    network : MLP or RNN
    theta : (n,) array
    **arrays : array
        Whatever else is to lie beside them, such as an optimiser's `state`.

    Examples
    --------
    >>> import tempfile, pathlib, numpy as np, cgopt
    >>> network = cgopt.nn.MLP([4, 8, 2], "relu")
    >>> theta = network.init(0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "policy.safetensors"
    ...     cgopt.nn.save(path, network, theta)
    ...     again, same, _ = cgopt.nn.load(path)
    >>> again, bool((same == theta).all())
    (MLP(4-8-2, relu, 58 parameters), True)
    """
    library = _safetensors()
    theta = network.parameters(theta)
    header = {"format": FORMAT, "network": json.dumps(network.description())}
    tensors = {"theta": theta} | {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    library.numpy.save_file(tensors, os.fspath(path), metadata=header)


def load(path: str | os.PathLike[str]) -> tuple[Network, Array, dict[str, Array]]:
    """Read what `save` wrote.

    Parameters
    ----------
    path : str or path

    Returns
    -------
    network : MLP or RNN
    theta : (n,) array
    arrays : dict of str to array
        What lay beside them.

    Raises
    ------
    ValueError
        If the file was not written by `save`.
    """
    library = _safetensors()
    try:
        with library.safe_open(os.fspath(path), framework="numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except library.SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is no safetensors file: {error}") from error
    if header.get("format") != FORMAT or "theta" not in tensors:
        raise ValueError(f"{os.fspath(path)} holds no network of cgopt (format {header.get('format')!r})")
    options = json.loads(header["network"])
    kind = options.pop("kind")
    if kind not in ("MLP", "RNN"):
        raise ValueError(f"{os.fspath(path)} holds a network of the unknown kind {kind!r}")
    network: Network = MLP(**options) if kind == "MLP" else RNN(**options)
    return network, network.parameters(tensors.pop("theta")), tensors
