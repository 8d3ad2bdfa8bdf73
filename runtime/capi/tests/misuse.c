// Everything that a caller can do wrong gives its documented code, and nothing crashes.
//
//     misuse MODEL.plan OTHER.plan

#include "check.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *model, *other;

static pl_plan open_plan(const char *path) {
    pl_plan plan = {0};
    if (pl_plan_open(path, &plan) != PL_OK) abort();
    return plan;
}

static pl_session open_with(const pl_options *options) {
    pl_plan plan = open_plan(model);
    pl_session session = {0};
    if (pl_session_open(plan, options, &session) != PL_OK) abort();
    if (pl_plan_close(plan) != PL_OK) abort();
    return session;
}

static pl_session open_default(void) { return open_with(NULL); }

static pl_options worker(void) {
    pl_options options;
    if (pl_options_init(&options, sizeof options) != PL_OK) abort();
    options.runner = PL_RUN_WORKER;
    return options;
}

static pl_slot lend(pl_session session) {
    pl_slot slot = {0};
    if (pl_lend(session, &slot) != PL_OK) abort();
    return slot;
}

// A whole file; the caller frees it.
static char *slurp(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) abort();
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size);
    if (!bytes || fread(bytes, 1, *size, file) != *size) abort();
    fclose(file);
    return bytes;
}

static void spill(const char *path, const char *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) abort();
}

TEST(null_pointers) {
    pl_plan plan = open_plan(model);
    pl_session session = open_default();
    pl_slot slot = lend(session);
    size_t size;
    GIVES(PL_ERR_NULL, pl_plan_open(NULL, &plan));
    GIVES(PL_ERR_NULL, pl_plan_open(model, NULL));
    GIVES(PL_ERR_NULL, pl_plan_from_bytes(NULL, 10, &plan));
    GIVES(PL_ERR_NULL, pl_plan_from_bytes("x", 1, NULL));
    GIVES(PL_ERR_NULL, pl_plan_from_static(NULL, 0, &plan));
    GIVES(PL_ERR_NULL, pl_session_open(plan, NULL, NULL));
    GIVES(PL_ERR_NULL, pl_options_init(NULL, sizeof(pl_options)));
    GIVES(PL_ERR_NULL, pl_session_input(session, 0, NULL));
    GIVES(PL_ERR_NULL, pl_session_output(session, 0, NULL));
    GIVES(PL_ERR_NULL, pl_lend(session, NULL));
    GIVES(PL_ERR_NULL, pl_slot_input(slot, 0, NULL, &size));
    pl_port in = {.size = sizeof in};
    GIVES(PL_OK, pl_session_input(session, 0, &in));
    GIVES(PL_ERR_NULL, pl_slot_write(slot, 0, NULL, in.bytes));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_NULL, pl_slot_output(slot, 0, NULL, &size));
    GIVES(PL_ERR_NULL, pl_slot_report(slot, NULL));
    GIVES(PL_OK, pl_session_ports(session, NULL, NULL));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_OK, pl_plan_close(plan));
}

TEST(null_handles) {
    pl_plan plan = {0};
    pl_session session = {0};
    pl_slot slot = {0};
    pl_port port = {.size = sizeof port};
    void *data;
    const void *result;
    GIVES(PL_ERR_HANDLE, pl_plan_close(plan));
    GIVES(PL_ERR_HANDLE, pl_session_open(plan, NULL, &session));
    GIVES(PL_ERR_HANDLE, pl_session_swap(session, plan));
    GIVES(PL_ERR_HANDLE, pl_session_close(session));
    GIVES(PL_ERR_HANDLE, pl_session_ports(session, NULL, NULL));
    GIVES(PL_ERR_HANDLE, pl_session_input(session, 0, &port));
    GIVES(PL_ERR_HANDLE, pl_lend(session, &slot));
    GIVES(PL_ERR_HANDLE, pl_slot_input(slot, 0, &data, NULL));
    GIVES(PL_ERR_HANDLE, pl_slot_output(slot, 0, &result, NULL));
    GIVES(PL_ERR_HANDLE, pl_submit(slot));
    GIVES(PL_ERR_HANDLE, pl_wait(slot));
    GIVES(PL_ERR_HANDLE, pl_poll(slot));
    GIVES(PL_ERR_HANDLE, pl_again(slot));
    GIVES(PL_ERR_HANDLE, pl_release(slot));
    GIVES(PL_ERR_HANDLE, pl_cancel(slot, NULL));
}

