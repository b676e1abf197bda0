"""Deep autoencoders: Hessian-free optimisation gets further than L-BFGS and Adam for the same number of gradients."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import cgopt
from benchmarks import autoencoder


def by_hessian_free(problem, gradients):
    f = cgopt.optimize.NetworkObjective(
        problem.network, problem.loss, problem.X, problem.X, seed=0, **problem.hessian_free["parts"]
    )

    def stop(x):
        if f.cost >= gradients:
            raise StopIteration

    options = problem.hessian_free["options"]
    return cgopt.optimize.hessian_free(f, problem.start(), maxiter=10_000, callback=stop, **options).x


def by_lbfgs(problem, gradients):
    calls = []

    def both(theta):
        calls.append(theta)
        return problem.network.loss_and_gradient(theta, problem.X, problem.loss, problem.X)

    def stop(_):
        if len(calls) >= gradients:
            raise StopIteration

    return cgopt.nn.lbfgs(both, problem.start(), maxiter=10_000, history=20, rtol=1e-12, callback=stop).x


def by_adam(problem, gradients, rate):
    theta, X = problem.start(), problem.X
    adam = cgopt.nn.Adam(theta.size, learning_rate=rate, dtype=theta.dtype)
    at, rng = problem.network.linearize(theta, X[: problem.batch]), np.random.default_rng(0)
    for _ in range(gradients):
        order = rng.permutation(len(X))
        for start in range(0, len(X) - problem.batch + 1, problem.batch):
            batch = X[order[start : start + problem.batch]]
            at.update(theta, batch)
            adam.step(theta, at.vjp(problem.loss.gradient(at.output, batch)))
    return theta


@pytest.fixture(scope="module")
def digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed: pip install 'cgopt[test]'")
    return autoencoder.digits()


def test_digits_in_fewer_gradients_than_lbfgs(digits):
    ours, theirs = (digits.error(train(digits, 300)) for train in (by_hessian_free, by_lbfgs))
    assert ours < 0.5 * theirs


@pytest.mark.long
@pytest.mark.parametrize("rate", autoencoder.RATES["digits"])
def test_digits_in_fewer_gradients_than_adam(digits, rate):
    ours, theirs = digits.error(by_hessian_free(digits, 500)), digits.error(by_adam(digits, 1000, rate))
    assert ours < theirs


@pytest.mark.skipif("CGOPT_DATA" not in os.environ, reason="set CGOPT_DATA to a folder with images/mnist_u8.npz")
def test_principal_components_of_mnist_have_the_published_error():
    folders = [Path(folder) for folder in os.environ["CGOPT_DATA"].split(os.pathsep)]
    if not any((folder / "images" / "mnist_u8.npz").is_file() for folder in folders):
        pytest.skip("there is no images/mnist_u8.npz in CGOPT_DATA")
    train, test = autoencoder.images(None)
    # Hinton and Salakhutdinov 2006: 13.87
    assert autoencoder.pca_error(train, test, 30) == pytest.approx(autoencoder.PCA_PUBLISHED, abs=0.01)
