// A whole solve by conjugate gradients in one launch: the loop `cgopt.kernels.loops.cg_steps`, for a grid whose blocks
// all run at once. Every block computes the same scalars from the same parts, and so takes the same decisions: nothing
// goes back to the host before the solve, or the steps that it was given, are over.
//
// Three barriers an iteration, each with the sums that the next pass needs. KIND is the preconditioner: IDENTITY,
// DIAGONAL, or CHEBYSHEV with degree - 1 products and barriers more.
//
// Bytes of an iteration: the matrix once, and 11 streams of a vector (q = A p: p, q written unread; r -= alpha q: r
// twice, q; x += alpha p, p = z + beta p: x twice, p twice, r), which is 10 here, where a store to a line that was not
// read costs one transfer; the inverse of a diagonal M twice more.

#include "common.cuh"
#include "scalars.cuh"
#include "matrix.cuh"
#include "passes.cuh"

struct Solve {
    u64 n;
    Matrix A;
    real *r, *z, *p, *q, *y, *d;
    const real* inverse;
    double theta, delta;  // centre and half length of Chebyshev's interval
    u32 degree;
    double* parts;  // three pairs for each block, one for each barrier of an iteration
    u32* arrived;
    double* shared;

    __device__ Pair all(Pair v, u32 slot) const
    {
        return grid_sum(v, parts + (u64)slot * 2 * gridDim.x, arrived, shared);
    }

