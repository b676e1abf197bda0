"""Test functions of J. J. More, B. S. Garbow and K. E. Hillstrom, ACM Trans. Math. Softw. 7, 1981, with their minima.

Each is a sum of squares; the residuals are written for complex arguments, so that their derivatives come from the
complex step (W. Squire and G. Trapp, SIAM Review 40, 1998), exact to rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Problem(NamedTuple):
    residuals: object
    x0: list
    minima: tuple  # published values of f, any of which will do

    def fun(self, x):
        return float(np.sum(self.residuals(np.asarray(x, float)) ** 2))

    def jac(self, x):
        return 2.0 * self.jacobian(x).T @ self.residuals(np.asarray(x, float))

    def jacobian(self, x):
        steps = np.asarray(x, complex)[None, :] + 1e-200j * np.eye(len(x))
        return np.array([self.residuals(z).imag / 1e-200 for z in steps]).T

    def gauss_newton(self, x, v):
        J = self.jacobian(x)
        return 2.0 * J.T @ (J @ v)


def helical_valley(x):
    theta = np.arctan(x[1] / x[0]) / (2 * np.pi) + (0.5 if x[0].real < 0 else 0.0)
    return np.array([10 * (x[2] - 10 * theta), 10 * (np.sqrt(x[0] ** 2 + x[1] ** 2) - 1), x[2]])


BARD_Y = np.array([0.14, 0.18, 0.22, 0.25, 0.29, 0.32, 0.35, 0.39, 0.37, 0.58, 0.73, 0.96, 1.34, 2.10, 4.39])
KOWALIK_Y = np.array([0.1957, 0.1947, 0.1735, 0.1600, 0.0844, 0.0627, 0.0456, 0.0342, 0.0323, 0.0235, 0.0246])
KOWALIK_U = np.array([4.0, 2.0, 1.0, 0.5, 0.25, 0.167, 0.125, 0.1, 0.0833, 0.0714, 0.0625])


def bard(x):
    u = np.arange(1, 16)
    v = 16 - u
    return BARD_Y - (x[0] + u / (v * x[1] + np.minimum(u, v) * x[2]))


def kowalik_osborne(x):
    u = KOWALIK_U
    return KOWALIK_Y - x[0] * (u**2 + u * x[1]) / (u**2 + u * x[2] + x[3])


def box(x):
    t = 0.1 * np.arange(1, 11)
    return np.exp(-t * x[0]) - np.exp(-t * x[1]) - x[2] * (np.exp(-t) - np.exp(-10 * t))


def brown_dennis(x):
    t = np.arange(1, 21) / 5
    return (x[0] + t * x[1] - np.exp(t)) ** 2 + (x[2] + x[3] * np.sin(t) - np.cos(t)) ** 2


def penalty(x):
    return np.append(np.sqrt(1e-5) * (x - 1), np.sum(x**2) - 0.25)


def variably_dimensioned(x):
    s = np.sum(np.arange(1, x.size + 1) * (x - 1))
    return np.concatenate([x - 1, [s, s**2]])


def broyden_tridiagonal(x):
    before, after = np.append(0.0, x[:-1]), np.append(x[1:], 0.0)
    return (3 - 2 * x) * x - before - 2 * after + 1


def rosenbrock(x):
    return np.concatenate([10 * (x[1::2] - x[::2] ** 2), 1 - x[::2]])


def powell_singular(x):
    return np.array(
        [x[0] + 10 * x[1], np.sqrt(5) * (x[2] - x[3]), (x[1] - 2 * x[2]) ** 2, np.sqrt(10) * (x[0] - x[3]) ** 2]
    )


def wood(x):
    return np.array(
        [
            10 * (x[1] - x[0] ** 2),
            1 - x[0],
            np.sqrt(90) * (x[3] - x[2] ** 2),
            1 - x[2],
            np.sqrt(10) * (x[1] + x[3] - 2),
            (x[1] - x[3]) / np.sqrt(10),
        ]
    )


def beale(x):
    i = np.arange(1, 4)
    return np.array([1.5, 2.25, 2.625]) - x[0] * (1 - x[1] ** i)


def freudenstein_roth(x):
    return np.array([-13 + x[0] + ((5 - x[1]) * x[1] - 2) * x[1], -29 + x[0] + ((x[1] + 1) * x[1] - 14) * x[1]])


def brown_badly_scaled(x):
    return np.array([x[0] - 1e6, x[1] - 2e-6, x[0] * x[1] - 2])


def trigonometric(x):
    n = x.size
    return n - np.sum(np.cos(x)) + np.arange(1, n + 1) * (1 - np.cos(x)) - np.sin(x)


MGH = {
    "rosenbrock": Problem(rosenbrock, [-1.2, 1.0], (0.0,)),
    "extended rosenbrock": Problem(rosenbrock, [-1.2, 1.0] * 10, (0.0,)),
    "freudenstein-roth": Problem(freudenstein_roth, [0.5, -2.0], (0.0, 48.9842)),
    "powell singular": Problem(powell_singular, [3.0, -1.0, 0.0, 1.0], (0.0,)),
    "brown badly scaled": Problem(brown_badly_scaled, [1.0, 1.0], (0.0,)),
    "beale": Problem(beale, [1.0, 1.0], (0.0,)),
    "helical valley": Problem(helical_valley, [-1.0, 0.0, 0.0], (0.0,)),
    "bard": Problem(bard, [1.0, 1.0, 1.0], (8.21487e-3, 17.4286)),
    "box": Problem(box, [0.0, 10.0, 20.0], (0.0,)),
    "wood": Problem(wood, [-3.0, -1.0, -3.0, -1.0], (0.0,)),
    "kowalik-osborne": Problem(kowalik_osborne, [0.25, 0.39, 0.415, 0.39], (3.07505e-4, 1.02734e-3)),
    "brown-dennis": Problem(brown_dennis, [25.0, 5.0, -5.0, -1.0], (85822.2,)),
    "penalty": Problem(penalty, [1.0, 2.0, 3.0, 4.0], (2.24997e-5,)),
    "variably dimensioned": Problem(variably_dimensioned, list(1 - np.arange(1, 11) / 10), (0.0,)),
    "trigonometric": Problem(trigonometric, [0.1] * 10, (0.0, 2.79506e-5)),
    "broyden tridiagonal": Problem(broyden_tridiagonal, [-1.0] * 12, (0.0,)),
}
