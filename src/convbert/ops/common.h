/* What the kernels share: fp32, for CPUs, plain C with OpenMP and no headers of PyTorch's. Each kernel lies beside its op, and has a
 * plain PyTorch twin that runs where this was not compiled; compiled/kernels.c includes them all into one library.
 *
 * Letters as in docs/shapes.md. Tensors are row-major and contiguous. Bounds of sequences: `cu_seqlens` (B + 1,), or NULL for
 * sequences of `length` tokens each. Scratch is small and on the stack, or given by the caller. A kernel that takes bounds checks
 * them and returns whether they cover the tokens; it touches nothing if they do not.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
#define MAX_KERNEL_SIZE 64
#define TILE 32 /* floats of a row that stay in registers while a kernel is summed up */

static inline int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max64(int64_t a, int64_t b) { return a > b ? a : b; }

static inline float min_float(float a, float b) { return a < b ? a : b; }

/* ---- elementary functions, written so that the compiler can vectorise them ---- */

/* e^x for x <= 0, about 1 ulp: 2^n times a polynomial on |r| <= ln(2) / 2. Below the smallest normal number: 0. */
static inline float exp_negative(float x) {
    float clamped = x < -87.3f ? -87.3f : x;
    float n = rintf(clamped * 1.44269504f);
    float r = clamped - n * 0.693359375f + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float power;
    memcpy(&power, &bits, 4);
    return x < -87.3f ? 0.0f : p * power;
}

/* ---- dropout: whether an element is dropped is a hash of (seed, row, column), so that backward needs no mask ---- */

/* The finaliser of splitmix64. */
static inline uint64_t mix64(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9U;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebU;
    return x ^ (x >> 31);
}

static inline uint64_t row_key(int64_t seed, int64_t row) {
    return mix64(mix64((uint64_t)seed) + (uint64_t)row * 0x9e3779b97f4a7c15U);
}

/* 0 where dropped, 1 / (1 - p) where kept; `threshold` is p * 2^32. Both halves of the key enter, in 32 bits a column. */
static inline float keep(uint64_t key, uint32_t column, uint32_t threshold, float scale) {
    uint32_t x = (uint32_t)key + column * 0x9e3779b9U;
    x = (x ^ (x >> 16)) * 0x7feb352dU;
    x = ((x ^ (x >> 15)) + (uint32_t)(key >> 32)) * 0x846ca68bU;
    return (x ^ (x >> 16)) < threshold ? 0.0f : scale;
}

static inline uint32_t threshold_of(double p) { return (uint32_t)(p * 4294967296.0); }

/* ---- bounds ---- */

/* Whether cu_seqlens (B + 1,) runs from 0 to `tokens` in steps of 0 to `length`; a kernel would otherwise leave its memory. */
static int covers(const int32_t *cu_seqlens, int64_t num_sequences, int64_t length, int64_t tokens) {
    if (!cu_seqlens) return num_sequences * length == tokens;
    for (int64_t b = 0; b < num_sequences; b++) {
        int64_t step = (int64_t)cu_seqlens[b + 1] - cu_seqlens[b];
        if (step < 0 || step > length) return 0;
    }
    return cu_seqlens[0] == 0 && cu_seqlens[num_sequences] == tokens;
}

/* ---- a thread's walk along its tokens, always knowing where their sequence begins and ends ---- */

typedef struct {
    const int32_t *cu_seqlens;
    int64_t length, kernel_size;
    int64_t token, stop;        /* where the walk stands, and before which token it ends */
    int64_t number, start, end; /* the token's sequence: start <= token < end */
    int64_t first, last;        /* of the kernel, what stays inside the token's sequence: first <= k < last */
} Walk;

/* A walk along tokens [begin, stop), standing before the first of them: while (next_token(&at)) ... at.token ... */
static inline Walk walk(int64_t begin, int64_t stop, int64_t kernel_size, const int32_t *cu_seqlens, int64_t num_sequences,
                        int64_t length) {
    Walk at = {cu_seqlens, length, kernel_size, begin - 1, stop, 0, 0, 0, 0, 0};
    if (!cu_seqlens) {
        at.number = begin / length;
        at.start = at.number * length;
        at.end = at.start + length;
        return at;
    }
    int64_t low = 0, high = num_sequences; /* cu_seqlens[low] <= begin < cu_seqlens[high] */
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (cu_seqlens[middle] <= begin) low = middle;
        else high = middle;
    }
    at.number = low;
    at.start = cu_seqlens[low];
    at.end = cu_seqlens[low + 1];
    return at;
}

static inline int next_token(Walk *at) {
    int64_t token = ++at->token, reach = at->kernel_size / 2;
    if (token >= at->stop) return 0;
    while (token >= at->end) {
        at->start = at->end;
        at->number++;
        at->end = at->cu_seqlens ? at->cu_seqlens[at->number + 1] : at->start + at->length;
    }
    at->first = max64(0, at->start - token + reach);
    at->last = min64(at->kernel_size, at->end - token + reach);
    return 1;
}

/* As far as `columns` of them are left. Their number is a constant, so that the sums stay in registers. */
#define MIX_COLUMNS(columns)                                            \
    for (; c + (columns) <= width; c += (columns)) {                    \
        float sum[columns] = {0};                                       \
        for (int64_t k = first; k < last; k++) {                        \
            float w = weights[k * weight_step];                         \
            const float *row = rows + k * row_step + c;                 \
            for (int i = 0; i < (columns); i++) sum[i] += w * row[i];   \
        }                                                               \
        memcpy(out + c, sum, sizeof sum);                               \
    }

/* out[0:width] = sum over k in [first, last) of weights[k * weight_step] * rows[k * row_step + 0:width] */
static inline void mix_rows(const float *weights, int64_t weight_step, const float *rows, int64_t row_step, int64_t first,
                            int64_t last, float *out, int64_t width) {
    int64_t c = 0;
    MIX_COLUMNS(TILE)
    MIX_COLUMNS(8)
    MIX_COLUMNS(1)
}
