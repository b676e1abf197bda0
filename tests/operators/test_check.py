"""`check_operator` on curvature: agreement with finite differences, and the faults that users make."""

from __future__ import annotations

import numpy as np
import pytest

from cgopt.operators import FiniteDifferenceGaussNewton, FiniteDifferenceHessian, GaussNewton, Hessian
from cgopt.testing import check_operator
from tests.nn.cases import LOSSES, NETWORKS, SAMPLES, Case


def differences(case):
    def gradient(theta):
        return case.network.loss_and_gradient(theta, case.X, case.loss, case.Y)[1]

    return FiniteDifferenceHessian(gradient, case.theta, sides="two")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", NETWORKS)
def test_products_agree_with_finite_differences(kind, loss):
    case = Case(kind, loss)
    H = Hessian(case.at, case.loss, case.Y)
    report = check_operator(H, definite=False, reference=differences(case), rtol=1e-7)
    assert report.ok, report
    assert report["reference"].ok
    G = GaussNewton(case.at, case.loss, case.Y)
    M = case.loss.output_hessian(case.at.output, case.Y)
    by_outputs = FiniteDifferenceGaussNewton(lambda t: case.network.forward(t, case.X), case.at.vjp, case.theta, M)
    report = check_operator(G, definite=False, reference=by_outputs, rtol=1e-6)
    assert report.ok, report


def test_a_sum_taken_for_a_mean_is_named():
    case = Case("tanh", "softmax")
    report = check_operator(
        SAMPLES * Hessian(case.at, case.loss, case.Y), definite=False, reference=differences(case), rtol=1e-7
    )
    assert [check.name for check in report.failures] == ["reference"]
    assert "A is 7 times the reference: is one of the mean loss" in report["reference"].message


def test_a_wrong_sign_is_named():
    case = Case("tanh", "softmax")
    report = check_operator(
        -1.0 * Hessian(case.at, case.loss, case.Y), definite=False, reference=differences(case), rtol=1e-7
    )
    assert "A is -1 times the reference: change its sign" in report["reference"].message


def test_another_matrix_is_named():
    case = Case("tanh", "softmax")
    report = check_operator(
        GaussNewton(case.at, case.loss, case.Y), definite=False, reference=differences(case), rtol=1e-7
    )
    assert "no constant factor" in report["reference"].message


def test_a_batch_that_changes_is_no_one_matrix():
    case = Case("tanh", "softmax")
    rng = np.random.default_rng(0)

    def product(v):
        rows = rng.integers(0, SAMPLES, 4)  # a new batch for each product
        at = case.network.linearize(case.theta, case.X[rows])
        return GaussNewton(at, case.loss, case.Y[rows]) @ v

    report = check_operator(product, n=case.network.n, reference=differences(case))
    assert [check.name for check in report.failures] == ["determinism"]
    assert report["reference"].ok is None
