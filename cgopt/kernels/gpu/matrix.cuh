// Products by rows. LANES threads of a warp share a row: one for short rows and diagonals, a whole warp for long ones.
// Matrix entries are read once a product, and say so, which leaves the caches to the vectors.

#if LAYOUT == CSR

#define MATRIX_PARAMETERS const u32 *indptr, const u32 *indices, const value *data
#define MATRIX Matrix{indptr, indices, data}

struct Matrix {
    const u32 *indptr, *indices;
    const value* data;

    template <class Use>
    __device__ void part_of_row(u64 i, u32 lane, u64, Use use) const
    {
        const u32 end = indptr[i + 1];
        for (u32 j = indptr[i] + lane; j < end; j += LANES) use((real)__ldcs(data + j), (u64)__ldcs(indices + j));
    }
};

#elif LAYOUT == DIA

#define MATRIX_PARAMETERS const long long *offsets, const value *data, u64 count
#define MATRIX Matrix{offsets, data, count}

struct Matrix {
    const long long* offsets;
    const value* data;
    u64 count;

    template <class Use>
    __device__ void part_of_row(u64 i, u32, u64 n, Use use) const
    {
        for (u64 d = 0; d < count; ++d) {
            const u64 column = i + (u64)offsets[d];  // to the left of the first it is huge, unsigned as it is
            if (column < n) use((real)__ldcs(data + d * n + i), column);
        }
    }
};

#else  // DENSE

#define MATRIX_PARAMETERS const value *values, u64 stride
#define MATRIX Matrix{values, stride}

struct Matrix {
    const value* values;
    u64 stride;

    template <class Use>
    __device__ void part_of_row(u64 i, u32 lane, u64 n, Use use) const
    {
        for (u64 j = lane; j < n; j += LANES) use((real)__ldcs(values + i * stride + j), j);
    }
};

#endif

// row(i, sums) for each row, with sums[c] = (A p[c])_i for c below `count`, in the first of the threads that share it.
// Called by all of `threads` threads, numbered by `thread`, whole warps of them.
template <u32 MOST, class Row>
__device__ inline void for_rows_of_many(
    const Matrix& A, u64 n, const real* const (&p)[MOST], u32 count, u64 thread, u64 threads, Row row)
{
    constexpr u32 PER_WARP = WARP / LANES;
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x % WARP / LANES;
    for (u64 first = thread / WARP * PER_WARP; first < n; first += threads / LANES) {
        const u64 i = first + group;
        real sums[MOST];
        for (u32 c = 0; c < MOST; ++c) sums[c] = 0;
        if (i < n)
            A.part_of_row(i, lane, n, [&](real a, u64 column) {
                for (u32 c = 0; c < MOST; ++c)
                    if (c < count) sums[c] += a * p[c][column];
            });
        for (u32 c = 0; c < MOST; ++c)
            for (u32 d = LANES / 2; d > 0; d /= 2) sums[c] += __shfl_down_sync(ALL_LANES, sums[c], d, LANES);
        if (i < n && lane == 0) row(i, sums);
    }
}

// row(i, (A p)_i) for each row, in the first of the threads that share it. Called by all threads of the grid.
template <class Row>
__device__ inline void for_rows(const Matrix& A, u64 n, const real* p, Row row)
{
    const real* const one[1] = {p};
    for_rows_of_many(A, n, one, 1, thread_of_grid(), threads_of_grid(), [&](u64 i, const real* Ap) { row(i, Ap[0]); });
}