TEST(invented_handles) {
    pl_session real = open_default();
    for (int bit = 0; bit < 64; bit++) {
        pl_session session = {real.id ^ (uint64_t)1 << bit};
        pl_plan plan = {real.id ^ (uint64_t)1 << bit};
        pl_slot slot = {session.id, UINT64_MAX >> bit}, none = {real.id, (uint64_t)1 << bit};
        GIVES(PL_ERR_HANDLE, pl_session_close(session));
        GIVES(PL_ERR_HANDLE, pl_plan_close(plan));
        GIVES(PL_ERR_HANDLE, pl_wait(slot));
        GIVES(PL_ERR_HANDLE, pl_wait(none));
    }
    GIVES(PL_OK, pl_session_close(real));
}

TEST(a_session_is_no_plan) {
    pl_session session = open_default();
    pl_plan plan = {session.id};
    GIVES(PL_ERR_HANDLE, pl_plan_close(plan));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(a_plan_closed_twice) {
    pl_plan plan = open_plan(model);
    GIVES(PL_OK, pl_plan_close(plan));
    GIVES(PL_ERR_HANDLE, pl_plan_close(plan));
}

TEST(a_closed_plan_cannot_be_opened) {
    pl_plan plan = open_plan(model);
    pl_session session;
    GIVES(PL_OK, pl_plan_close(plan));
    // The place in the table is used again; the old handle must not fit.
    pl_plan next = open_plan(other);
    GIVES(PL_ERR_HANDLE, pl_session_open(plan, NULL, &session));
    GIVES(PL_OK, pl_plan_close(next));
}

TEST(a_session_closed_twice) {
    pl_session session = open_default();
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_ERR_HANDLE, pl_session_close(session));
}

TEST(use_after_close) {
    pl_session session = open_default();
    pl_slot slot = lend(session), next;
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_ERR_HANDLE, pl_lend(session, &next));
    GIVES(PL_ERR_HANDLE, pl_wait(slot));
    GIVES(PL_ERR_HANDLE, pl_release(slot));
    pl_session another = open_default();
    GIVES(PL_ERR_HANDLE, pl_cancel(slot, NULL));
    GIVES(PL_OK, pl_session_close(another));
}

