// The passes of an iteration one by one, for operators and preconditioners that only the host can call. The scalars stay
// on the device: each pass ends in the block that comes last, which adds up the parts and draws the conclusions. So the
// host may send any number of iterations, or a recorded graph of them, and look afterwards: once `state` says that the
// solve is over, or that the true residual is asked for, what follows leaves everything as it is.
//
// state[0] is the code, state[1] the iterations made, state[2] the event, state[3] the iterations that may be made.
// A pass that is called with `alone` set is the primitive of `cgopt.kernels.reference`: it leaves its sums in `sums`, and
// decides nothing.

#include "common.cuh"
#include "scalars.cuh"
#include "matrix.cuh"
#include "passes.cuh"

constexpr u32 ALPHA = SCALARS, BETA = SCALARS + 1, NEW_RR = SCALARS + 2, NEW_RZ = SCALARS + 3;

// After q = A p:  alpha = r'z / p'Ap.
__device__ inline void conclude_product(double pq, double* s, int* state)
{
    if (positive(pq))
        s[ALPHA] = s[RZ] / pq;
    else
        state[0] = curvature_code(pq, s);
}

// After z = M r:  beta = r'z / (r'z before).
__device__ inline void conclude_residual(double rr, double rz, double* s)
{
    s[NEW_RR] = rr;
    s[NEW_RZ] = rz;
    s[BETA] = rz / s[RZ];
}

// q = A p,  p'q
extern "C" __global__ void __launch_bounds__(BLOCK) apply_dot(
    u64 n, MATRIX_PARAMETERS, const real* p, real* q, double* s, int* state, double* sums, double* parts, u32* arrived,
    int alone)
{
    SHARED_MEMORY(shared);
    if (!alone && state[0] != RUNNING) return;
    Pair sum = {0.0, 0.0};
    for_rows(MATRIX, n, p, [&](u64 i, real Ap) {
        q[i] = Ap;
        sum.a += (double)p[i] * Ap;
    });
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    sums[0] = sum.a;
    if (!alone) conclude_product(sum.a, s, state);
}

// r = scale b - A x,  r'r
extern "C" __global__ void __launch_bounds__(BLOCK) residual(
    u64 n, MATRIX_PARAMETERS, const real* b, double scale, const real* x, real* r, double* sums, double* parts,
    u32* arrived)
{
    SHARED_MEMORY(shared);
    const real c = (real)scale;
    Pair sum = {0.0, 0.0};
    for_rows(MATRIX, n, x, [&](u64 i, real Ax) {
        const real ri = c * b[i] - Ax;
        r[i] = ri;
        sum.a += (double)ri * ri;
    });
    if (last_block_sum(sum, parts, arrived, shared, &sum) && threadIdx.x == 0) sums[0] = sum.a;
}

// p'q for a q = A p that the host has had computed
extern "C" __global__ void __launch_bounds__(BLOCK) dot(
    u64 n, const real* p, const real* q, double* s, int* state, double* sums, double* parts, u32* arrived, int alone)
{
    SHARED_MEMORY(shared);
    if (!alone && state[0] != RUNNING) return;
    Pair sum = {dot_pass(n, thread_of_grid(), threads_of_grid(), p, q), 0.0};
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    sums[0] = sum.a;
    if (!alone) conclude_product(sum.a, s, state);
}

// r = scale b - q,  r'r, for a q = A x that the host has had computed
extern "C" __global__ void __launch_bounds__(BLOCK) residual_from(
    u64 n, const real* b, double scale, const real* q, real* r, double* sums, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const real c = (real)scale;
    Pair sum = {0.0, 0.0};
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        const real ri = c * b[i] - q[i];
        r[i] = ri;
        sum.a += (double)ri * ri;
    }
    if (last_block_sum(sum, parts, arrived, shared, &sum) && threadIdx.x == 0) sums[0] = sum.a;
}

// r -= alpha q,  r'r,  r'z with z = inverse * r (or r, without an inverse); alpha is s[ALPHA]
extern "C" __global__ void __launch_bounds__(BLOCK) update_residual(
    u64 n, const real* inverse, const real* q, real* r, double* s, int* state, double* sums, double* parts,
    u32* arrived, int alone)
{
    SHARED_MEMORY(shared);
    if (!alone && state[0] != RUNNING) return;
    Pair sum = residual_pass(n, thread_of_grid(), threads_of_grid(), inverse, s[ALPHA], q, r);
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    if (!inverse) sum.b = sum.a;
    sums[0] = sum.a;
    sums[1] = sum.b;
    if (!alone) conclude_residual(sum.a, sum.b, s);
}

// r'z and q'z for a z = M r that the host has had computed. Where M varies, beta is Polak and Ribiere's:
// (r - r before)'z / (r'z before), in which r - r before = -alpha q.
extern "C" __global__ void __launch_bounds__(BLOCK) weigh(
    u64 n, const real* r, const real* z, const real* q, int varies, double* s, int* state, double* sums, double* parts,
    u32* arrived, int alone)
{
    SHARED_MEMORY(shared);
    if (!alone && state[0] != RUNNING) return;
    Pair sum = {0.0, 0.0};
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        sum.a += (double)r[i] * z[i];
        if (varies) sum.b += (double)q[i] * z[i];
    }
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    sums[0] = sum.a;
    sums[1] = sum.b;
    if (alone) return;
    conclude_residual(s[NEW_RR], sum.a, s);
    if (varies) s[BETA] = -s[ALPHA] * sum.b / s[RZ];
}

// x += alpha p,  p = z + beta p,  x'x,  p'p, with z = inverse * r where there is an inverse; alpha and beta are s[ALPHA],
// s[BETA]. Ends the iteration: its scalars are entered, and what calls for the true residual is noted.
extern "C" __global__ void __launch_bounds__(BLOCK) update_direction(
    u64 n, const real* inverse, const real* z, real* p, real* x, double* s, int* state, double* log, double* sums,
    double* parts, u32* arrived, int alone)
{
    SHARED_MEMORY(shared);
    if (!alone && state[0] != RUNNING) return;
    Pair sum = direction_pass(n, thread_of_grid(), threads_of_grid(), inverse, s[ALPHA], s[BETA], z, p, x);
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    sums[0] = sum.a;
    sums[1] = sum.b;
    if (alone) return;
    const int k = state[1];
    const double rr = s[NEW_RR], rz = s[NEW_RZ], beta = rz / s[RZ];
    const int event = note_step(s[ALPHA], rr, rz, sum.a, sum.b, s);
    log[LOG_COLUMNS * k + LOG_RR] = rr;
    log[LOG_COLUMNS * k + LOG_RZ] = rz;
    log[LOG_COLUMNS * k + LOG_ALPHA] = s[ALPHA];
    log[LOG_COLUMNS * k + LOG_BETA] = beta;
    state[1] = k + 1;
    state[2] = event;
    if (event != NOTHING)
        state[0] = LOOK;  // the host computes the true residual, and judges
    else if (!positive(rz))
        state[0] = product_code(rz);
    else if (k + 1 >= state[3])
        state[0] = LOOK;
}

// p = z,  r'z,  p'p, with z = inverse * r where there is an inverse
extern "C" __global__ void __launch_bounds__(BLOCK) restart(
    u64 n, const real* inverse, const real* r, const real* z, real* p, double* sums, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    Pair sum = restart_pass(n, thread_of_grid(), threads_of_grid(), inverse, r, z, p);
    if (!last_block_sum(sum, parts, arrived, shared, &sum) || threadIdx.x != 0) return;
    sums[0] = sum.a;
    sums[1] = sum.b;
}
