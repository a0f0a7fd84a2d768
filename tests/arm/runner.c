/* Runs calls of linked code on a memory image; built for the machine that the code is for.
 *
 * Without arguments: the names and addresses of functions that the code may call, a line each.
 * With two: reads the first file, runs its calls, writes the image to the second.
 *
 * The file is 64-bit words: base address, bytes of the image, bytes of its text, number of guard pages, number of
 * calls; the address of each guard page; function, buffers, chunk and scratch of each call; then the image. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define MOST_WORKERS 64

typedef void (*kernel)(void *buffers, int64_t chunk, void *scratch);

static void need(int condition, const char *what) {
    if (!condition) {
        perror(what);
        exit(2);
    }
}

static uint64_t *read_words(FILE *file, size_t count) {
    uint64_t *words = malloc(count * sizeof *words + 1);
    need(words && fread(words, sizeof *words, count, file) == count, "words");
    return words;
}

/* A product with CBLAS's interface: 112 stands for a transposed matrix; alpha is 1 and beta 0. */
#define PRODUCT(NAME, TYPE)                                                                                  \
    static void NAME(int order, int at, int bt, int m, int n, int k, TYPE alpha, const TYPE *a, int lda,     \
                     const TYPE *b, int ldb, TYPE beta, TYPE *c, int ldc) {                                  \
        if (order != 101 || alpha != 1 || beta != 0)                                                         \
            exit(3);                                                                                         \
        for (int i = 0; i < m; i++)                                                                          \
            for (int j = 0; j < n; j++) {                                                                    \
                TYPE sum = 0;                                                                                \
                for (int l = 0; l < k; l++)                                                                  \
                    sum += a[at == 112 ? l * lda + i : i * lda + l] * b[bt == 112 ? j * ldb + l : l * ldb + j]; \
                c[i * ldc + j] = sum;                                                                        \
            }                                                                                                \
    }
PRODUCT(product_of_floats, float)
PRODUCT(product_of_doubles, double)

/* The workers of a team but the caller, who is the first. */
static struct worker { pthread_t thread; void *team; int64_t index; void (*work)(void *team, int64_t index); }
    workers[MOST_WORKERS];
static int64_t worker_count;

static void *live(void *own) {
    struct worker *worker = own;
    worker->work(worker->team, worker->index);
    return NULL;
}

static void start_workers(void *team, int64_t count, void *work) {
    need(count <= MOST_WORKERS, "workers");
    for (worker_count = 1; worker_count < count; worker_count++) {
        struct worker *worker = &workers[worker_count];
        *worker = (struct worker){.team = team, .index = worker_count, .work = (void (*)(void *, int64_t))work};
        need(pthread_create(&worker->thread, NULL, live, worker) == 0, "thread");
    }
}

static void join_workers(void) {
    for (int64_t index = 1; index < worker_count; index++)
        need(pthread_join(workers[index].thread, NULL) == 0, "join");
}

#define NAMED(FUNCTION) {#FUNCTION, FUNCTION}

static void print_symbols(void) {
    struct { const char *name; void *address; } known[] = {
        NAMED(memcpy), NAMED(memmove), NAMED(memset), NAMED(bzero), NAMED(fmod), NAMED(fmodf),
        NAMED(clock_gettime), NAMED(nanosleep), NAMED(sched_yield), NAMED(sched_getcpu), NAMED(sched_getaffinity),
        NAMED(sched_setaffinity), NAMED(syscall), NAMED(pthread_mutex_init), NAMED(pthread_mutex_lock),
        NAMED(pthread_mutex_unlock), NAMED(pthread_cond_init), NAMED(pthread_cond_wait), NAMED(pthread_cond_broadcast),
        NAMED(start_workers), NAMED(join_workers),
        {"afterburner_cblas_sgemm", product_of_floats}, {"afterburner_cblas_dgemm", product_of_doubles},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        printf("%s %" PRIu64 "\n", known[i].name, (uint64_t)known[i].address);
}

int main(int count, char **arguments) {
    if (count != 3) {
        print_symbols();
        return 0;
    }
    FILE *in = fopen(arguments[1], "rb");
    need(in != NULL, arguments[1]);
    uint64_t *head = read_words(in, 5);
    uint64_t size = head[1], text = head[2];
    char *base = (char *)head[0];
    uint64_t *guards = read_words(in, head[3]), *calls = read_words(in, 4 * head[4]);
    void *block = mmap(base, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    need(block == base && fread(base, 1, size, in) == size, "image");
    need(mprotect(base, text, PROT_READ | PROT_EXEC) == 0, "text");
    __builtin___clear_cache(base, base + text);
    for (uint64_t i = 0; i < head[3]; i++)
        need(mprotect((void *)guards[i], PAGE, PROT_NONE) == 0, "guard");
    for (uint64_t *call = calls; call < calls + 4 * head[4]; call += 4)
        ((kernel)call[0])((void *)call[1], (int64_t)call[2], (void *)call[3]);
    for (uint64_t i = 0; i < head[3]; i++)
        need(mprotect((void *)guards[i], PAGE, PROT_READ) == 0, "guard");
    FILE *out = fopen(arguments[2], "wb");
    need(out && fwrite(base, 1, size, out) == size && fclose(out) == 0, arguments[2]);
    return 0;
}
