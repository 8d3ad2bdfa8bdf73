// Out of memory is an error code: sessions are opened until the address space is used up.
//
//     memory MODEL.plan

#include "check.h"
#include <sys/resource.h>

static const char *model;

// Bytes of address space that the process uses.
static size_t used(void) {
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long pages = 0;
    if (!file || fscanf(file, "%lu", &pages) != 1) abort();
    fclose(file);
    return pages * 4096;
}

static void limit(size_t bytes) {
    struct rlimit limit = {bytes, RLIM_INFINITY};
    if (setrlimit(RLIMIT_AS, &limit) != 0) abort();
}

TEST(sessions_until_there_is_no_memory) {
    enum { MOST = 20000 };
    static pl_session sessions[MOST];
    pl_plan plan;
    GIVES(PL_OK, pl_plan_open(model, &plan));
    pl_options options;
    GIVES(PL_OK, pl_options_init(&options, sizeof options));
    options.slots = 64;
    int open = 0;
    pl_status status = PL_OK;
    limit(used() + ((size_t)64 << 20));
    while (open < MOST && (status = pl_session_open(plan, &options, &sessions[open])) == PL_OK) open++;
    limit(RLIM_INFINITY);
    HOLDS(open > 0);
    HOLDS(status == PL_ERR_MEMORY);
    // What is open works on, and what is closed can be used again.
    pl_slot slot;
    GIVES(PL_OK, pl_lend(sessions[0], &slot));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    for (int i = 0; i < open; i++) GIVES(PL_OK, pl_session_close(sessions[i]));
    GIVES(PL_OK, pl_session_open(plan, &options, &sessions[0]));
    GIVES(PL_OK, pl_session_close(sessions[0]));
    GIVES(PL_OK, pl_plan_close(plan));
}

TEST(a_plan_larger_than_memory) {
    pl_plan plan;
    static char byte;
    // Only the preamble would be looked at; the copy cannot be had.
    GIVES(PL_ERR_MEMORY, pl_plan_from_bytes(&byte, (size_t)1 << 46, &plan));
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    model = argv[1];
    sessions_until_there_is_no_memory();
    a_plan_larger_than_memory();
    return summary();
}
