// What an inference costs: a meter for the process, and the energy of the window in which the inference ended.
//
//     joules MODEL.plan [ROOT]
//
// ROOT is the tree whose rails are read, this machine's unless given.

#define _POSIX_C_SOURCE 200809L
#include <pilotlight.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void check(pl_status status, const char *what) {
    if (status == PL_OK) return;
    char why[256];
    pl_last_error(why, sizeof why);
    fprintf(stderr, "%s: %s (%s)\n", what, pl_status_text(status), why);
    exit(EXIT_FAILURE);
}

// Energy belongs to windows of a second: that of an inference is known when its window has closed.
static void print_energy(pl_session session, uint64_t sequence, pl_meter meter) {
    pl_energy energy = {.size = sizeof energy};
    struct timespec nap = {.tv_nsec = 50000000};
    do {
        check(pl_session_energy(session, sequence, &energy), "energy");
        if (energy.reason == PL_WHY_OPEN) nanosleep(&nap, NULL);
    } while (energy.reason == PL_WHY_OPEN);
    char why[256];
    check(pl_meter_missing(meter, why, sizeof why), "meter");
    if (energy.status == PL_ENERGY_NOT_MEASURED) {
        printf("energy: not measured (%u: %s)\n", energy.reason, why);
    } else {
        printf("energy: %.3f mJ +- %.3f of the module, %llu inferences in the window\n", energy.gross_uj / 1e3,
               2 * energy.deviation_uj / 1e3, (unsigned long long)energy.inferences);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: joules MODEL.plan [ROOT]\n");
        return EXIT_FAILURE;
    }
    pl_plan plan;
    pl_session session;
    pl_meter meter;
    pl_options options;
    check(pl_plan_open(argv[1], &plan), "plan");
    check(pl_meter_open(argc > 2 ? argv[2] : NULL, 0, 0, &meter), "meter");
    check(pl_options_init(&options, sizeof options), "options");
    options.meter = meter;
    check(pl_session_open(plan, &options, &session), "session");
    check(pl_plan_close(plan), "plan");

    pl_slot slot;
    pl_report report = {.size = sizeof report};
    check(pl_lend(session, &slot), "lend");
    check(pl_submit(slot), "submit");
    check(pl_wait(slot), "wait");
    check(pl_slot_report(slot, &report), "report");
    check(pl_release(slot), "release");
    printf("inference %llu took %llu us\n", (unsigned long long)report.sequence,
           (unsigned long long)report.ran_ns / 1000);
    print_energy(session, report.sequence, meter);
    check(pl_session_close(session), "close");
    check(pl_meter_close(meter), "close");
    return EXIT_SUCCESS;
}
