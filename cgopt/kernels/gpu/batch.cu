// Many small systems, a block each: `cgopt.kernels.batch.solve_batch`. A block takes one system after another, so that
// any number of them goes with any grid. The vectors x, r, p, q and the inverse diagonal lie in shared memory if they
// fit (`resident`), and the matrix is read once an iteration, by way of the caches.
//
// LAYOUT is DENSE or CSR (one pattern, values of its own for each system).

#include "common.cuh"
#include "scalars.cuh"

struct System {
    u32 n;
#if LAYOUT == CSR
    const u32 *indptr, *indices;
    const long long* mirror;
#endif
    const real* values;
    real *x, *r, *p, *q, *inverse;
    const real* b;
    double* shared;

    // each(j, a_ij) for the entries of row i that this thread reads
    template <class Each>
    __device__ void row(u32 i, u32 lane, Each each) const
    {
#if LAYOUT == CSR
        for (u32 j = indptr[i] + lane; j < indptr[i + 1]; j += LANES) each(indices[j], values[j]);
#else
        for (u32 j = lane; j < n; j += LANES) each(j, values[(u64)i * n + j]);
#endif
    }

    // row(i, (A v)_i) in the first of the threads that share a row; all see v as it was when all had come here
    template <class Row>
    __device__ void rows(const real* v, Row visit) const
    {
        const u32 lane = threadIdx.x % LANES, group = threadIdx.x % WARP / LANES;
        __syncthreads();
        for (u32 first = threadIdx.x / WARP * (WARP / LANES); first < n; first += blockDim.x / LANES) {
            const u32 i = first + group;
            real sum = 0;
            if (i < n) row(i, lane, [&](u32 j, real a) { sum += a * v[j]; });
            for (u32 d = LANES / 2; d > 0; d /= 2) sum += __shfl_down_sync(ALL_LANES, sum, d, LANES);
            if (i < n && lane == 0) visit(i, sum);
        }
        __syncthreads();
    }

    // r = b - A x,  r'r
    __device__ double true_residual() const
    {
        Pair sum = {0.0, 0.0};
        rows(x, [&](u32 i, real Ax) {
            const real ri = b[i] - Ax;
            r[i] = ri;
            sum.a += (double)ri * ri;
        });
        return block_sum(sum, shared).a;
    }

    // p = M r,  r'p,  p'p
    __device__ Pair start() const
    {
        Pair sum = {0.0, 0.0};
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            const real pi = inverse[i] * r[i];
            p[i] = pi;
            sum.a += (double)r[i] * pi;
            sum.b += (double)pi * pi;
        }
        return block_sum(sum, shared);
    }

    // r'M r
    __device__ double weigh() const
    {
        Pair sum = {0.0, 0.0};
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) sum.a += (double)r[i] * (inverse[i] * r[i]);
        return block_sum(sum, shared).a;
    }

    // Largest of a number over the block, NaN if one is NaN.
    __device__ double largest(double v) const
    {
        __syncthreads();
        for (u32 d = WARP / 2; d > 0; d /= 2) {
            const double other = __shfl_down_sync(ALL_LANES, v, d, WARP);
            if (!(other <= v)) v = v == v ? other : v;
        }
        if (threadIdx.x % WARP == 0) shared[SUMS + threadIdx.x / WARP] = v;
        __syncthreads();
        double most = shared[SUMS];
        for (u32 w = 1; w < blockDim.x / WARP; ++w) {
            const double other = shared[SUMS + w];
            if (!(other <= most)) most = most == most ? other : most;
        }
        __syncthreads();
        return most;
    }

    // Largest row sum of absolute values, and whether a diagonal entry is not positive; writes the inverse diagonal.
    __device__ Pair look(bool jacobi) const
    {
        double most = 0.0, bad = 0.0;
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            double sum = 0.0;
            real diagonal = 0;
#if LAYOUT == CSR
            for (u32 j = indptr[i]; j < indptr[i + 1]; ++j) {
                sum += fabs((double)values[j]);
                if (indices[j] == i) diagonal += values[j];
            }
#else
            for (u32 j = 0; j < n; ++j) sum += fabs((double)values[(u64)i * n + j]);
            diagonal = values[(u64)i * n + i];
#endif
            inverse[i] = jacobi ? (real)1 / diagonal : (real)1;
            if (!(sum <= most)) most = most == most ? sum : most;
            if (!(diagonal > (real)0)) bad = 1.0;
        }
        most = largest(most);
        return {most, largest(bad)};
    }

    // Largest difference of two entries that should be equal.
    __device__ double asymmetry() const
    {
        double most = 0.0;
#if LAYOUT == CSR
        for (u32 j = threadIdx.x; j < indptr[n]; j += blockDim.x) {
            const double image = mirror[j] < 0 ? 0.0 : (double)values[mirror[j]];
            const double gap = fabs((double)values[j] - image);
            most = gap > most ? gap : most;
        }
#else
        for (u32 k = threadIdx.x; k < n * n; k += blockDim.x) {
            const u32 i = k / n, j = k % n;
            if (j >= i) continue;
            const double gap = fabs((double)values[k] - (double)values[(u64)j * n + i]);
            most = gap > most ? gap : most;
        }
#endif
        return largest(most);
    }

    // One system, x being the first iterate: `cgopt.kernels.batch.solve_small`.
    __device__ int solve(double* s, u64 maxiter, u64* iterations) const
    {
        const double first = true_residual();  // r = b - A x,  r'r
        if (threadIdx.x == 0) s[RR] = s[BEST] = first;
        __syncthreads();
        u64 k = 0;
        int code = RUNNING;
        bool again = true;
        *iterations = 0;
        if (first <= s[TARGET]) return CONVERGED;
        while (k < maxiter) {
            if (again) {
                const Pair now = start();  // p = M r,  r'p,  p'p
                if (threadIdx.x == 0) {
                    s[RZ] = now.a;
                    s[PP] = now.b;
                }
                __syncthreads();
                again = false;
            }
            const double rz_old = s[RZ];
            if (!positive(rz_old)) {
                code = product_code(rz_old);
                break;
            }
            Pair sum = {0.0, 0.0};
            rows(p, [&](u32 i, real Ap) {
                q[i] = Ap;
                sum.a += (double)p[i] * Ap;
            });
            const double pq = block_sum(sum, shared).a;  // q = A p,  p'q
            if (!positive(pq)) {
                code = curvature_code(pq, s);
                break;
            }
            const double alpha = rz_old / pq;  // alpha = r'z / p'Ap
            const real a = (real)alpha;
            Pair now = {0.0, 0.0};
            double xx = 0.0;
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) {  // x += alpha p,  r -= alpha q,  r'r,  r'M r,  x'x
                const real xi = x[i] + a * p[i], ri = r[i] - a * q[i];
                x[i] = xi;
                r[i] = ri;
                now.a += (double)ri * ri;
                now.b += (double)ri * (inverse[i] * ri);
                xx += (double)xi * xi;
            }
            now = block_sum(now, shared);
            const double rr = now.a, rz = now.b;
            const real c = (real)(rz / rz_old);
            Pair then = {xx, 0.0};
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) {  // p = M r + (r'z / r'z before) p,  p'p
                const real pi = inverse[i] * r[i] + c * p[i];
                p[i] = pi;
                then.b += (double)pi * pi;
            }
            then = block_sum(then, shared);
            ++k;
            if (threadIdx.x == 0) shared[ANSWER] = note_step(alpha, rr, rz, then.a, then.b, s);
            __syncthreads();
            const int event = (int)shared[ANSWER];
            if (event == NOTHING) continue;
            const double truth = true_residual();  // r = b - A x,  r'r
            if (threadIdx.x == 0) {
                bool restarts;
                shared[ANSWER + 1] = judge(truth, event, s, &restarts);
                shared[ANSWER + 2] = restarts ? 1.0 : 0.0;
            }
            __syncthreads();
            code = (int)shared[ANSWER + 1];
            again = shared[ANSWER + 2] != 0.0;
            if (code != RUNNING) break;
            if (!again) {
                const double weight = weigh();  // r'M r;  p is kept
                if (threadIdx.x == 0) s[RZ] = weight;
                __syncthreads();
            }
        }
        *iterations = k;
        if (code == CONVERGED) return code;
        const double truth = true_residual();
        if (threadIdx.x == 0) s[RR] = truth;
        __syncthreads();
        return truth <= s[TARGET] ? CONVERGED : code == RUNNING ? MAXITER : code;
    }
};

