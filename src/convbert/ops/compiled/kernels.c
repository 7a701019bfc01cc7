/* One library of all compiled kernels, so that the encoder can inline those of single ops. */
#include "../common.h"

#define ABI 3 /* grows with every change of an exported function or of a struct that Python fills in */

EXPORT int abi(void) { return ABI; }

/* Whether this processor has the instructions beyond those that PyTorch reports. */
EXPORT int runs_here(void) {
#if defined(__AVX512VNNI__)
    return __builtin_cpu_supports("avx512vnni") != 0;
#else
    return 1;
#endif
}

#include "../dropout.c"
#include "../gelu.c"
#include "../add_norm.c"
#include "../span_dynamic_conv/span_dynamic_conv.c"
#include "../depthwise_conv/depthwise_conv.c"
#include "team.c"
#include "product.c"
#include "int8.c"
#include "../attention/attention.c"
#include "encoder.c"

/* A hash of SAMPLES numbers of each tensor: one from each of as many equal parts, each time from another place in it. */
#define SAMPLES 16
EXPORT void sample(int64_t count, const float *const *tensors, const int64_t *sizes, uint64_t *out) {
    uint64_t hash = 14695981039346656037u;
    for (int64_t i = 0; i < count; i++) {
        int64_t part = max64(1, sizes[i] / SAMPLES);
        for (int64_t n = 0; n < SAMPLES && n < sizes[i]; n++) {
            uint32_t bits;
            memcpy(&bits, tensors[i] + n * part + n * 7919 % part, 4);
            hash = (hash ^ bits) * 1099511628211u;
        }
    }
    *out = hash;
}