    // z = M r,  r'r,  r'z, with r -= alpha q before. A diagonal's z is formed again where it is used.
    __device__ Pair residual_and_weight(double alpha) const
    {
        Pair sums = {0.0, 0.0};
#if KIND == CHEBYSHEV
        const real a = (real)alpha;
        double rho = delta / theta;  // rho_0 = 1 / sigma, sigma = theta / delta
        const real whole = (real)(1.0 / theta);
        for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
            const real ri = r[i] - (alpha == 0.0 ? (real)0 : a * q[i]);
            r[i] = y[i] = ri;
            z[i] = d[i] = whole * inverse[i] * ri;  // z = d = D^-1 r / theta
            sums.a += (double)ri * ri;
            if (degree == 1) sums.b += (double)ri * z[i];
        }
        real *old = d, *next = q;  // q is free until the next product
        for (u32 k = 1; k < degree; ++k) {
            grid_barrier(arrived);
            const double before = rho;
            rho = delta > 0.0 ? 1.0 / (2.0 * theta / delta - rho) : 0.0;  // rho = 1 / (2 sigma - rho before)
            const real e = (real)(rho * before), c = (real)(delta > 0.0 ? 2.0 * rho / delta : 1.0 / theta);
            const bool end = k + 1 == degree;
            for_rows(A, n, old, [&](u64 i, real Ad) {
                const real yi = y[i] - Ad;                             // y = r - A z
                const real di = e * old[i] + c * inverse[i] * yi;      // d = rho (rho before) d + (2 rho / delta) D^-1 y
                const real zi = z[i] + di;                             // z += d
                y[i] = yi;
                next[i] = di;
                z[i] = zi;
                if (end) sums.b += (double)r[i] * zi;
            });
            real* swap = old;
            old = next;
            next = swap;
        }
#else
        sums = residual_pass(n, thread_of_grid(), threads_of_grid(), diagonal(), alpha, q, r);
#endif
        sums = all(sums, 1);
#if KIND == IDENTITY
        sums.b = sums.a;
#endif
        return sums;
    }

    // What passes multiply by for z = M r, and what they multiply.
    __device__ const real* diagonal() const { return KIND == DIAGONAL ? inverse : nullptr; }
    __device__ const real* weighed() const { return KIND == CHEBYSHEV ? z : r; }

    // q = A p,  p'q
    __device__ double product() const
    {
        Pair sums = {0.0, 0.0};
        for_rows(A, n, p, [&](u64 i, real Ap) {
            q[i] = Ap;
            sums.a += (double)p[i] * Ap;
        });
        return all(sums, 0).a;
    }

    // x += alpha p,  p = z + beta p,  x'x,  p'p
    __device__ Pair direction(double alpha, double beta, real* x) const
    {
        return all(
            direction_pass(n, thread_of_grid(), threads_of_grid(), diagonal(), alpha, beta, weighed(), p, x), 2);
    }

    // r = scale b - A x,  r'r
    __device__ double residual(const real* b, double scale, const real* x) const
    {
        const real c = (real)scale;
        Pair sums = {0.0, 0.0};
        for_rows(A, n, x, [&](u64 i, real Ax) {
            const real ri = c * b[i] - Ax;
            r[i] = ri;
            sums.a += (double)ri * ri;
        });
        return all(sums, 0).a;
    }

    // p = z,  p'p; z = M r is there
    __device__ double restart() const
    {
        return all(restart_pass(n, thread_of_grid(), threads_of_grid(), diagonal(), r, weighed(), p), 2).b;
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK, RESIDENT) cg_steps(
    u64 n, MATRIX_PARAMETERS, const real* b, real* x, real* r, real* z, real* p, real* q, real* y, real* d,
    const real* inverse, double theta, double delta, u32 degree, double* scalars, double* log, double* parts,
    u32* arrived, u64 steps, int first, int last, int* ending)
{
    SHARED_MEMORY(shared);
    double* s = shared + STATE;
    const bool writes = blockIdx.x == 0 && threadIdx.x == 0;
    const Solve solve = {n, MATRIX, r, z, p, q, y, d, inverse, theta, delta, degree, parts, arrived, shared};
    for (u32 i = threadIdx.x; i < SCALARS; i += blockDim.x) s[i] = scalars[i];
    __syncthreads();
    int code = RUNNING;
    u64 k = 0;
    if (first) {
        const double rz = solve.residual_and_weight(0.0).b;  // z = M r,  r'z
        const double pp = solve.restart();                   // p = z,  p'p
        if (threadIdx.x == 0) {
            s[RZ] = rz;
            if (s[RZ0] == 0.0) s[RZ0] = rz;
            s[PP] = pp;
        }
        if (!positive(rz)) code = product_code(rz);
        __syncthreads();
    }
    while (code == RUNNING && k < steps) {
        const double pq = solve.product();  // q = A p,  p'q
        if (!positive(pq)) {
            code = curvature_code(pq, s);
            break;
        }
        const double rz_old = s[RZ], alpha = rz_old / pq;           // alpha = r'z / p'Ap
        const Pair now = solve.residual_and_weight(alpha);          // r -= alpha q,  z = M r,  r'r,  r'z
        double beta = now.b / rz_old, rz = now.b, rr = now.a;       // beta = r'z / (r'z before)
        const Pair then = solve.direction(alpha, beta, x);          // x += alpha p,  p = z + beta p,  x'x,  p'p
        if (threadIdx.x == 0) shared[ANSWER + 1] = note_step(alpha, rr, rz, then.a, then.b, s);
        __syncthreads();
        const int event = (int)shared[ANSWER + 1];
        if (event != NOTHING) {
            rr = solve.residual(b, s[SCALE], x);  // r = b - A x,  r'r
            if (threadIdx.x == 0) {
                bool again;
                shared[ANSWER + 2] = judge(rr, event, s, &again);
                shared[ANSWER + 3] = again ? 1.0 : 0.0;
            }
            __syncthreads();
            code = (int)shared[ANSWER + 2];
            if (code == RUNNING) {
                const bool again = shared[ANSWER + 3] != 0.0;
                rz = solve.residual_and_weight(0.0).b;  // z = M r,  r'z;  p is kept, or
                const double pp = again ? solve.restart() : s[PP];
                if (again) beta = 0.0;
                __syncthreads();
                if (threadIdx.x == 0) {
                    s[RZ] = rz;
                    s[PP] = pp;
                }
                __syncthreads();
            }
        }
        if (writes) {
            log[LOG_COLUMNS * k + LOG_RR] = rr;
            log[LOG_COLUMNS * k + LOG_RZ] = rz;
            log[LOG_COLUMNS * k + LOG_ALPHA] = alpha;
            log[LOG_COLUMNS * k + LOG_BETA] = beta;
        }
        ++k;
        if (code == RUNNING && !positive(rz)) code = product_code(rz);
    }
    if (code == RUNNING && last) {
        const double rr = solve.residual(b, s[SCALE], x);  // r = b - A x,  r'r
        if (threadIdx.x == 0) s[RR] = rr;
        code = MAXITER;
    }
    __syncthreads();
    // Every block has read the scalars before the first barrier, which all have passed.
    if (blockIdx.x == 0)
        for (u32 i = threadIdx.x; i < SCALARS; i += blockDim.x) scalars[i] = s[i];
    if (writes) {
        ending[0] = code;
        ending[1] = (int)k;
    }
}
