// A matrix's diagonals, taken from its rows.

#include "common.cuh"

// Which diagonal each entry is on: its column less its row.
extern "C" __global__ void __launch_bounds__(BLOCK) offsets_of_entries(
    u64 n, const u32* indptr, const u32* indices, long long* offset)
{
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid())
        for (u32 j = indptr[i]; j < indptr[i + 1]; ++j) offset[j] = (long long)indices[j] - (long long)i;
}

// out[d, i] = the entry in row i, column i + offsets[d]; offsets are in rising order, out is zero before.
extern "C" __global__ void __launch_bounds__(BLOCK) fill_dia(
    u64 n, const u32* indptr, const u32* indices, const value* data, const long long* offsets, u32 count, value* out)
{
    for (u64 i = thread_of_grid(); i < n; i += threads_of_grid())
        for (u32 j = indptr[i]; j < indptr[i + 1]; ++j) {
            const long long wanted = (long long)indices[j] - (long long)i;
            u32 low = 0, high = count - 1;
            while (low < high) {
                const u32 middle = (low + high) / 2;
                if (offsets[middle] < wanted)
                    low = middle + 1;
                else
                    high = middle;
            }
            out[low * n + i] += data[j];
        }
}
