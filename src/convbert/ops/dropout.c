/* Dropout without a mask in memory. */

EXPORT void dropout(int threads, int64_t rows, int64_t columns, const float *in, float *out, double p, int64_t seed) {
    uint32_t threshold = threshold_of(p);
    float scale = (float)(1.0 / (1.0 - p));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        uint64_t key = row_key(seed, row);
        const float *x = in + row * columns;
        float *y = out + row * columns;
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) y[c] = x[c] * keep(key, (uint32_t)c, threshold, scale);
    }
}
