/* Products in 8-bit numbers, see inference. Included by kernels.c.
 *
 * A token x is about lowest + unit * q, with q in 0 ... 255, and 0 among the numbers from lowest to highest; a row of the weight is
 * scale * w, with w in -127 ... 127. The sum over q * w is exact: processors without VNNI add two neighbouring products in 16 bits,
 * and the weights are rounded so that they fit (`adds_in_16_bits`).
 *
 * Weights lie in panels of COLUMNS outputs, four inputs of every output side by side; tokens in tiles of ROWS8, four inputs of
 * every token side by side. Inputs are filled up with zeros to a multiple of four.
 */
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#define ROWS8 4

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
    uint8_t *whole; /* (groups, tiles, I / 4, ROWS8, 4) */
    float *lowest, *unit;
} Product8;

static int64_t fours(int64_t inputs) { return (inputs + 3) / 4; }

/* One token (columns,) to `whole`, four inputs every `step` bytes. What is not finite makes `lowest` so. */
static void round_token(int64_t groups, int64_t inputs, const float *x, uint8_t *whole, int64_t group_step, float *lowest, float *unit) {
    float low = 0.0f, high = 0.0f, nothing = 0.0f;
    int64_t columns = groups * inputs;
#pragma omp simd reduction(min : low) reduction(max : high) reduction(+ : nothing)
    for (int64_t c = 0; c < columns; c++) {
        low = x[c] < low ? x[c] : low;
        high = x[c] > high ? x[c] : high;
        nothing += 0.0f * x[c];
    }
    float step = (high - low) / 255.0f;
    step = step > 1.17549435e-38f ? step : 1.17549435e-38f; /* the smallest normal number */
    float inverse = 1.0f / step, offset = 0.5f - low / step; /* what is behind the point is cut off: a half rounds */
    for (int64_t group = 0; group < groups; group++, x += inputs, whole += group_step) {
        for (int64_t c = 0; c < inputs; c += 64) {
            uint8_t q[64] = {0};
            int64_t count = min64(64, inputs - c);
#pragma omp simd
            for (int64_t i = 0; i < count; i++) {
                int32_t number = (int32_t)(x[c + i] * inverse + offset);
                q[i] = (uint8_t)(number > 255 ? 255 : number);
            }
            for (int64_t i = 0; i < count; i += 4) memcpy(whole + (c + i) * ROWS8, q + i, 4);
        }
    }
    *lowest = low + nothing;
    *unit = step;
}

/* Tokens [first, last). */
static void round_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product8 *step = call;
    const Linear *layer = step->product.layer;
    int64_t tile = fours(layer->inputs) * ROWS8 * 4, tiles = (step->product.rows + ROWS8 - 1) / ROWS8;
    for (int64_t row = first; row < last; row++) {
        const float *x = step->product.in + row * layer->groups * layer->inputs;
        round_token(layer->groups, layer->inputs, x, step->whole + row / ROWS8 * tile + row % ROWS8 * 4, tiles * tile,
                    step->lowest + row, step->unit + row);
    }
}

static inline __attribute__((always_inline)) void whole_tile(const int rows, int64_t inputs, const uint8_t *tokens,
                                                             const int8_t *panel, int32_t *out) {
    Whole sum[ROWS8][2] = {{{0}}};
    for (int64_t k = 0; k < inputs; k++, tokens += ROWS8 * 4, panel += COLUMNS * 4) {
        Whole left = *(const Whole *)panel, right = *(const Whole *)(panel + LANES * 4);
        for (int i = 0; i < rows; i++) {
            int32_t four;
            memcpy(&four, tokens + i * 4, 4);
            sum[i][0] = add_products(sum[i][0], four, left);
            sum[i][1] = add_products(sum[i][1], four, right);
        }
    }
    for (int i = 0; i < rows; i++) {
        *(Whole *)(out + i * COLUMNS) = sum[i][0];
        *(Whole *)(out + i * COLUMNS + LANES) = sum[i][1];
    }
}

/* Parts [first, last): block by block, group by group, panel by panel. */
static void multiply8_step(void *call, int thread, int64_t first, int64_t last) {
    (void)thread;
    const Product8 *step = call;
    const Product *product = &step->product;
    const Linear *layer = product->layer;
    int64_t panels = panels_of(layer), depth = fours(layer->inputs), tile = depth * ROWS8 * 4, out_row = outputs_of(layer);
    int64_t tiles = (product->rows + ROWS8 - 1) / ROWS8;
    for (int64_t part = first; part < last; part++) {
        int64_t group = part / panels % layer->groups, row = part / panels / layer->groups * product->block, panel = part % panels;
        int64_t stop = min64(product->rows, row + product->block);
        int64_t columns = min64(COLUMNS, layer->columns - panel * COLUMNS), column = group * layer->columns + panel * COLUMNS;
        const int8_t *weights = layer->whole + (group * panels + panel) * depth * COLUMNS * 4;
        const float *scale = layer->scale + column, *weight_sum = layer->weight_sum + column, *bias = layer->bias + column;
        for (; row < stop; row += ROWS8) {
            int64_t height = min64(ROWS8, stop - row);
            int32_t sums[ROWS8 * COLUMNS];
            const uint8_t *tokens = step->whole + (group * tiles + row / ROWS8) * tile;
            if (height == ROWS8) whole_tile(ROWS8, depth, tokens, weights, sums);
            else
                for (int r = 0; r < height; r++) whole_tile(1, depth, tokens + r * 4, weights, sums + r * COLUMNS);
            for (int64_t r = 0; r < height; r++) {
                float *y = product->out + (row + r) * out_row + column, low = step->lowest[row + r], unit = step->unit[row + r];
#pragma omp simd
                for (int64_t j = 0; j < columns; j++)
                    y[j] = (float)sums[r * COLUMNS + j] * scale[j] * unit + (low * weight_sum[j] + bias[j]);
            }
            finish_tile(product, row, column, height, columns);
        }
    }
}

/* Floats of room that tokens in whole numbers take, with what belongs to them. */
static int64_t whole_room(const Linear *layer, int64_t rows) {
    int64_t tiles = (rows + ROWS8 - 1) / ROWS8;
    return layer->whole ? tiles * ROWS8 * (layer->groups * fours(layer->inputs) + 2) : 0;
}

static void multiply8(Team *team, Product product) {
    const Linear *layer = product.layer;
    int64_t tiles = (product.rows + ROWS8 - 1) / ROWS8, inputs = layer->groups * layer->inputs;
    float *lowest = (float *)product.whole + tiles * ROWS8 * layer->groups * fours(layer->inputs);
    Product8 step = {product, product.whole, lowest, lowest + tiles * ROWS8};
    if (!product.rows) return;
    share(team, product.rows, 1 + (1 << 13) / inputs, round_step, &step);
    int64_t blocks = cut_into_blocks(&step.product, ROWS8);
    int64_t work = min64(product.rows, step.product.block) * layer->inputs * COLUMNS;
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
    Product step = {.layer = layer, .rows = rows, .in = in, .out = out, .applies_gelu = applies_gelu, .whole = scratch};
    with_team(threads, lead_linear, &step);
}
