// The passes of an iteration for several systems with one matrix. Vectors are the rows of (k, n) arrays, and only the
// `m` systems that `act` lists are touched. What blocks of one system do, and how they add up, does not depend on how
// many others there are.

#include "common.cuh"
#include "matrix.cuh"
#include "passes.cuh"

// The systems of one task of a product: MANY share what is read of the matrix.
struct Systems {
    u32 first, count;
    u64 at[MANY];  // where their vectors begin

    __device__ Systems(u32 number, const u32* act, u32 m, u64 n) : first(number * MANY)
    {
        count = m - first < MANY ? m - first : MANY;
        for (u32 c = 0; c < MANY; ++c) at[c] = (u64)act[first + (c < count ? c : 0)] * n;
    }
};

__device__ inline u32 tasks_of_product(u32 m) { return (m + MANY - 1) / MANY; }

// q_j = A p_j,  sums[a] = p_j'q_j for j = act[a]
extern "C" __global__ void __launch_bounds__(BLOCK) apply_dot_many(
    u64 n, MATRIX_PARAMETERS, const real* p, real* q, const u32* act, u32 m, double* sums, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(tasks_of_product(m));
    const Systems own(task.number, act, m, n);
    const real* v[MANY];
    double sum[MANY], all[MANY];
    for (u32 c = 0; c < MANY; ++c) v[c] = p + own.at[c], sum[c] = 0.0;
    for_rows_of_many(MATRIX, n, v, own.count, task.thread, task.threads, [&](u64 i, const real* Ap) {
        for (u32 c = 0; c < MANY; ++c)
            if (c < own.count) {
                q[own.at[c] + i] = Ap[c];
                sum[c] += (double)v[c][i] * Ap[c];
            }
    });
    if (!task.sum(sum, all, parts, arrived, shared) || threadIdx.x != 0) return;
    for (u32 c = 0; c < MANY; ++c)
        if (c < own.count) sums[own.first + c] = all[c];
}

// r_j = b_j - A x_j,  sums[a] = r_j'r_j for j = act[a]
extern "C" __global__ void __launch_bounds__(BLOCK) residual_many(
    u64 n, MATRIX_PARAMETERS, const real* b, const real* x, real* r, const u32* act, u32 m, double* sums,
    double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(tasks_of_product(m));
    const Systems own(task.number, act, m, n);
    const real* v[MANY];
    double sum[MANY], all[MANY];
    for (u32 c = 0; c < MANY; ++c) v[c] = x + own.at[c], sum[c] = 0.0;
    for_rows_of_many(MATRIX, n, v, own.count, task.thread, task.threads, [&](u64 i, const real* Ax) {
        for (u32 c = 0; c < MANY; ++c)
            if (c < own.count) {
                const real ri = b[own.at[c] + i] - Ax[c];
                r[own.at[c] + i] = ri;
                sum[c] += (double)ri * ri;
            }
    });
    if (!task.sum(sum, all, parts, arrived, shared) || threadIdx.x != 0) return;
    for (u32 c = 0; c < MANY; ++c)
        if (c < own.count) sums[own.first + c] = all[c];
}

// What ends a pass over vectors, a task for each system: its two sums.
__device__ inline void leave_sums(const Task& task, Pair v, double* sums, double* parts, u32* arrived, double* shared)
{
    const double own[2] = {v.a, v.b};
    double all[2];
    if (!task.sum(own, all, parts, arrived, shared) || threadIdx.x != 0) return;
    sums[2 * task.number] = all[0];
    sums[2 * task.number + 1] = all[1];
}

// a_j'b_j
extern "C" __global__ void __launch_bounds__(BLOCK) dot_many(
    u64 n, const real* a, const real* b, const u32* act, u32 m, double* sums, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(m);
    const u64 at = act[task.number] * n;
    leave_sums(task, {dot_pass(n, task.thread, task.threads, a + at, b + at), 0.0}, sums, parts, arrived, shared);
}

// r_j -= alpha_j q_j,  r_j'r_j,  r_j'z_j with z = inverse * r (or r, without an inverse)
extern "C" __global__ void __launch_bounds__(BLOCK) update_residual_many(
    u64 n, const real* inverse, const double* alpha, const real* q, real* r, const u32* act, u32 m, double* sums,
    double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(m);
    const u32 j = act[task.number];
    Pair sum = residual_pass(n, task.thread, task.threads, inverse, alpha[j], q + j * n, r + j * n);
    if (!inverse) sum.b = sum.a;
    leave_sums(task, sum, sums, parts, arrived, shared);
}

// x_j += alpha_j p_j,  p_j = z_j + beta_j p_j,  x_j'x_j,  p_j'p_j, with inverse * z for z where there is an inverse
extern "C" __global__ void __launch_bounds__(BLOCK) update_direction_many(
    u64 n, const real* inverse, const double* alpha, const double* beta, const real* z, real* p, real* x,
    const u32* act, u32 m, double* sums, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(m);
    const u32 j = act[task.number];
    const Pair sum =
        direction_pass(n, task.thread, task.threads, inverse, alpha[j], beta[j], z + j * n, p + j * n, x + j * n);
    leave_sums(task, sum, sums, parts, arrived, shared);
}

// p_j = z_j,  r_j'z_j,  p_j'p_j, with inverse * z for z where there is an inverse
extern "C" __global__ void __launch_bounds__(BLOCK) restart_many(
    u64 n, const real* inverse, const real* r, const real* z, real* p, const u32* act, u32 m, double* sums,
    double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const Task task(m);
    const u64 at = act[task.number] * n;
    const Pair sum = restart_pass(n, task.thread, task.threads, inverse, r + at, z + at, p + at);
    leave_sums(task, sum, sums, parts, arrived, shared);
}
