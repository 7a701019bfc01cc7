/* The passes over memory around a product in 8-bit numbers, see layers of quantization.py. Included by kernels.c.
 *
 * A token x is about lowest + unit * q, with q in 0 ... 255, and 0 among the numbers from lowest to highest.
 */

/* x (rows, columns) to whole (rows, columns), lowest and unit (rows,). What is not finite makes `lowest` so. */
EXPORT void round_tokens(int threads, int64_t rows, int64_t columns, const float *in, uint8_t *whole, float *lowest, float *unit) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        const float *x = in + row * columns;
        uint8_t *q = whole + row * columns;
        float low = 0.0f, high = 0.0f, nothing = 0.0f;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : nothing)
        for (int64_t c = 0; c < columns; c++) {
            low = x[c] < low ? x[c] : low;
            high = x[c] > high ? x[c] : high;
            nothing += 0.0f * x[c];
        }
        float step = (high - low) / 255.0f;
        step = step > 1.17549435e-38f ? step : 1.17549435e-38f; /* the smallest normal number */
        float inverse = 1.0f / step, offset = 0.5f - low / step; /* what is behind the point is cut off: a half rounds */
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) {
            int32_t number = (int32_t)(x[c] * inverse + offset);
            q[c] = (uint8_t)(number > 255 ? 255 : number);
        }
        lowest[row] = low + nothing;
        unit[row] = step;
    }
}

/* sums (rows, columns), in place: times the unit of the row, plus lowest of the row times `weight_sum` (columns,), plus bias;
 * then GELU where asked. */
EXPORT void finish_int8(int threads, int64_t rows, int64_t columns, float *sums, const float *lowest, const float *unit,
                        const float *weight_sum, const float *bias, int applies_gelu) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *y = sums + row * columns, low = lowest[row], step = unit[row];
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) y[c] = y[c] * step + (low * weight_sum[c] + bias[c]);
        if (!applies_gelu) continue;
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) y[c] = gelu(y[c]);
    }
}
