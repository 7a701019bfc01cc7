/* GELU, x * Phi(x). */

/* erf(x), error below 4e-7: a rational minimax fit on |x| <= 3.92, beyond which it is 1 in fp32. */
static inline float erf_fit(float x) {
    float z = x < -3.92f ? -3.92f : x;
    z = z > 3.92f ? 3.92f : z;
    float u = z * z;
    float p = 1.990952603e-08f;
    p = p * u - 1.957106718e-06f;
    p = p * u + 1.418742780e-04f;
    p = p * u + 3.704523696e-03f;
    p = p * u + 5.058548106e-02f;
    p = p * u + 2.000029924e-01f;
    p = p * u + 1.128379116e+00f;
    float q = 9.565660587e-04f;
    q = q * u + 1.436034303e-02f;
    q = q * u + 1.150321272e-01f;
    q = q * u + 5.105797962e-01f;
    q = q * u + 1.0f;
    return z * p / q;
}

/* Beyond |x| = 5.54 the fp32 cumulative is 0 or 1, and so are its limits: x * 0 at -infinity would be no number. */
static inline float normal_cdf(float x) {
    float inner = 0.5f * (1.0f + erf_fit(x * 0.70710678f));
    inner = x < -5.54f ? 0.0f : inner;
    return x > 5.54f ? 1.0f : inner;
}

static inline float gelu(float x) {
    float y = x * normal_cdf(x);
    return x < -5.54f ? -0.0f : y;
}

EXPORT void gelu_forward(int threads, int64_t n, const float *in, float *out) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) out[i] = gelu(in[i]);
}

EXPORT void gelu_backward(int threads, int64_t n, const float *grad, const float *in, float *grad_in) {
#pragma omp parallel for simd num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        float x = in[i];
        float near = x < -14.0f ? -14.0f : x; /* the density is 0 beyond, and infinity times 0 would be no number */
        near = near > 14.0f ? 14.0f : near;
        float pdf = 0.39894228f * exp_negative(-0.5f * near * near);
        grad_in[i] = grad[i] * (normal_cdf(x) + near * pdf);
    }
}
