"""Gauss-Newton products of networks: cgopt, and the libraries that differentiate torch and jax."""

from __future__ import annotations

import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

import cgopt
from benchmarks.peers.cases import Group, Row, Settings, Target
from benchmarks.peers.timing import take_turns

NETWORKS = (((64, 50, 30, 10), 500, 10.0), ((64, 50, 30, 10), 4000, 5.0), ((784, 400, 200, 10), 500, 3.0))
"""Layers, samples, and how many times curvlinops' speed is asked for."""

BLOCK = 8
BLOCK_TARGET, RATE_TARGET = 5.0, 0.6
SQUARE = 1024
TURN_SECONDS = 0.01

Product = Callable[[], Any]


class Problem:
    """A network with softmax loss on random data, in single precision, and one vector to multiply."""

    def __init__(self, sizes: tuple[int, ...], samples: int) -> None:
        rng = np.random.default_rng(0)
        self.sizes, self.samples = sizes, samples
        self.network = cgopt.nn.MLP(sizes)
        self.theta = self.network.init(rng, dtype=np.float32)
        self.X = rng.standard_normal((samples, sizes[0])).astype(np.float32)
        self.Y = rng.integers(0, sizes[-1], samples)
        self.v = rng.standard_normal(self.network.n).astype(np.float32)
        self.V = rng.standard_normal((self.network.n, BLOCK)).astype(np.float32)
        at = self.network.linearize(self.theta, self.X)
        self.G = cgopt.operators.GaussNewton(at, cgopt.nn.SoftmaxCrossEntropy(), self.Y)

    @property
    def name(self) -> str:
        return f"{'-'.join(map(str, self.sizes))}, {self.samples} samples"

    @property
    def flops(self) -> int:
        """Of the matrix products of one product: [h 1][RW; Rb], R{h} W, [h 1]' delta and delta W' for each layer."""
        pairs = list(itertools.pairwise(self.sizes))
        first, rest = pairs[0], pairs[1:]
        return 2 * self.samples * (2 * (first[0] + 1) * first[1] + sum((4 * i + 2) * o for i, o in rest))

    def parts(self, flat: np.ndarray) -> list[np.ndarray]:
        """A vector as torch's parameters: weights by rows of outputs, and biases."""
        named = list(self.network.views(flat).values())
        return [np.ascontiguousarray(part.T) for part in named]

    def torch(self) -> tuple[Any, Any, Any, list[Any]]:
        """The network as a torch module, its data, and the vector."""
        import torch

        pairs = list(itertools.pairwise(self.sizes))
        layers = [layer for pair in pairs for layer in (torch.nn.Linear(*pair), torch.nn.Tanh())][:-1]
        model = torch.nn.Sequential(*layers)
        with torch.no_grad():
            for parameter, part in zip(model.parameters(), self.parts(self.theta), strict=True):
                parameter.copy_(torch.from_numpy(part))
        vector = [torch.from_numpy(part) for part in self.parts(self.v)]
        return model, torch.from_numpy(self.X), torch.from_numpy(self.Y), vector


def curvlinops(problem: Problem) -> Product:
    import torch
    from curvlinops import GGNLinearOperator

    model, X, Y, vector = problem.torch()
    loss = torch.nn.CrossEntropyLoss()
    G = GGNLinearOperator(model, loss, list(model.parameters()), [(X, Y)], check_deterministic=False)
    return lambda: G @ vector


def backpack(problem: Problem) -> Product:
    import torch
    from backpack.hessianfree.ggnvp import ggn_vector_product

    model, X, Y, vector = problem.torch()
    outputs = model(X)  # once: the record is kept between products
    loss = torch.nn.functional.cross_entropy(outputs, Y)
    return lambda: ggn_vector_product(loss, outputs, model, vector)


def double_backward(problem: Problem) -> Product:
    import torch

    grad = torch.autograd.grad
    model, X, _, vector = problem.torch()
    parameters = list(model.parameters())
    outputs = model(X)
    p = torch.softmax(outputs.detach(), dim=1)
    w = torch.zeros_like(outputs, requires_grad=True)
    transposed = grad(outputs, parameters, w, create_graph=True)  # J'w, whose derivative along v is J v

    def product() -> Any:
        (Jv,) = grad(transposed, w, vector, retain_graph=True)
        MJv = p * (Jv - (p * Jv).sum(dim=1, keepdim=True)) / problem.samples
        return grad(outputs, parameters, MJv, retain_graph=True)

    return product


