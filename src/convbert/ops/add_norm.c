/* Layer norm of dropout(x) + residual. */

typedef struct {
    const float *weight, *bias;
    double eps;
} Norm;

/* One row: y = norm(x * keep + residual), with the sum left in `s`, which may be `y`. Returns its moments. */
static inline void add_norm_row(int64_t columns, const float *x, const float *residual, Norm norm, uint32_t threshold, float scale,
                                uint64_t key, float *s, float *y, float *mean_out, float *inverse_std_out) {
    float total = 0.0f, squares = 0.0f;
    if (threshold) {
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < columns; c++) {
            s[c] = x[c] * keep(key, (uint32_t)c, threshold, scale) + residual[c];
            total += s[c];
        }
    } else {
#pragma omp simd reduction(+ : total)
        for (int64_t c = 0; c < columns; c++) {
            s[c] = x[c] + residual[c];
            total += s[c];
        }
    }
    float mean = total / (float)columns;
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < columns; c++) squares += (s[c] - mean) * (s[c] - mean);
    float inverse_std = (float)(1.0 / sqrt((double)squares / (double)columns + norm.eps));
#pragma omp simd
    for (int64_t c = 0; c < columns; c++) y[c] = (s[c] - mean) * inverse_std * norm.weight[c] + norm.bias[c];
    *mean_out = mean;
    *inverse_std_out = inverse_std;
}

/* `sums` (rows, columns) receives dropout(x) + residual, and `inverse_std`, `mean` (rows,) its moments, for the backward
 * pass. Any of the three may be NULL where nothing will be differentiated. */
EXPORT void add_norm_forward(int threads, int64_t rows, int64_t columns, const float *x, const float *residual,
                             const float *weight, const float *bias, double eps, double p, int64_t seed, float *out,
                             float *sums, float *mean_out, float *inverse_std_out) {
    uint32_t threshold = threshold_of(p);
    float scale = (float)(1.0 / (1.0 - p));
    Norm norm = {weight, bias, eps};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) {
        float *y = out + row * columns, mean, inverse_std;
        add_norm_row(columns, x + row * columns, residual + row * columns, norm, threshold, scale,
                     threshold ? row_key(seed, row) : 0, sums ? sums + row * columns : y, y, &mean, &inverse_std);
        if (mean_out) mean_out[row] = mean;
        if (inverse_std_out) inverse_std_out[row] = inverse_std;
    }
}

/* `grad_residual` is the gradient of the sum; `grad_x` the same after dropout, or NULL where nothing was dropped (the two
 * are then equal). `partial` (threads, 2, columns), zeroed, receives each thread's share of the gradients of weight and bias. */
EXPORT void add_norm_backward(int threads, int64_t rows, int64_t columns, const float *grad, const float *sums,
                              const float *mean, const float *inverse_std, const float *weight, double p, int64_t seed,
                              float *grad_x, float *grad_residual, float *partial) {
    uint32_t threshold = threshold_of(p);
    float scale = (float)(1.0 / (1.0 - p));
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        float *grad_weight = partial + (int64_t)part * 2 * columns, *grad_bias = grad_weight + columns;
        for (int64_t row = rows * part / threads; row < rows * (part + 1) / threads; row++) {
            const float *g = grad + row * columns, *s = sums + row * columns;
            float *out = grad_residual + row * columns;
            float m = mean[row], r = inverse_std[row], total = 0.0f, along = 0.0f;
#pragma omp simd reduction(+ : total, along)
            for (int64_t c = 0; c < columns; c++) {
                float normed = (s[c] - m) * r, weighted = g[c] * weight[c];
                grad_weight[c] += g[c] * normed;
                grad_bias[c] += g[c];
                total += weighted;
                along += weighted * normed;
            }
            total /= (float)columns;
            along /= (float)columns;
#pragma omp simd
            for (int64_t c = 0; c < columns; c++)
                out[c] = r * (g[c] * weight[c] - total - (s[c] - m) * r * along);
            if (grad_x) {
                uint64_t key = row_key(seed, row);
                float *dropped = grad_x + row * columns;
#pragma omp simd
                for (int64_t c = 0; c < columns; c++) dropped[c] = out[c] * keep(key, (uint32_t)c, threshold, scale);
            }
        }
    }
}