TEST(close_while_a_slot_is_lent) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_ERR_IN_USE, pl_session_close(session));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_IN_USE, pl_session_close(session));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(close_drains_what_is_in_flight) {
    pl_options options = worker();
    options.slots = 8;
    pl_session session = open_with(&options);
    for (int i = 0; i < 8; i++) GIVES(PL_OK, pl_submit(lend(session)));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(submitted_twice) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_ERR_STATE, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_submit(slot));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_ERR_HANDLE, pl_submit(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(an_input_in_flight_cannot_be_reached) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    void *data;
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_ERR_STATE, pl_slot_input(slot, 0, &data, NULL));
    GIVES(PL_ERR_STATE, pl_slot_write(slot, 0, "", 1));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_slot_input(slot, 0, &data, NULL));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(an_output_before_there_is_one) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    const void *data;
    pl_report report = {.size = sizeof report};
    GIVES(PL_ERR_STATE, pl_slot_output(slot, 0, &data, NULL));
    GIVES(PL_ERR_STATE, pl_again(slot));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_ERR_STATE, pl_slot_output(slot, 0, &data, NULL));
    GIVES(PL_ERR_STATE, pl_slot_report(slot, &report));
    GIVES(PL_OK, pl_cancel(slot, NULL));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(waited_for_without_a_submit_and_twice) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_ERR_STATE, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_poll(slot));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(released_twice) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_ERR_HANDLE, pl_release(slot));
    pl_slot next = lend(session);
    GIVES(PL_ERR_HANDLE, pl_release(slot));
    GIVES(PL_OK, pl_release(next));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(released_in_flight) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_ERR_STATE, pl_release(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(cancelled_when_there_is_nothing_to_cancel) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    uint32_t not_run = 7;
    GIVES(PL_ERR_STATE, pl_cancel(slot, &not_run));
    HOLDS(not_run == 7);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_cancel(slot, &not_run));
    HOLDS(not_run == 1);
    GIVES(PL_ERR_HANDLE, pl_cancel(slot, &not_run));
    GIVES(PL_ERR_HANDLE, pl_wait(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(more_slots_than_there_are) {
    pl_session session = open_default();
    pl_slot a = lend(session), b = lend(session), c;
    GIVES(PL_ERR_NO_SLOT, pl_lend(session, &c));
    GIVES(PL_OK, pl_release(a));
    GIVES(PL_OK, pl_lend(session, &c));
    GIVES(PL_OK, pl_release(b));
    GIVES(PL_OK, pl_release(c));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(wrong_indices) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    pl_port port = {.size = sizeof port};
    size_t inputs, outputs;
    void *data;
    const void *result;
    GIVES(PL_OK, pl_session_ports(session, &inputs, &outputs));
    GIVES(PL_ERR_INDEX, pl_session_input(session, inputs, &port));
    GIVES(PL_ERR_INDEX, pl_session_output(session, SIZE_MAX, &port));
    GIVES(PL_ERR_INDEX, pl_slot_input(slot, inputs, &data, NULL));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_INDEX, pl_slot_output(slot, outputs, &result, NULL));
    GIVES(PL_ERR_INDEX, pl_slot_read(slot, SIZE_MAX, &data, 1));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(wrong_sizes) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    pl_port in = {.size = sizeof in}, out = {.size = sizeof out};
    GIVES(PL_OK, pl_session_input(session, 0, &in));
    GIVES(PL_OK, pl_session_output(session, 0, &out));
    char *bytes = calloc(1, in.bytes + out.bytes + 1);
    GIVES(PL_ERR_SIZE, pl_slot_write(slot, 0, bytes, in.bytes - 1));
    GIVES(PL_ERR_SIZE, pl_slot_write(slot, 0, bytes, in.bytes + 1));
    GIVES(PL_ERR_SIZE, pl_slot_write(slot, 0, bytes, 0));
    GIVES(PL_OK, pl_slot_write(slot, 0, bytes, in.bytes));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_ERR_SIZE, pl_slot_read(slot, 0, bytes, out.bytes - 1));
    GIVES(PL_ERR_SIZE, pl_slot_read(slot, 0, bytes, SIZE_MAX));
    GIVES(PL_OK, pl_slot_read(slot, 0, bytes, out.bytes));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
    free(bytes);
}

TEST(structures_of_unknown_size) {
    pl_session session = open_default();
    pl_plan plan = open_plan(model);
    pl_options options = worker();
    pl_port port = {.size = 0};
    options.size = sizeof options + 8;
    GIVES(PL_ERR_SIZE, pl_session_open(plan, &options, &session));
    options.size = 0;
    GIVES(PL_ERR_SIZE, pl_session_open(plan, &options, &session));
    GIVES(PL_ERR_SIZE, pl_options_init(&options, offsetof(pl_options, meter) - 1));
    GIVES(PL_ERR_SIZE, pl_options_init(&options, sizeof options + 1));
    GIVES(PL_ERR_SIZE, pl_session_input(session, 0, &port));
    port.size = SIZE_MAX;
    GIVES(PL_ERR_SIZE, pl_session_output(session, 0, &port));
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    pl_report report = {.size = 3};
    GIVES(PL_ERR_SIZE, pl_slot_report(slot, &report));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_OK, pl_plan_close(plan));
}

TEST(options_out_of_range) {
    pl_plan plan = open_plan(model);
    pl_session session;
    pl_options o;
#define REFUSED(change)                                                                                      \
    o = worker();                                                                                            \
    change;                                                                                                  \
    GIVES(PL_ERR_OPTION, pl_session_open(plan, &o, &session))
    REFUSED(o.device = 0);
    REFUSED(o.device = 0xFFFFFFFF);
    REFUSED(o.threads = 0);
    REFUSED(o.threads = 100000);
    REFUSED(o.slots = 0);
    REFUSED(o.slots = 65);
    REFUSED(o.runner = 2);
    REFUSED(o.wait = 3);
    REFUSED(o.priority = 3);
    REFUSED(o.priority = PL_PRIORITY_NICE; o.priority_level = 20);
    REFUSED(o.priority = PL_PRIORITY_NICE; o.priority_level = 1000);
    REFUSED(o.priority = PL_PRIORITY_FIFO; o.priority_level = 0);
    REFUSED(o.priority = PL_PRIORITY_FIFO; o.priority_level = -5);
    REFUSED(o.thread_name[0] = '\0');
    REFUSED(memset(o.thread_name, 'x', sizeof o.thread_name));
    REFUSED(o.thread_name[0] = (char)0xFF);
    GIVES(PL_ERR_OPTION, pl_log_set(NULL, NULL, 6));
    GIVES(PL_OK, pl_plan_close(plan));
}

