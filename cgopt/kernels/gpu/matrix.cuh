// Products by rows. LANES threads of a warp share a row: one for short rows and diagonals, a whole warp for long ones.
// Matrix entries are read once a product, and say so, which leaves the caches to the vectors.
//
// Memory answers some hundred cycles after it is asked, so each thread asks for much at once: for entries of ROWS rows,
// or of AT_ONCE diagonals, then for what they are multiplied by, and only then uses the first of them. A row's entries
// are added up in the same order either way.

#if LAYOUT == CSR

#define MATRIX_PARAMETERS const u32 *indptr, const u32 *indices, const value *data
#define MATRIX Matrix{indptr, indices, data}

struct Matrix {
    static constexpr u32 ROWS = 4;
    const u32 *indptr, *indices;
    const value* data;

    // take(a, column, there) for one entry of each row i[r] at a time, there[r] saying whether this thread has one;
    // rows from n on have none. Where there is none, the column is 0.
    template <u32 R, class Take>
    __device__ void parts_of_rows(const u64 (&i)[R], u32 lane, u64 n, Take take) const
    {
        u32 j[R], end[R];
        for (u32 r = 0; r < R; ++r) {
            j[r] = i[r] < n ? indptr[i[r]] + lane : 0;
            end[r] = i[r] < n ? indptr[i[r] + 1] : 0;
        }
        for (bool more = true; more;) {
            u64 column[R];
            value a[R];
            bool there[R];
            for (u32 r = 0; r < R; ++r) {
                there[r] = j[r] < end[r];
                column[r] = there[r] ? __ldcs(indices + j[r]) : 0;
                a[r] = there[r] ? __ldcs(data + j[r]) : (value)0;
            }
            take(a, column, there);
            more = false;
            for (u32 r = 0; r < R; ++r) {
                if (there[r]) j[r] += LANES;
                more = more || j[r] < end[r];
            }
        }
    }
};

#elif LAYOUT == DIA

#define MATRIX_PARAMETERS const long long *offsets, const value *data, u64 count
#define MATRIX Matrix{offsets, data, count}

struct Matrix {
    static constexpr u32 ROWS = 1, AT_ONCE = 8;
    const long long* offsets;
    const value* data;
    u64 count;

    // The same, for AT_ONCE entries of one row.
    template <u32 R, class Take>
    __device__ void parts_of_rows(const u64 (&i)[R], u32, u64 n, Take take) const
    {
        static_assert(R == 1);
        const bool inside = i[0] < n;
        for (u64 d = 0; d < count; d += AT_ONCE) {
            u64 column[AT_ONCE];
            value a[AT_ONCE];
            bool there[AT_ONCE];
            for (u32 k = 0; k < AT_ONCE; ++k) column[k] = i[0] + (u64)offsets[d + k < count ? d + k : 0];
            for (u32 k = 0; k < AT_ONCE; ++k)
                a[k] = inside && d + k < count ? __ldcs(data + (d + k) * n + i[0]) : (value)0;
            for (u32 k = 0; k < AT_ONCE; ++k) {
                // to the left of the first it is huge, unsigned as it is
                there[k] = inside && d + k < count && column[k] < n;
                column[k] = there[k] ? column[k] : 0;
            }
            take(a, column, there);
        }
    }
};

#else  // DENSE

#define MATRIX_PARAMETERS const value *values, u64 stride
#define MATRIX Matrix{values, stride}

struct Matrix {
    static constexpr u32 ROWS = 4;
    const value* values;
    u64 stride;

    template <u32 R, class Take>
    __device__ void parts_of_rows(const u64 (&i)[R], u32 lane, u64 n, Take take) const
    {
        for (u64 j = lane; j < n; j += LANES) {
            u64 column[R];
            value a[R];
            bool there[R];
            for (u32 r = 0; r < R; ++r) {
                there[r] = i[r] < n;
                column[r] = j;
                a[r] = there[r] ? __ldcs(values + i[r] * stride + j) : (value)0;
            }
            take(a, column, there);
        }
    }
};

#endif

// row(i, sums) for each row, with sums[c] = (A p[c])_i for c below `count`, in the first of the threads that share it.
// Called by all of `threads` threads, numbered by `thread`, whole warps of them.
template <u32 MOST, class Row>
__device__ inline void for_rows_of_many(
    const Matrix& A, u64 n, const real* const (&p)[MOST], u32 count, u64 thread, u64 threads, Row row)
{
    constexpr u32 R = MOST == 1 ? Matrix::ROWS : 1;
    const u64 together = threads / LANES;  // rows that all threads have in hand at once
    const u32 lane = threadIdx.x % LANES, group = threadIdx.x % WARP / LANES;
    for (u64 first = thread / WARP * (WARP / LANES); first < n; first += R * together) {
        u64 i[R];
        real sums[R][MOST];
        for (u32 r = 0; r < R; ++r) {
            i[r] = first + r * together + group;
            for (u32 c = 0; c < MOST; ++c) sums[r][c] = 0;
        }
        A.parts_of_rows(i, lane, n, [&](const auto& a, const auto& column, const auto& there) {
            constexpr u32 K = sizeof(there) / sizeof(there[0]);
            for (u32 c = 0; c < MOST; ++c) {
                if (c >= count) break;
                real v[K];
                for (u32 k = 0; k < K; ++k) v[k] = p[c][column[k]];
                for (u32 k = 0; k < K; ++k)
                    if (there[k]) sums[R == 1 ? 0 : k][c] += (real)a[k] * v[k];
            }
        });
        for (u32 d = LANES / 2; d > 0; d /= 2)
            for (u32 r = 0; r < R; ++r)
                for (u32 c = 0; c < MOST; ++c) sums[r][c] += __shfl_down_sync(ALL_LANES, sums[r][c], d, LANES);
        for (u32 r = 0; r < R; ++r)
            if (i[r] < n && lane == 0) row(i[r], sums[r]);
    }
}

// row(i, (A p)_i) for each row, in the first of the threads that share it. Called by all threads of the grid.
template <class Row>
__device__ inline void for_rows(const Matrix& A, u64 n, const real* p, Row row)
{
    const real* const one[1] = {p};
    for_rows_of_many(A, n, one, 1, thread_of_grid(), threads_of_grid(), [&](u64 i, const real* Ap) { row(i, Ap[0]); });
}
