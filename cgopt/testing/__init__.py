"""For your own tests: strategies that draw positive definite systems, and a check of operators.

The strategies are for Hypothesis, which tries many examples and, when one fails, looks for the simplest that
still does. So all of them shrink towards what one can work out by hand: size one, the identity, a diagonal
matrix, small whole numbers.

==========================  ========================================================================
name                        what it is
==========================  ========================================================================
`spd_matrices`              dense Hermitian positive definite matrices
`sparse_spd`                sparse ones, in any of SciPy's formats
`spd_operators`             one matrix in any form that a solver takes, with a dense double-precision oracle
`vectors`                   right-hand sides and starting points
`spectra`                   eigenvalues, for `spd_matrices` or for a test that needs to know them
`check_operator`            whether an operator is fit for conjugate gradients, and if not, why
==========================  ========================================================================

Importing this module needs Hypothesis: ``pip install "cgopt[test]"``. The first solve of a process compiles,
which takes longer than Hypothesis allows an example by default: put ``@settings(deadline=None)`` on tests
that solve.

>>> import numpy as np, cgopt
>>> from hypothesis import given, settings
>>> from cgopt.testing import spd_matrices
>>> @settings(deadline=None, max_examples=10)
... @given(spd_matrices(n=4, condition=100))
... def solves(A):
...     b = np.ones(4)
...     x, info = cgopt.cg(A, b, rtol=1e-8)
...     assert info == 0 and np.linalg.norm(b - A @ x) <= 1e-7
>>> solves()
"""

from .operator_check import Check, OperatorReport, check_operator
from .strategies import FORMS, OperatorCase, sparse_spd, spd_matrices, spd_operators, spectra, vectors

__all__ = [
    "FORMS",
    "Check",
    "OperatorCase",
    "OperatorReport",
    "check_operator",
    "sparse_spd",
    "spd_matrices",
    "spd_operators",
    "spectra",
    "vectors",
]
