// A hundred inferences with a worker between two marks, for counting system calls from outside.
//
//     calls MODEL.plan WAIT    (PL_WAIT_... as a number)

#include <pilotlight.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(pl_status status) {
    if (status != PL_OK) _exit(1);
}

static void mark(void) {
    if (write(2, "MARK\n", 5) != 5) _exit(1);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    pl_plan plan;
    pl_session session;
    pl_options options;
    must(pl_plan_open(argv[1], &plan));
    must(pl_options_init(&options, sizeof options));
    options.runner = PL_RUN_WORKER;
    options.wait = (uint32_t)atoi(argv[2]);
    must(pl_session_open(plan, &options, &session));
    for (int i = -20; i < 100; i++) {
        if (i == 0) mark();
        pl_slot slot;
        must(pl_lend(session, &slot));
        must(pl_submit(slot));
        must(pl_wait(slot));
        must(pl_release(slot));
    }
    mark();
    must(pl_session_close(session));
    must(pl_plan_close(plan));
    return 0;
}
