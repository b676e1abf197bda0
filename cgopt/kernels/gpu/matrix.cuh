// Products by rows. LANES threads of a warp share a row: one for short rows and diagonals, a whole warp for long ones.
// Matrix entries are read once a product, and say so, which leaves the caches to the vectors.

#if LAYOUT == CSR

#define MATRIX_PARAMETERS const u32 *indptr, const u32 *indices, const value *data
#define MATRIX Matrix{indptr, indices, data}

struct Matrix {
    const u32 *indptr, *indices;
    const value* data;

    __device__ real part_of_row(u64 i, u32 lane, u64, const real* p) const
    {
        real sum = 0;
        const u32 end = indptr[i + 1];
        for (u32 j = indptr[i] + lane; j < end; j += LANES) sum += (real)__ldcs(data + j) * p[__ldcs(indices + j)];
        return sum;
    }
};

#elif LAYOUT == DIA

#define MATRIX_PARAMETERS const long long *offsets, const value *data, u64 count
#define MATRIX Matrix{offsets, data, count}

struct Matrix {
    const long long* offsets;
    const value* data;
    u64 count;

    __device__ real part_of_row(u64 i, u32, u64 n, const real* p) const
    {
        real sum = 0;
        for (u64 d = 0; d < count; ++d) {
            const u64 column = i + (u64)offsets[d];  // to the left of the first it is huge, unsigned as it is
            if (column < n) sum += (real)__ldcs(data + d * n + i) * p[column];
        }
        return sum;
    }
};

#else  // DENSE

#define MATRIX_PARAMETERS const value *values, u64 stride
#define MATRIX Matrix{values, stride}

struct Matrix {
    const value* values;
    u64 stride;

    __device__ real part_of_row(u64 i, u32 lane, u64 n, const real* p) const
    {
        real sum = 0;
        for (u64 j = lane; j < n; j += LANES) sum += (real)__ldcs(values + i * stride + j) * p[j];
        return sum;
    }
};

#endif

// row(i, (A p)_i) for each row, in the first of the threads that share it. Called by all threads of the grid.
template <class Row>
__device__ inline void for_rows(const Matrix& A, u64 n, const real* p, Row row)
{
    constexpr u32 PER_WARP = WARP / LANES;
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x % WARP / LANES;
    const u64 at_once = threads_of_grid() / LANES;
    for (u64 first = thread_of_grid() / WARP * PER_WARP; first < n; first += at_once) {
        const u64 i = first + group;
        real sum = i < n ? A.part_of_row(i, lane, n, p) : (real)0;
        for (u32 d = LANES / 2; d > 0; d /= 2) sum += __shfl_down_sync(ALL_LANES, sum, d, LANES);
        if (i < n && lane == 0) row(i, sum);
    }
}