TEST(a_core_that_does_not_exist) {
    pl_plan plan = open_plan(model);
    pl_session session;
    pl_options options = worker();
    if (sysconf(_SC_NPROCESSORS_CONF) < 64) {
        options.cores = (uint64_t)1 << 63;
        GIVES(PL_ERR_SYSTEM, pl_session_open(plan, &options, &session));
    }
    options.cores = 1;
    GIVES(PL_OK, pl_session_open(plan, &options, &session));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_OK, pl_plan_close(plan));
}

TEST(files_that_are_no_plans) {
    pl_plan plan;
    GIVES(PL_ERR_PLAN_FILE, pl_plan_open("/nonexistent.plan", &plan));
    GIVES(PL_ERR_PLAN_FILE, pl_plan_open("/", &plan));
    GIVES(PL_ERR_PLAN_FORMAT, pl_plan_open("/dev/null", &plan));
    GIVES(PL_ERR_PLAN_FORMAT, pl_plan_from_bytes("no plan at all", 14, &plan));
    GIVES(PL_ERR_PLAN_FORMAT, pl_plan_from_bytes("", 0, &plan));
}

TEST(damaged_plans) {
    size_t size;
    char *bytes = slurp(model, &size);
    pl_plan plan;
    GIVES(PL_ERR_PLAN_DAMAGED, pl_plan_from_bytes(bytes, size - 1, &plan));
    GIVES(PL_ERR_PLAN_DAMAGED, pl_plan_from_bytes(bytes, 40, &plan));
    bytes[size / 2] ^= 1;
    GIVES(PL_ERR_PLAN_DAMAGED, pl_plan_from_bytes(bytes, size, &plan));
    bytes[8] ^= 0x40;
    GIVES(PL_ERR_PLAN_FORMAT, pl_plan_from_bytes(bytes, size, &plan));
    free(bytes);
}

TEST(a_plan_file_that_shrinks_after_it_was_opened) {
    size_t size;
    char *bytes = slurp(model, &size), path[] = "/tmp/pilotlight-shrinks-XXXXXX";
    if (close(mkstemp(path)) != 0) abort();
    spill(path, bytes, size);
    pl_plan plan = open_plan(path);
    if (truncate(path, 10) != 0) abort();
    pl_session session;
    GIVES(PL_OK, pl_session_open(plan, NULL, &session));
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_OK, pl_plan_close(plan));
    GIVES(PL_ERR_PLAN_DAMAGED, pl_plan_open(path, &plan));
    unlink(path);
    free(bytes);
}

TEST(a_deadline_that_has_passed) {
    pl_session session = open_default();
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit_within(slot, 0));
    GIVES(PL_ERR_DEADLINE, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_wait(slot));
    GIVES(PL_ERR_STATE, pl_submit(slot));
    GIVES(PL_OK, pl_release(slot));
    slot = lend(session);
    GIVES(PL_OK, pl_submit_within(slot, UINT64_MAX));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(failed_requests_keep_their_slots_until_released) {
    pl_session session = open_default();
    pl_slot a = lend(session), b = lend(session), c;
    GIVES(PL_OK, pl_submit_within(a, 0));
    GIVES(PL_OK, pl_submit_within(b, 0));
    GIVES(PL_ERR_DEADLINE, pl_wait(a));
    GIVES(PL_ERR_DEADLINE, pl_wait(b));
    GIVES(PL_ERR_NO_SLOT, pl_lend(session, &c));
    GIVES(PL_OK, pl_release(a));
    GIVES(PL_OK, pl_lend(session, &c));
    GIVES(PL_OK, pl_release(c));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(swaps) {
    pl_session session = open_default();
    pl_plan plan = open_plan(other), none = {0};
    pl_slot old = lend(session);
    GIVES(PL_ERR_HANDLE, pl_session_swap(session, none));
    GIVES(PL_OK, pl_session_swap(session, plan));
    pl_slot new = lend(session);
    GIVES(PL_OK, pl_submit(old));
    GIVES(PL_OK, pl_submit(new));
    GIVES(PL_OK, pl_wait(new));
    GIVES(PL_OK, pl_wait(old));
    GIVES(PL_OK, pl_release(old));
    GIVES(PL_OK, pl_release(new));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_ERR_HANDLE, pl_session_swap(session, plan));
    GIVES(PL_OK, pl_plan_close(plan));
}

