// The whole way of an inference: load a plan, fill the lent slot in place, run, print.
//
//     firmware MODEL.plan [INPUT.bin [OUTPUT.bin]]
//
// INPUT.bin holds the elements of the first input; without it the input is all zeros.

#include <pilotlight.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(pl_status status, const char *what) {
    if (status == PL_OK) return;
    char why[256];
    pl_last_error(why, sizeof why);
    fprintf(stderr, "%s: %s (%s)\n", what, pl_status_text(status), why);
    exit(EXIT_FAILURE);
}

static void fill(const char *path, void *data, size_t size) {
    FILE *file = fopen(path, "rb");
    if (!file || fread(data, 1, size, file) != size) {
        fprintf(stderr, "%s: not %zu bytes\n", path, size);
        exit(EXIT_FAILURE);
    }
    fclose(file);
}

// Index of the largest of `n` elements.
static size_t largest(const float *x, size_t n) {
    size_t best = 0;
    for (size_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: firmware MODEL.plan [INPUT.bin [OUTPUT.bin]]\n");
        return EXIT_FAILURE;
    }
    pl_plan plan;
    pl_session session;
    check(pl_plan_open(argv[1], &plan), "plan");
    check(pl_session_open(plan, NULL, &session), "session");
    check(pl_plan_close(plan), "plan");

    pl_port in = {.size = sizeof in}, out = {.size = sizeof out};
    check(pl_session_input(session, 0, &in), "input");
    check(pl_session_output(session, 0, &out), "output");
    printf("Pilotlight %s: %s (%zu bytes) -> %s (%zu bytes)\n", pl_version(), in.name, in.bytes, out.name, out.bytes);

    pl_slot slot;
    void *data;
    size_t size;
    check(pl_lend(session, &slot), "lend");
    check(pl_slot_input(slot, 0, &data, &size), "input");
    if (argc > 2) fill(argv[2], data, size); else memset(data, 0, size);
    check(pl_submit(slot), "submit");
    check(pl_wait(slot), "wait");

    const void *result;
    pl_report report = {.size = sizeof report};
    check(pl_slot_output(slot, 0, &result, &size), "output");
    check(pl_slot_report(slot, &report), "report");
    if (out.dtype == PL_F32) {
        size_t best = largest(result, size / sizeof(float));
        printf("largest: element %zu, %g\n", best, ((const float *)result)[best]);
    }
    // Its energy takes a meter: joules.c.
    printf("inference %llu took %llu us\n", (unsigned long long)report.sequence,
           (unsigned long long)report.ran_ns / 1000);
    if (argc > 3) {
        FILE *file = fopen(argv[3], "wb");
        if (!file || fwrite(result, 1, size, file) != size || fclose(file) != 0) {
            fprintf(stderr, "%s: cannot be written\n", argv[3]);
            return EXIT_FAILURE;
        }
    }
    check(pl_release(slot), "release");
    check(pl_session_close(session), "close");
    return EXIT_SUCCESS;
}
