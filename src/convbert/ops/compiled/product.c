/* Products of states with the weights of a linear layer, fp32, for inference: the weights are packed once, bias and GELU are
 * added while a result is in cache. Included by kernels.c.
 *
 * A packed weight (groups, panels, I, COLUMNS) is cut into panels of COLUMNS outputs, the last one filled up with zeros; a panel
 * holds for every input its COLUMNS weights side by side. ROWS tokens times one panel are summed up in registers. What a
 * token's result is does not depend on the tokens beside it, to the last bit: every sum runs over the inputs in order.
 */

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define COLUMNS (2 * LANES)
#define ROWS 6
#define BLOCK_ROWS 192    /* tokens, and ... */
#define BLOCK_INPUTS 1024 /* ... inputs of them that stay in cache while all panels pass */

typedef float Vector __attribute__((vector_size(LANES * 4), aligned(4)));

EXPORT int64_t panel_columns(void) { return COLUMNS; }

/* out (rows x COLUMNS) = start + the product of `tokens` (inputs x ROWS) transposed and a panel (inputs x COLUMNS). `rows` is
 * a constant wherever this is inlined, so that the sums live in registers. */
static inline __attribute__((always_inline)) void panel_tile(const int rows, int64_t inputs, const float *tokens,
                                                             const float *panel, const float *start, int64_t start_row,
                                                             float *out, int64_t out_row) {
    Vector sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const Vector *)(start + i * start_row);
        sum[i][1] = *(const Vector *)(start + i * start_row + LANES);
    }
    for (int64_t k = 0; k < inputs; k++, tokens += ROWS, panel += COLUMNS) {
        Vector left = *(const Vector *)panel, right = *(const Vector *)(panel + LANES);
        for (int i = 0; i < rows; i++) {
            sum[i][0] += tokens[i] * left;
            sum[i][1] += tokens[i] * right;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(Vector *)(out + i * out_row) = sum[i][0];
        *(Vector *)(out + i * out_row + LANES) = sum[i][1];
    }
}

static void multiply_tile(int64_t rows, int64_t inputs, const float *tokens, const float *panel, const float *start,
                          int64_t start_row, float *out, int64_t out_row) {
#define CASE(n) case n: panel_tile(n, inputs, tokens, panel, start, start_row, out, out_row); break;
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
#undef CASE
}

/* A linear layer: `bias` (groups * columns,). */
typedef struct {
    int64_t groups, inputs, columns; /* the latter two of one group */
    const float *packed, *bias;
} Linear;

/* Tokens [0, rows) through one group and its panels [first, last): in (rows, inputs), out (rows, columns). */
static void multiply_panels(const Linear *layer, int64_t group, int64_t first, int64_t last, int64_t rows, const float *in,
                            int64_t in_row, int applies_gelu, float *out, int64_t out_row) {
    static _Thread_local float tokens[BLOCK_ROWS * BLOCK_INPUTS];
    int64_t inputs = layer->inputs, panels = (layer->columns + COLUMNS - 1) / COLUMNS;
    const float *weights = layer->packed + group * panels * inputs * COLUMNS;
    for (int64_t k = 0; k < inputs; k += BLOCK_INPUTS) {
        int64_t depth = min64(BLOCK_INPUTS, inputs - k);
        int is_last = k + depth == inputs;
        float *packing = tokens;
        for (int64_t i = 0; i < rows; i += ROWS) {
            for (int64_t x = k; x < k + depth; x++)
                for (int64_t r = i; r < i + ROWS; r++) *packing++ = r < rows ? in[r * in_row + x] : 0.0f;
        }
        for (int64_t p = first; p < last; p++) {
            const float *panel = weights + (p * inputs + k) * COLUMNS;
            int64_t column = p * COLUMNS, columns = min64(COLUMNS, layer->columns - column);
            float bias[COLUMNS] = {0};
            memcpy(bias, layer->bias + group * layer->columns + column, sizeof(float) * (size_t)columns);
            for (int64_t i = 0; i < rows; i += ROWS) {
                int64_t height = min64(ROWS, rows - i);
                float *at = out + i * out_row + column;
                if (columns == COLUMNS) {
                    multiply_tile(height, depth, tokens + i * depth, panel, k ? at : bias, k ? out_row : 0, at, out_row);
                } else {
                    float room[ROWS * COLUMNS] = {0};
                    for (int64_t r = 0; r < height; r++)
                        memcpy(room + r * COLUMNS, k ? at + r * out_row : bias, sizeof(float) * (size_t)columns);
                    multiply_tile(height, depth, tokens + i * depth, panel, room, COLUMNS, room, COLUMNS);
                    for (int64_t r = 0; r < height; r++)
                        memcpy(at + r * out_row, room + r * COLUMNS, sizeof(float) * (size_t)columns);
                }
                if (applies_gelu && is_last) {
                    for (int64_t r = 0; r < height; r++) {
                        float *y = at + r * out_row;
#pragma omp simd
                        for (int64_t j = 0; j < columns; j++) y[j] = gelu(y[j]);
                    }
                }
            }
        }
    }
}

/* Tokens [0, rows) through the layer, by GELU where asked: in (rows, groups * inputs), out (rows, groups * columns). The
 * threads share the tokens, or, where there are few of them, the panels. */
static void linear(int threads, const Linear *layer, int64_t rows, const float *in, int applies_gelu, float *out) {
    int64_t panels = (layer->columns + COLUMNS - 1) / COLUMNS, tiles = (rows + ROWS - 1) / ROWS;
    int64_t in_row = layer->groups * layer->inputs, out_row = layer->groups * layer->columns;
    int64_t row_parts = max64(1, min64(threads, rows / 48));
    while (threads % row_parts) row_parts--;
    int64_t panel_parts = threads / row_parts;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int part = 0; part < threads; part++) {
        int64_t across = part / row_parts, down = part % row_parts;
        int64_t first = panels * across / panel_parts, last = panels * (across + 1) / panel_parts;
        int64_t start = tiles * down / row_parts * ROWS, stop = min64(rows, tiles * (down + 1) / row_parts * ROWS);
        int64_t blocks = (stop - start + BLOCK_ROWS - 1) / BLOCK_ROWS;
        for (int64_t b = 0; b < blocks && first < last; b++) {
            int64_t height = (stop - start + ROWS - 1) / ROWS;
            int64_t top = start + height * b / blocks * ROWS, bottom = min64(stop, start + height * (b + 1) / blocks * ROWS);
            for (int64_t group = 0; group < layer->groups; group++)
                multiply_panels(layer, group, first, last, bottom - top, in + top * in_row + group * layer->inputs, in_row,
                                applies_gelu, out + top * out_row + group * layer->columns, out_row);
        }
    }
}

EXPORT void packed_linear(int threads, int64_t rows, int64_t groups, int64_t inputs, int64_t columns, const float *in,
                          const float *packed, const float *bias, int applies_gelu, float *out) {
    Linear layer = {groups, inputs, columns, packed, bias};
    linear(threads, &layer, rows, in, applies_gelu, out);
}
