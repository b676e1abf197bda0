// Products by rows. LANES threads of a warp share a row: one for short rows and diagonals, a whole warp for long ones.
// Matrix entries are read once a product, and say so, which leaves the caches to the vectors.
//
// Memory answers some hundred cycles after it is asked, so each thread asks for much at once: for entries of ROWS rows,
// or of AT_ONCE diagonals, before it uses the first of them. A row's entries are added up in the same order either way.

#if LAYOUT == CSR

#define MATRIX_PARAMETERS const u32 *indptr, const u32 *indices, const value *data
#define MATRIX Matrix{indptr, indices, data}

struct Matrix {
    static constexpr u32 ROWS = 4;
    const u32 *indptr, *indices;
    const value* data;

    // use(r, a, column) for what this thread has of each row i[r]; those from n on are none
    template <u32 R, class Use>
    __device__ void parts_of_rows(const u64 (&i)[R], u32 lane, u64 n, Use use) const
    {
        u32 j[R], end[R], column[R];
        value a[R];
        for (u32 r = 0; r < R; ++r) {
            j[r] = i[r] < n ? indptr[i[r]] + lane : 0;
            end[r] = i[r] < n ? indptr[i[r] + 1] : 0;
        }
        for (bool more = true; more;) {
            for (u32 r = 0; r < R; ++r)
                if (j[r] < end[r]) column[r] = __ldcs(indices + j[r]), a[r] = __ldcs(data + j[r]);
            more = false;
            for (u32 r = 0; r < R; ++r)
                if (j[r] < end[r]) {
                    use(r, (real)a[r], (u64)column[r]);
                    j[r] += LANES;
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

    template <u32 R, class Use>
    __device__ void parts_of_rows(const u64 (&i)[R], u32, u64 n, Use use) const
    {
        static_assert(R == 1);
        for (u64 d = 0; d < count; d += AT_ONCE) {
            u64 column[AT_ONCE];
            value a[AT_ONCE];
            for (u32 k = 0; k < AT_ONCE; ++k) {
                // to the left of the first it is huge, unsigned as it is
                column[k] = i[0] < n && d + k < count ? i[0] + (u64)offsets[d + k] : n;
                a[k] = column[k] < n ? __ldcs(data + (d + k) * n + i[0]) : (value)0;
            }
            for (u32 k = 0; k < AT_ONCE; ++k)
                if (column[k] < n) use(0, (real)a[k], column[k]);
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

    template <u32 R, class Use>
    __device__ void parts_of_rows(const u64 (&i)[R], u32 lane, u64 n, Use use) const
    {
        for (u64 j = lane; j < n; j += LANES) {
            value a[R];
            for (u32 r = 0; r < R; ++r) a[r] = i[r] < n ? __ldcs(values + i[r] * stride + j) : (value)0;
            for (u32 r = 0; r < R; ++r)
                if (i[r] < n) use(r, (real)a[r], j);
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
        A.parts_of_rows(i, lane, n, [&](u32 r, real a, u64 column) {
            for (u32 c = 0; c < MOST; ++c)
                if (c < count) sums[r][c] += a * p[c][column];
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
