/* Products in 8-bit numbers, see inference. Included by kernels.c.
 *
 * A token x is about lowest + unit * q, with q in 0 ... 255, and 0 among the numbers from lowest to highest; a row of the weight is
 * scale * w, with w in -127 ... 127. The sum over q * w is exact: processors without VNNI add two neighbouring products in 16 bits,
 * and the weights are rounded so that they fit (`adds_in_16_bits`).
 *
 * Weights lie in panels of COLUMNS outputs, four inputs of every output side by side. Inputs are filled up with zeros to a multiple
 * of four.
 */
#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef int32_t Whole __attribute__((vector_size(LANES * 4), aligned(4)));

#if defined(__AVX512VNNI__)
EXPORT int adds_in_16_bits(void) { return 0; }
static inline Whole add_products(Whole sum, int32_t tokens, Whole weights) {
    return (Whole)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi32(tokens), (__m512i)weights);
}
#elif defined(__AVX512BW__)
EXPORT int adds_in_16_bits(void) { return 1; }
static inline Whole add_products(Whole sum, int32_t tokens, Whole weights) {
    __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(tokens), (__m512i)weights);
    return sum + (Whole)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}
#elif defined(__AVX2__)
EXPORT int adds_in_16_bits(void) { return 1; }
static inline Whole add_products(Whole sum, int32_t tokens, Whole weights) {
    __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(tokens), (__m256i)weights);
    return sum + (Whole)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}
#else
EXPORT int adds_in_16_bits(void) { return 0; }
static inline Whole add_products(Whole sum, int32_t tokens, Whole weights) {
    const uint8_t *q = (const uint8_t *)&tokens;
    const int8_t *w = (const int8_t *)&weights;
    for (int i = 0; i < LANES; i++)
        for (int k = 0; k < 4; k++) sum[i] += q[k] * w[4 * i + k];
    return sum;
}
#endif

/* A step of 8-bit numbers: what `Product` is, the tokens in whole numbers, and of each token its lowest number and its unit. */
typedef struct {
    Product product;
    uint8_t *whole; /* (rows, groups, I filled up) */
    float *lowest, *unit;
} Product8;

/* Inputs filled up with zeros. */
static int64_t whole_inputs(const Linear *layer) { return (layer->inputs + 3) / 4 * 4; }

/* One token (groups * inputs,) to `whole`. What is not finite makes `lowest` so. */
static void round_token(const Linear *layer, const float *x, uint8_t *whole, float *lowest, float *unit) {
    float low = 0.0f, high = 0.0f, nothing = 0.0f;
    int64_t inputs = layer->inputs, filled = whole_inputs(layer), columns = layer->groups * inputs;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : nothing)
    for (int64_t c = 0; c < columns; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        nothing += 0.0f * x[c];
    }
    float step = (high - low) / 255.0f;
    step = step > 1.17549435e-38f ? step : 1.17549435e-38f; /* the smallest normal number */
    float inverse = 1.0f / step, offset = 0.5f - low / step; /* what is behind the point is cut off: a half rounds */
    for (int64_t group = 0; group < layer->groups; group++, x += inputs, whole += filled) {
#pragma omp simd
        for (int64_t c = 0; c < inputs; c++) {
            int32_t number = (int32_t)(x[c] * inverse + offset);
            whole[c] = (uint8_t)(number > 255 ? 255 : number);
        }
        memset(whole + inputs, 0, (size_t)(filled - inputs));
    }
    *lowest = low + nothing;
    *unit = step;
}

/* Tokens [first, last). */
static void round_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product8 *step = call;
    const Linear *layer = step->product.layer;
    for (int64_t row = first; row < last; row++)
        round_token(layer, step->product.in + row * layer->groups * layer->inputs,
                    step->whole + row * layer->groups * whole_inputs(layer), step->lowest + row, step->unit + row);
}

