// What is looked at once in a matrix.

#include "common.cuh"
#include "matrix.cuh"

// The diagonal, and each row's sum of absolute values; a row to a thread.
extern "C" __global__ void __launch_bounds__(BLOCK) look(u64 n, MATRIX_PARAMETERS, value* diagonal, double* row_sum)
{
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid()) {
        value own = 0;
        double sum = 0.0;
#if LAYOUT == CSR
        for (u32 j = indptr[i]; j < indptr[i + 1]; ++j) {
            sum += fabs((double)data[j]);
            if (indices[j] == i) own += data[j];
        }
#elif LAYOUT == DIA
        for (u64 d = 0; d < count; ++d) {
            const u64 column = i + (u64)offsets[d];
            if (column < n) sum += fabs((double)data[d * n + i]);
            if (column == i) own = data[d * n + i];
        }
#else
        for (u64 j = 0; j < n; ++j) sum += fabs((double)values[i * stride + j]);
        own = values[i * stride + i];
#endif
        diagonal[i] = own;
        row_sum[i] = sum;
    }
}
