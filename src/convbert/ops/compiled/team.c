/* Threads that share the steps of one call. Included by kernels.c.
 *
 * A call that runs many steps opens one parallel region for all of them: each region of OpenMP's own ends with a wait for every
 * thread, and on a busy machine a thread waits for a core some milliseconds. Here the leader hands out parts of a step as long
 * as there are any, to whoever comes: a thread that has no core takes none, and nobody waits for it. Who waits, spins for
 * some microseconds and then sleeps.
 */
#include <stdatomic.h>

#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#else
#include <sched.h>
#endif

#define PATIENCE 2048 /* looks at a word, with a pause between them, before a thread goes to sleep */

extern int omp_get_thread_num(void);

/* Parts [first, last) of a step, by thread number `thread`. */
typedef void (*Body)(void *step, int thread, int64_t first, int64_t last);

typedef struct {
    int threads;
    Body body;
    void *step;
    int64_t total, least;
    _Atomic int64_t next;          /* the first part that nobody has taken */
    _Atomic uint32_t generation;   /* even while a step is open, odd between steps */
    _Atomic uint32_t inside;       /* threads beside the leader that may be at work */
    _Atomic uint32_t asleep, leader_asleep;
    _Atomic int is_over;
} Team;

static inline void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Returns once `word` differs from `seen`; `sleepers` counts those whom `wake` has to wake. */
static void wait_for_change(_Atomic uint32_t *word, uint32_t seen, _Atomic uint32_t *sleepers) {
    for (int i = 0; i < PATIENCE; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen) return;
        pause_briefly();
    }
    while (atomic_load(word) == seen) {
#if defined(__linux__)
        atomic_fetch_add(sleepers, 1);
        if (atomic_load(word) == seen) syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
        atomic_fetch_sub(sleepers, 1);
#else
        (void)sleepers;
        sched_yield();
#endif
    }
}

static void wake(_Atomic uint32_t *word, _Atomic uint32_t *sleepers) {
#if defined(__linux__)
    if (atomic_load(sleepers)) syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
#else
    (void)word, (void)sleepers;
#endif
}

/* Take parts until none are left: large ones first, so that there are few, and small ones in the end, so that all end together. */
static void take_parts(Team *team, int thread) {
    int64_t first = atomic_load_explicit(&team->next, memory_order_relaxed);
    for (;;) {
        int64_t left = team->total - first;
        if (left <= 0) return;
        int64_t parts = min64(left, max64(team->least, left / (2 * team->threads)));
        if (!atomic_compare_exchange_weak(&team->next, &first, first + parts)) continue;
        team->body(team->step, thread, first, first + parts);
        first = atomic_load_explicit(&team->next, memory_order_relaxed);
    }
}

/* Run a step of `total` parts; the leader calls it, and returns when all of them are done. Nobody takes fewer than `least`. */
static void share(Team *team, int64_t total, int64_t least, Body body, void *step) {
    if (team->threads == 1 || total <= least) {
        if (total > 0) body(step, 0, 0, total);
        return;
    }
    /* Closed, and nobody inside: the fields may change. */
    team->body = body, team->step = step, team->total = total, team->least = max64(1, least);
    atomic_store(&team->next, 0);
    atomic_fetch_add(&team->generation, 1);
    wake(&team->generation, &team->asleep);
    take_parts(team, 0);
    atomic_fetch_add(&team->generation, 1);
    for (uint32_t inside; (inside = atomic_load(&team->inside));)
        wait_for_change(&team->inside, inside, &team->leader_asleep);
}

/* What every thread but the leader does until the call is over. */
static void serve(Team *team, int thread) {
    for (;;) {
        uint32_t generation = atomic_load(&team->generation);
        if (atomic_load(&team->is_over)) return;
        if (generation % 2 == 0) {
            atomic_fetch_add(&team->inside, 1);
            /* Whoever came in before the step was closed is waited for; whoever came later takes nothing. */
            if (atomic_load(&team->generation) == generation) take_parts(team, thread);
            if (atomic_fetch_sub(&team->inside, 1) == 1) wake(&team->inside, &team->leader_asleep);
        }
        wait_for_change(&team->generation, generation, &team->asleep);
    }
}

/* Run `lead`, which calls `share` for every step, with so many threads. */
static void with_team(int threads, void (*lead)(Team *, void *), void *call) {
    Team team = {.threads = threads, .generation = 1};
    if (threads == 1) {
        lead(&team, call);
        return;
    }
#pragma omp parallel num_threads(threads)
    {
        int thread = omp_get_thread_num();
        if (thread == 0) {
            lead(&team, call);
            atomic_store(&team.is_over, 1);
            atomic_fetch_add(&team.generation, 2);
            wake(&team.generation, &team.asleep);
        } else {
            serve(&team, thread);
        }
    }
}