// What the callback did, read after the session is closed.
static struct {
    pl_session session;
    pl_slot slot;
    pl_status close, release;
    atomic_int messages;
    // The callback waits for it, so that it meets no other call of the test.
    atomic_bool go;
} seen;

static void meddle(void *user, uint32_t level, const char *text) {
    if (user != &seen || level < PL_LOG_ERROR || level > PL_LOG_TRACE || strlen(text) > 511) abort();
    if (level == PL_LOG_TRACE) {
        while (!atomic_load(&seen.go)) usleep(100);
        seen.close = pl_session_close(seen.session);
        seen.release = pl_release(seen.slot);
    }
    atomic_fetch_add(&seen.messages, 1);
}

TEST(calls_from_the_worker_thread) {
    pl_options options = worker();
    memset(&seen, 0, sizeof seen);
    seen.session = open_with(&options);
    seen.slot = lend(seen.session);
    GIVES(PL_OK, pl_log_set(meddle, &seen, PL_LOG_TRACE));
    GIVES(PL_OK, pl_submit(seen.slot));
    atomic_store(&seen.go, true);
    while (atomic_load(&seen.messages) == 0) usleep(1000);
    HOLDS(seen.close == PL_ERR_THREAD && seen.release == PL_ERR_STATE);
    GIVES(PL_OK, pl_wait(seen.slot));
    GIVES(PL_OK, pl_log_set(NULL, NULL, PL_LOG_OFF));
    GIVES(PL_OK, pl_release(seen.slot));
    GIVES(PL_OK, pl_session_close(seen.session));
}

TEST(calls_from_the_log_callback) {
    memset(&seen, 0, sizeof seen);
    seen.session = open_default();
    seen.slot = lend(seen.session);
    atomic_store(&seen.go, true);
    GIVES(PL_OK, pl_log_set(meddle, &seen, PL_LOG_TRACE));
    GIVES(PL_OK, pl_submit(seen.slot));
    GIVES(PL_OK, pl_wait(seen.slot));
    GIVES(PL_OK, pl_log_set(NULL, NULL, PL_LOG_OFF));
    HOLDS(seen.messages == 1 && seen.close == PL_ERR_BUSY && seen.release == PL_ERR_BUSY);
    GIVES(PL_OK, pl_release(seen.slot));
    GIVES(PL_OK, pl_session_close(seen.session));
}

// Threads that use one slot at the same time: each call works or says so.
static void *hammer(void *argument) {
    pl_slot slot = *(pl_slot *)argument;
    for (int i = 0; i < 2000; i++) {
        pl_status s[] = {pl_submit(slot), pl_wait_timeout(slot, 1000), pl_again(slot)};
        for (int k = 0; k < 3; k++)
            if (s[k] != PL_OK && s[k] != PL_PENDING && s[k] != PL_ERR_STATE && s[k] != PL_ERR_BUSY) return argument;
    }
    return NULL;
}

TEST(two_threads_with_one_slot) {
    pl_options options = worker();
    pl_session session = open_with(&options);
    pl_slot slot = lend(session);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, hammer, &slot) != 0) abort();
    for (int i = 0; i < 2; i++) {
        void *bad;
        if (pthread_join(threads[i], &bad) != 0) abort();
        HOLDS(bad == NULL);
    }
    if (pl_release(slot) != PL_OK) GIVES(PL_OK, pl_cancel(slot, NULL));
    GIVES(PL_OK, pl_session_close(session));
}