extern "C" __global__ void __launch_bounds__(BLOCK) solve_batch(
    u64 systems, u32 n,
#if LAYOUT == CSR
    const u32* indptr, const u32* indices, const long long* mirror, u64 entries,
#else
    u64 entries,
#endif
    const real* values, const real* b, real* x, real* space, int resident, int jacobi, int check, double rtol,
    double atol, u64 maxiter, double unit, double patience, double low, double high, long long* codes,
    long long* iterations, double* rr)
{
    SHARED_MEMORY(shared);
    double* s = shared + STATE;
    real* own = resident ? (real*)(shared + SHARED_DOUBLES) : space + (u64)blockIdx.x * 5 * n;
    for (u64 k = blockIdx.x; k < systems; k += gridDim.x) {
        __syncthreads();
        const System A = {n,
#if LAYOUT == CSR
                          indptr, indices, mirror,
#endif
                          values + k * entries, own, own + n, own + 2 * n, own + 3 * n, own + 4 * n, b + k * n, shared};
        Pair sum = {0.0, 0.0};
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) {
            A.x[i] = x[k * n + i];
            sum.a += (double)A.b[i] * A.b[i];
        }
        const double bb = block_sum(sum, shared).a;  // b'b
        const Pair seen = A.look(jacobi);
        const double norm = seen.a;
        int code = RUNNING;
        u64 made = 0;
        double truth = 0.0;
        if (!(norm <= LARGEST))
            code = NOT_FINITE;
        else if (!(bb <= LARGEST) || !(bb == 0.0 || (low * low < bb && bb < high * high)) || !(low < norm && norm < high))
            code = EXTREME;
        else if (check && A.asymmetry() > sqrt(unit) * norm)
            code = NOT_SYMMETRIC;
        else if (bb == 0.0) {
            code = CONVERGED;
            for (u32 i = threadIdx.x; i < n; i += blockDim.x) A.x[i] = 0;
        } else if (seen.b > 0.0) {
            code = INDEFINITE;
            truth = A.true_residual();
        } else {
            for (u32 i = threadIdx.x; i < SCALARS; i += blockDim.x) s[i] = 0.0;
            __syncthreads();
            if (threadIdx.x == 0) {
                const double relative = rtol * rtol * bb, absolute = atol * atol;
                s[TARGET] = relative > absolute ? relative : absolute;
                s[UNIT] = unit;
                s[NORM_A] = norm;
                s[PATIENCE] = patience;
            }
            __syncthreads();
            code = A.solve(s, maxiter, &made);
            truth = s[RR];
        }
        for (u32 i = threadIdx.x; i < n; i += blockDim.x) x[k * n + i] = A.x[i];
        if (threadIdx.x == 0) {
            codes[k] = code;
            iterations[k] = (long long)made;
            rr[k] = truth;
        }
    }
}