def jax(problem: Problem) -> Product:
    import jax
    import jax.numpy as jnp

    parameters = [jnp.asarray(part) for part in problem.parts(problem.theta)]
    vector = [jnp.asarray(part) for part in problem.parts(problem.v)]
    X = jnp.asarray(problem.X)

    def outputs(parts: list[Any]) -> Any:
        h = X
        for layer in range(len(parts) // 2):
            h = h @ parts[2 * layer].T + parts[2 * layer + 1]
            h = jnp.tanh(h) if layer < len(parts) // 2 - 1 else h
        return h

    Z, push = jax.linearize(outputs, parameters)  # the forward pass is run once
    pull = jax.linear_transpose(push, parameters)
    p = jax.nn.softmax(Z)

    def product(parts: list[Any]) -> Any:
        Jv = push(parts)
        return pull(p * (Jv - (p * Jv).sum(axis=1, keepdims=True)) / problem.samples)[0]

    fast = jax.jit(product)
    return lambda: jax.block_until_ready(fast(vector))


PEERS = {"curvlinops": curvlinops, "BackPACK": backpack, "torch": double_backward, "jax": jax}


def products(settings: Settings) -> Group:
    """One product and a block of eight, beside the peers' one."""
    group = Group(
        "Gauss-Newton products of networks",
        "Single precision, softmax cross-entropy, tanh units, one batch. Every contender has run its forward pass "
        "before, where it can (curvlinops runs it again in each product). torch: two backward passes over a kept "
        "record, with the loss's curvature in closed form. All products agree to 1e-4. The matrix-multiply rate is "
        f"that of numpy.matmul with matrices of order {SQUARE}, in turn with the others.",
    )
    for sizes, samples, asked in NETWORKS[:1] if settings.quick else NETWORKS:
        _measure(group, settings, Problem(sizes, samples), asked)
    return group


def _measure(group: Group, settings: Settings, problem: Problem, asked: float) -> None:
    out, block = np.empty_like(problem.v), np.empty_like(problem.V)
    A, B, C = (np.ones((SQUARE, SQUARE), np.float32) for _ in range(3))
    calls: dict[str, Product] = {
        "cgopt": lambda: problem.G.matvec(problem.v, out),
        f"cgopt, {BLOCK} vectors": lambda: problem.G.matmat(problem.V, block),
    }
    absent = {}
    for name, make in PEERS.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # peers warn of their own deprecated calls
                calls[name] = make(problem)
                _must_agree(problem, name, calls[name]())
        except ModuleNotFoundError as error:
            absent[name] = f"{error.name} is not installed"
    square = take_turns(
        {name: _turn(call) for name, call in calls.items()} | {"matmul": _turn(lambda: np.matmul(A, B, out=C))},
        settings.repeat,
    )
    rates = [2 * SQUARE**3 / seconds for seconds in square.pop("matmul")]
    group.add(problem.name, square, {"curvlinops": Target(asked, "times")}, absent=absent)
    group.raw[problem.name] = square | {"matmul, flop/s": rates}
    medians = {name: statistics.median(values) for name, values in square.items()}
    share = problem.flops / medians["cgopt"] / statistics.median(rates)
    ones = medians[f"cgopt, {BLOCK} vectors"] / medians["cgopt"]
    group.rows.append(
        Row(problem.name, "cgopt's rate", target=Target(RATE_TARGET, "rate"), value=share)
        if problem.sizes[0] > 500  # of the large network
        else Row(problem.name, "cgopt's rate", note=f"{share:.0%} of the matrix-multiply rate")
    )
    group.rows.append(Row(problem.name, f"{BLOCK} vectors over one", target=Target(BLOCK_TARGET, "ones"), value=ones))


def _turn(call: Product) -> Callable[[], float]:
    """Seconds of one call, from as many as fill a hundredth of a second."""
    call()
    start = time.perf_counter()
    call()
    count = max(1, round(TURN_SECONDS / (time.perf_counter() - start)))

    def turn() -> float:
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count

    return turn


def _must_agree(problem: Problem, name: str, product: Any) -> None:
    ours = problem.parts(problem.G @ problem.v)
    for mine, theirs in zip(ours, product, strict=True):
        gap = np.linalg.norm(mine - np.asarray(theirs.detach() if hasattr(theirs, "detach") else theirs))
        if not gap <= 1e-4 * np.linalg.norm(mine):
            raise RuntimeError(f"{name} on {problem.name} computes another product: its time means nothing")