TEST(texts) {
    char small[4] = "xyz", big[512];
    pl_plan none = {0};
    GIVES(PL_ERR_HANDLE, pl_plan_close(none));
    size_t length = pl_last_error(NULL, 0);
    HOLDS(length > 3 && length < sizeof big);
    HOLDS(pl_last_error(small, sizeof small) == length && strlen(small) == 3);
    HOLDS(pl_last_error(small, 0) == length && strlen(small) == 3);
    HOLDS(pl_last_error(big, sizeof big) == length && strlen(big) == length);
    HOLDS(strcmp(pl_status_text(12345), "unknown status") == 0);
    HOLDS(strcmp(pl_status_text(PL_ERR_BUSY), pl_status_text(PL_ERR_STATE)) != 0);
    HOLDS(pl_abi_version() == PL_ABI_VERSION);
    HOLDS(strchr(pl_version(), '.') != NULL);
}

// What a caller's header of the first version knew.
TEST(callers_that_know_no_energy) {
    pl_options options;
    memset(&options, 0xa5, sizeof options);
    GIVES(PL_OK, pl_options_init(&options, offsetof(pl_options, meter)));
    HOLDS(options.meter.id == UINT64_C(0xa5a5a5a5a5a5a5a5));
    pl_session session = open_with(&options);
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    pl_report report = {.size = offsetof(pl_report, energy_age_ns), .energy_age_ns = 7};
    GIVES(PL_OK, pl_slot_report(slot, &report));
    HOLDS(report.sequence == 1 && report.energy_status == PL_ENERGY_NOT_MEASURED && report.energy_age_ns == 7);
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
}

// The energy of the only inference of a session, when its window has closed.
static pl_energy energy_of(pl_session session) {
    pl_energy energy = {.size = sizeof energy};
    for (int i = 0; i < 6000; i++) {
        if (pl_session_energy(session, 1, &energy) != PL_OK) abort();
        if (energy.reason != PL_WHY_OPEN) break;
        usleep(10000);
    }
    return energy;
}

TEST(a_machine_without_power_to_read) {
    pl_meter meter = {0}, none = {0};
    pl_energy energy = {.size = sizeof energy};
    char why[128] = "";
    GIVES(PL_ERR_NULL, pl_meter_open("/nowhere", 0, 0, NULL));
    GIVES(PL_ERR_OPTION, pl_meter_open("/nowhere", 5, 0, &meter));
    GIVES(PL_ERR_OPTION, pl_meter_open("/nowhere", 0, 99, &meter));
    GIVES(PL_ERR_HANDLE, pl_meter_close(none));
    GIVES(PL_OK, pl_meter_open("/nowhere", 0, 0, &meter));
    GIVES(PL_ERR_NULL, pl_meter_missing(meter, NULL, 0));
    GIVES(PL_ERR_SIZE, pl_meter_missing(meter, why, 0));
    GIVES(PL_ERR_HANDLE, pl_meter_missing(none, why, sizeof why));
    GIVES(PL_OK, pl_meter_missing(meter, why, sizeof why));
    HOLDS(strstr(why, "not a Jetson") != NULL);
    GIVES(PL_OK, pl_meter_missing(meter, why, 3));
    HOLDS(strlen(why) == 2);
    pl_options options;
    GIVES(PL_OK, pl_options_init(&options, sizeof options));
    options.meter.id = 12345;
    pl_plan plan = open_plan(model);
    pl_session session = {0};
    GIVES(PL_ERR_HANDLE, pl_session_open(plan, &options, &session));
    GIVES(PL_OK, pl_plan_close(plan));
    options.meter = meter;
    session = open_with(&options);
    GIVES(PL_OK, pl_session_energy(session, 1, &energy));
    HOLDS(energy.status == PL_ENERGY_NOT_MEASURED && energy.reason == PL_WHY_UNKNOWN);
    pl_slot slot = lend(session);
    GIVES(PL_ERR_STATE, pl_slot_energy(slot, &energy));
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_slot_energy(slot, &energy));
    HOLDS(energy.status == PL_ENERGY_NOT_MEASURED && energy.reason == PL_WHY_NO_POWER && energy.gross_uj == 0);
    GIVES(PL_ERR_NULL, pl_slot_energy(slot, NULL));
    GIVES(PL_ERR_NULL, pl_session_energy(session, 1, NULL));
    energy.size = 3;
    GIVES(PL_ERR_SIZE, pl_slot_energy(slot, &energy));
    GIVES(PL_ERR_SIZE, pl_session_energy(session, 1, &energy));
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_meter_close(meter));
    GIVES(PL_ERR_HANDLE, pl_meter_close(meter));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_ERR_HANDLE, pl_session_energy(session, 1, &energy));
}

