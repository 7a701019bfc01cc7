/* Span-based dynamic convolution (paper, equations 4 and 6). */

static inline void softmax(const float *logits, float *weights, int64_t kernel_size) {
    float top = logits[0], total = 0.0f;
    for (int64_t k = 1; k < kernel_size; k++) top = logits[k] > top ? logits[k] : top;
#pragma omp simd reduction(+ : total)
    for (int64_t k = 0; k < kernel_size; k++) {
        weights[k] = exp_negative(logits[k] - top);
        total += weights[k];
    }
    float scale = 1.0f / total;
    for (int64_t k = 0; k < kernel_size; k++) weights[k] *= scale;
}

/* value, out (N, H, D), their rows so many floats apart; logits (N, H, K). */
typedef struct {
    int64_t heads, width, kernel_size;
    const float *value, *logits;
    int64_t value_row;
    float *out;
    int64_t out_row;
} SpanConv;

static void span_conv_along(const SpanConv *step, Walk at) {
    while (next_token(&at)) {
        int64_t t = at.token;
        for (int64_t h = 0; h < step->heads; h++) {
            float weights[MAX_KERNEL_SIZE];
            softmax(step->logits + (t * step->heads + h) * step->kernel_size, weights, step->kernel_size);
            mix_rows(weights, 1, step->value + (t - step->kernel_size / 2) * step->value_row + h * step->width, step->value_row, at.first,
                     at.last, step->out + t * step->out_row + h * step->width, step->width);
        }
    }
}

EXPORT int span_dynamic_conv_forward(int threads, int64_t tokens, int64_t heads, int64_t width, int64_t kernel_size,
                                      const int32_t *cu_seqlens, int64_t num_sequences, int64_t length, const float *value,
                                      int64_t value_row, const float *logits, float *out, int64_t out_row) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
    SpanConv step = {heads, width, kernel_size, value, logits, value_row, out, out_row};
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++)
        span_conv_along(&step, walk(tokens * part / threads, tokens * (part + 1) / threads, kernel_size, cu_seqlens, num_sequences, length));
    return 1;
}

/* `weights` (N, H, K) is scratch. First the gradient of the logits, each token for itself, with the softmax left behind in
 * the scratch; then that of the values, which gathers from the tokens whose kernels read them. */
EXPORT int span_dynamic_conv_backward(int threads, int64_t tokens, int64_t heads, int64_t width, int64_t kernel_size,
                                       const int32_t *cu_seqlens, int64_t num_sequences, int64_t length, const float *grad,
                                       const float *value, const float *logits, float *weights, float *grad_value,
                                       float *grad_logits) {
    if (!covers(cu_seqlens, num_sequences, length, tokens)) return 0;
    int64_t row = heads * width, reach = kernel_size / 2;
#pragma omp parallel num_threads(threads)
    {
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++) {
            for (Walk at = walk(tokens * part / threads, tokens * (part + 1) / threads, kernel_size, cu_seqlens, num_sequences, length); next_token(&at);) {
                int64_t t = at.token;
                for (int64_t h = 0; h < heads; h++) {
                    float products[MAX_KERNEL_SIZE] = {0}, along = 0.0f;
                    float *w = weights + (t * heads + h) * kernel_size;
                    const float *g = grad + t * row + h * width;
                    softmax(logits + (t * heads + h) * kernel_size, w, kernel_size);
                    for (int64_t k = at.first; k < at.last; k++) {
                        const float *v = value + (t + k - reach) * row + h * width;
                        float product = 0.0f;
#pragma omp simd reduction(+ : product)
                        for (int64_t d = 0; d < width; d++) product += g[d] * v[d];
                        products[k] = product;
                        along += w[k] * product;
                    }
                    float *out = grad_logits + (t * heads + h) * kernel_size;
                    for (int64_t k = 0; k < kernel_size; k++) out[k] = w[k] * (products[k] - along);
                }
            }
        }
#pragma omp for schedule(static)
        for (int part = 0; part < threads; part++) {
            for (Walk at = walk(tokens * part / threads, tokens * (part + 1) / threads, kernel_size, cu_seqlens, num_sequences, length); next_token(&at);) {
                int64_t t = at.token;
                /* Token t + j - reach reads token t with its tap K - 1 - j. */
                for (int64_t h = 0; h < heads; h++) {
                    const float *w = weights + ((t - reach) * heads + h) * kernel_size + kernel_size - 1;
                    mix_rows(w, heads * kernel_size - 1, grad + (t - reach) * row + h * width, row, at.first, at.last,
                             grad_value + t * row + h * width, width);
                }
            }
        }
    }
    return 1;
}
