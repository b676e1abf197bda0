// The passes of a multigrid cycle: on one level, a step of Chebyshev's method that smooths, and the transfers.
//
// Gauss-Seidel, which the cycles of `cgopt.kernels.cpu` smooth with, goes row by row; here each level, scaled to unit
// diagonal, is smoothed by the Chebyshev polynomial for the upper part of its spectrum, before and after alike, which
// keeps the cycle symmetric. Vectors and values are `real`, single precision. All is summed in order: same bits.

#include "common.cuh"
#include "scalars.cuh"
#include "matrix.cuh"

// First step from x = 0:  r = b,  d = r / theta,  x = d
extern "C" __global__ void __launch_bounds__(BLOCK) smooth_start(
    u64 n, double theta, const real* b, real* r, real* d, real* x)
{
    const real c = (real)(1.0 / theta);
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        r[i] = b[i];
        x[i] = d[i] = c * b[i];
    }
}

// First step from x:  r = b - A x,  d = r / theta; x is left to the next pass, since other rows still read it
extern "C" __global__ void __launch_bounds__(BLOCK) smooth_again(
    u64 n, MATRIX_PARAMETERS, double theta, const real* b, const real* x, real* r, real* d)
{
    const real c = (real)(1.0 / theta);
    for_rows(MATRIX, n, x, [&](u64 i, real Ax) {
        const real ri = b[i] - Ax;
        r[i] = ri;
        d[i] = c * ri;
    });
}

// Another step:  r -= A d,  e = a d + c r,  x += e  (and x += d before, where the last pass has left it)
extern "C" __global__ void __launch_bounds__(BLOCK) smooth_step(
    u64 n, MATRIX_PARAMETERS, double a, double c, int owed, const real* d, real* e, real* r, real* x)
{
    for_rows(MATRIX, n, d, [&](u64 i, real Ad) {
        const real ri = r[i] - Ad, ei = (real)a * d[i] + (real)c * ri;
        r[i] = ri;
        e[i] = ei;
        x[i] += owed ? d[i] + ei : ei;
    });
}

// out = (base -) A x for a rectangular matrix: `sign` is 1 for A x, -1 for base - A x, 2 for base + A x
extern "C" __global__ void __launch_bounds__(BLOCK) product(
    u64 n, MATRIX_PARAMETERS, int sign, const real* base, const real* x, real* out)
{
    for_rows(MATRIX, n, x, [&](u64 i, real Ax) {
        out[i] = sign == 1 ? Ax : sign == 2 ? base[i] + Ax : base[i] - Ax;
    });
}

// out = factor scale * x between the solver's vectors (of type `outer`) and the cycle's; one of them for each direction
extern "C" __global__ void __launch_bounds__(BLOCK) into_cycle(
    u64 n, const double* sigma, const outer* scale, const outer* x, real* b)
{
    const outer f = (outer)sigma[0];
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) b[i] = (real)(f * scale[i] * x[i]);
}

extern "C" __global__ void __launch_bounds__(BLOCK) out_of_cycle(
    u64 n, const double* sigma, double factor, const outer* scale, const real* x, outer* out)
{
    const outer f = (outer)(factor / sigma[0]);
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) out[i] = f * scale[i] * (outer)x[i];
}

// sigma: the power of two that brings the norm of scale * x to about one, whatever the size of the residual
extern "C" __global__ void __launch_bounds__(BLOCK) range_of(
    u64 n, const outer* scale, const outer* x, double* sigma, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    Pair sum = {0.0, 0.0};
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        const double v = (double)scale[i] * (double)x[i];
        sum.a += v * v;
    }
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    int exponent = 0;
    if (positive(sum.a)) frexp(sqrt(sum.a), &exponent);
    sigma[0] = ldexp(1.0, -exponent);
}