static inline __attribute__((always_inline)) void whole_tile(const int rows, int64_t inputs, const uint8_t *tokens,
                                                             int64_t token_row, const int8_t *panel, int32_t *out) {
    Whole sum[ROWS][2] = {{{0}}};
    for (int64_t k = 0; k < inputs; k += 4, panel += COLUMNS * 4) {
        Whole left = *(const Whole *)panel, right = *(const Whole *)(panel + LANES * 4);
        KEEP(left);
        KEEP(right);
        __builtin_prefetch(panel + AHEAD * COLUMNS * 4);
        __builtin_prefetch(panel + (AHEAD * COLUMNS + LANES) * 4);
        for (int i = 0; i < rows; i++) {
            int32_t four;
            memcpy(&four, tokens + i * token_row + k, 4);
            sum[i][0] = add_products(sum[i][0], four, left);
            sum[i][1] = add_products(sum[i][1], four, right);
        }
    }
    for (int i = 0; i < rows; i++) {
        *(Whole *)(out + i * COLUMNS) = sum[i][0];
        *(Whole *)(out + i * COLUMNS + LANES) = sum[i][1];
    }
}

/* One panel of a group for tokens [row, stop). */
static void multiply_panel8(const Product8 *step, int64_t group, int64_t panel, int64_t row, int64_t stop) {
    const Product *product = &step->product;
    const Linear *layer = product->layer;
    int64_t inputs = whole_inputs(layer), in_row = layer->groups * inputs, out_row = outputs_of(layer);
    int64_t columns = min64(COLUMNS, layer->columns - panel * COLUMNS), column = group * layer->columns + panel * COLUMNS;
    const int8_t *weights = layer->whole + (group * panels_of(layer) + panel) * inputs * COLUMNS;
    const float *scale = layer->scale + column, *weight_sum = layer->weight_sum + column, *bias = layer->bias + column;
    int32_t sums[ROWS * COLUMNS];
    for (; row < stop; row += ROWS) {
        int64_t height = min64(ROWS, stop - row);
        const uint8_t *tokens = step->whole + row * in_row + group * inputs;
        BY_ROWS(height, whole_tile, inputs, tokens, in_row, weights, sums)
        for (int64_t r = 0; r < height; r++) {
            float *y = product->out + (row + r) * out_row + column, low = step->lowest[row + r], unit = step->unit[row + r];
#pragma omp simd
            for (int64_t j = 0; j < columns; j++)
                y[j] = (float)sums[r * COLUMNS + j] * scale[j] * unit + (low * weight_sum[j] + bias[j]);
        }
        finish_tile(product, row, column, height, columns);
    }
}

/* Parts [first, last): block by block, group by group, panel by panel. */
static void multiply8_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product8 *step = call;
    int64_t panels = panels_of(step->product.layer), groups = step->product.layer->groups, block = step->product.block;
    for (; first < last; first++) {
        int64_t row = first / panels / groups * block;
        multiply_panel8(step, first / panels % groups, first % panels, row, min64(step->product.rows, row + block));
    }
}

/* Floats of room that tokens in whole numbers take, with what belongs to them. */
static int64_t whole_room(const Linear *layer, int64_t rows) {
    return layer->whole ? rows * (layer->groups * whole_inputs(layer) / 4 + 2) : 0;
}

static void multiply8(Team *team, Product product) {
    const Linear *layer = product.layer;
    if (!product.rows) return;
    float *lowest = product.room + product.rows * layer->groups * whole_inputs(layer) / 4;
    int64_t blocks = cut_into_blocks(&product), inputs = layer->groups * layer->inputs;
    Product8 step = {product, (uint8_t *)product.room, lowest, lowest + product.rows};
    share(team, product.rows, 1 + (1 << 13) / inputs, round_step, &step);
    int64_t work = min64(product.rows, product.block) * layer->inputs * COLUMNS;
    share(team, blocks * layer->groups * panels_of(layer), 1 + (1 << 18) / work, multiply8_step, &step);
}

/* ---- a linear layer alone, in either form ---- */

static void lead_linear(Team *team, void *step) {
    const Product *product = step;
    (product->layer->whole ? multiply8 : multiply)(team, *product);
}

/* Floats of scratch that `linear_forward` needs. */
EXPORT int64_t linear_scratch(const Linear *layer, int64_t rows) { return whole_room(layer, rows); }

/* in (rows, groups * inputs) to out (rows, groups * columns), then GELU where asked. */
EXPORT void linear_forward(int threads, const Linear *layer, int64_t rows, const float *in, int applies_gelu, float *scratch,
                           float *out) {
    Product step = {.layer = layer, .rows = rows, .in = in, .out = out, .applies_gelu = applies_gelu, .room = scratch};
    with_team(threads, lead_linear, &step);
}
