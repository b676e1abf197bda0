// Products of small matrices with blocks of vectors, the rows of (s, n) arrays, for block conjugate gradients. A thread
// has whole columns, and keeps TILE rows of what it computes in registers while it goes over the rows that it reads.

#include "common.cuh"

// G = P T', in double precision: a task for each TILE x TILE piece of G
extern "C" __global__ void __launch_bounds__(BLOCK) block_gram(
    u64 n, u32 rows, u32 others, const real* P, const real* T, double* G, double* parts, u32* arrived)
{
    SHARED_MEMORY(shared);
    const u32 across = (others + TILE - 1) / TILE;
    const Task task((rows + TILE - 1) / TILE * across);
    const u32 top = task.number / across * TILE, left = task.number % across * TILE;
    const real *p[TILE], *t[TILE];
    for (u32 c = 0; c < TILE; ++c) {
        p[c] = P + (top + c < rows ? top + c : top) * n;
        t[c] = T + (left + c < others ? left + c : left) * n;
    }
    double own[TILE * TILE], all[TILE * TILE];
    for (u32 e = 0; e < TILE * TILE; ++e) own[e] = 0.0;
    for (u64 l = task.thread; l < n; l += task.threads) {
        double b[TILE];
        for (u32 c = 0; c < TILE; ++c) b[c] = t[c][l];
        for (u32 i = 0; i < TILE; ++i) {
            const double a = p[i][l];
            for (u32 c = 0; c < TILE; ++c) own[TILE * i + c] += a * b[c];
        }
    }
    if (!task.sum(own, all, parts, arrived, shared) || threadIdx.x != 0) return;
    for (u32 i = 0; i < TILE; ++i)
        for (u32 c = 0; c < TILE; ++c)
            if (top + i < rows && left + c < others) G[(top + i) * others + left + c] = all[TILE * i + c];
}

// out = base + K T, K (rows, inner); base may be null, which is zero, or out itself. A task for each TILE rows of out.
extern "C" __global__ void __launch_bounds__(BLOCK) block_combine(
    u64 n, u32 rows, u32 inner, const real* K, const real* T, const real* base, real* out)
{
    const Task task((rows + TILE - 1) / TILE);
    const u32 top = task.number * TILE;
    for (u64 l = task.thread; l < n; l += task.threads) {
        real sum[TILE];
        for (u32 c = 0; c < TILE; ++c) sum[c] = base && top + c < rows ? base[(top + c) * n + l] : (real)0;
        for (u32 j = 0; j < inner; ++j) {
            const real t = T[j * n + l];
            for (u32 c = 0; c < TILE; ++c)
                if (top + c < rows) sum[c] += K[(top + c) * inner + j] * t;
        }
        for (u32 c = 0; c < TILE; ++c)
            if (top + c < rows) out[(top + c) * n + l] = sum[c];
    }
}
