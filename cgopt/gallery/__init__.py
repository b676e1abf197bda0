"""Public test problems: symmetric positive definite matrices with a known origin, size and difficulty; sequences.

===========================  ======================================================================
name                         what it is
===========================  ======================================================================
`poisson`                    finite differences for the Laplacian, 1 to 3 dimensions
`poisson_eigenvalues`        the exact spectrum of `poisson`
`anisotropic_diffusion`      rotated anisotropic diffusion, bilinear finite elements
`elasticity`                 linear elasticity on squares or cubes, clamped on one side
`unstructured_poisson`       linear finite elements on a triangulation of random points
`wathen`                     a finite element mass matrix with a random density
`graph_laplacian`            a weighted graph Laplacian plus a small shift
`trefethen`                  primes on the diagonal, ones at distances that are powers of two
`prescribed_spectrum`        dense Hermitian matrix with given eigenvalues
`strakos_spectrum`           the spectrum on which rounding delays CG
`kernel_matrix`              dense covariance matrix of a Gaussian process
`hilbert`                    dense, and as badly conditioned as matrices get
`pyamg_example`              the SPD examples that PyAMG ships
`addition`                   sequences for recurrent networks: two marked numbers among many
`multiplication`             the same, multiplied
`temporal_order`             sequences: two symbols among distractors
`five_bit_memory`            sequences: five bits to be repeated after a silence
`load`, `available`          matrices in Matrix Market and .npz files, found by path or by name
===========================  ======================================================================

Sparse matrices are `scipy.sparse.csr_array` with sorted indices (int32 wherever the entries can be counted by
it), dense ones NumPy arrays; both are exactly symmetric, bit for bit. Functions that draw random numbers take
``rng``: None, a seed, or a `numpy.random.Generator`.
"""

from cgopt.gallery.dense import hilbert, kernel_matrix, prescribed_spectrum, strakos_spectrum
from cgopt.gallery.files import available, load, pyamg_example
from cgopt.gallery.finite_elements import elasticity, unstructured_poisson, wathen
from cgopt.gallery.graphs import graph_laplacian, trefethen
from cgopt.gallery.grids import anisotropic_diffusion, poisson, poisson_eigenvalues
from cgopt.gallery.sequences import Sequences, addition, five_bit_memory, multiplication, temporal_order

__all__ = [
    "Sequences",
    "addition",
    "anisotropic_diffusion",
    "available",
    "elasticity",
    "five_bit_memory",
    "graph_laplacian",
    "hilbert",
    "kernel_matrix",
    "load",
    "multiplication",
    "poisson",
    "poisson_eigenvalues",
    "prescribed_spectrum",
    "pyamg_example",
    "strakos_spectrum",
    "temporal_order",
    "trefethen",
    "unstructured_poisson",
    "wathen",
]