// Writes an attribute of a tree, its folders made.
static void attribute(const char *root, const char *path, const char *bytes, size_t size) {
    char full[512];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')); *at++ = '/') {
        *at = '\0';
        mkdir(full, 0700);
    }
    spill(full, bytes, size);
}

TEST(a_rail_of_known_power) {
    char root[] = "/tmp/pilotlight-rail-XXXXXX";
    if (!mkdtemp(root)) abort();
    static const char board[] = "nvidia,p3768-0000+p3767-0005-super\0nvidia,tegra234";
    attribute(root, "proc/device-tree/compatible", board, sizeof board);
#define RAIL "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon3/"
    attribute(root, RAIL "in1_label", "VDD_IN", 6);
    attribute(root, RAIL "in1_input", "5000", 4);
    attribute(root, RAIL "curr1_input", "1200", 4);
    attribute(root, RAIL "update_interval", "20", 2);
    attribute(root, RAIL "shunt1_resistor", "5000", 4);
    pl_meter meter = {0};
    pl_options options;
    GIVES(PL_OK, pl_meter_open(root, 200, 100, &meter));
    GIVES(PL_OK, pl_options_init(&options, sizeof options));
    options.meter = meter;
    pl_session session = open_with(&options);
    pl_slot slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    GIVES(PL_OK, pl_release(slot));
    pl_energy energy = energy_of(session);
    // 6 W, all of it this inference's: it was the only one.
    HOLDS(energy.status == PL_ENERGY_MODELLED && energy.reason == 0 && energy.inferences == 1);
    HOLDS(energy.length_ns == 100000000 && energy.covered_ns > 0 && energy.deviation_uj > 0);
    uint64_t truth = 6 * energy.covered_ns / 1000;
    HOLDS(energy.gross_uj <= truth + 1 && truth <= energy.gross_uj + 1);
    // No clocks, so no baseline.
    HOLDS(energy.net_parked_uj == PL_NO_BASELINE && energy.net_busy_uj == PL_NO_BASELINE);
    slot = lend(session);
    GIVES(PL_OK, pl_submit(slot));
    GIVES(PL_OK, pl_wait(slot));
    pl_report report = {.size = sizeof report};
    pl_energy carried = {.size = sizeof carried};
    GIVES(PL_OK, pl_slot_report(slot, &report));
    GIVES(PL_OK, pl_slot_energy(slot, &carried));
    HOLDS(report.energy_status == PL_ENERGY_MODELLED && report.energy_uj == carried.gross_uj);
    HOLDS(report.energy_age_ns == carried.age_ns && carried.age_ns > 0);
    GIVES(PL_OK, pl_release(slot));
    GIVES(PL_OK, pl_session_close(session));
    GIVES(PL_OK, pl_meter_close(meter));
    char command[64];
    snprintf(command, sizeof command, "rm -r %s", root);
    HOLDS(system(command) == 0);
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    model = argv[1];
    other = argv[2];
    null_pointers();
    null_handles();
    invented_handles();
    a_session_is_no_plan();
    a_plan_closed_twice();
    a_closed_plan_cannot_be_opened();
    a_session_closed_twice();
    use_after_close();
    close_while_a_slot_is_lent();
    close_drains_what_is_in_flight();
    submitted_twice();
    an_input_in_flight_cannot_be_reached();
    an_output_before_there_is_one();
    waited_for_without_a_submit_and_twice();
    released_twice();
    released_in_flight();
    cancelled_when_there_is_nothing_to_cancel();
    more_slots_than_there_are();
    wrong_indices();
    wrong_sizes();
    structures_of_unknown_size();
    options_out_of_range();
    a_core_that_does_not_exist();
    files_that_are_no_plans();
    damaged_plans();
    a_plan_file_that_shrinks_after_it_was_opened();
    a_deadline_that_has_passed();
    failed_requests_keep_their_slots_until_released();
    swaps();
    calls_from_the_worker_thread();
    calls_from_the_log_callback();
    two_threads_with_one_slot();
    texts();
    callers_that_know_no_energy();
    a_machine_without_power_to_read();
    a_rail_of_known_power();
    return summary();
}
