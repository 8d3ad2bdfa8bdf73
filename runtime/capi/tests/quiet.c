// After warm-up an inference makes no system call and allocates nothing: inline, and with a worker that spins.
//
//     quiet MODEL.plan
//
// A seccomp filter over all threads ends the process at the first system call; malloc and its kin count.

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pilotlight.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WARM_UP = 3, MEASURED = 200 };

static atomic_long allocations;

void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);

void *malloc(size_t n) { return atomic_fetch_add(&allocations, 1), __libc_malloc(n); }
void *calloc(size_t n, size_t m) { return atomic_fetch_add(&allocations, 1), __libc_calloc(n, m); }
void *realloc(void *p, size_t n) { return atomic_fetch_add(&allocations, 1), __libc_realloc(p, n); }
void *aligned_alloc(size_t a, size_t n) { return atomic_fetch_add(&allocations, 1), __libc_memalign(a, n); }
int posix_memalign(void **p, size_t a, size_t n) { return *p = aligned_alloc(a, n), *p ? 0 : 12; }

// From here on only writing and the end of the process are allowed, on every thread.
static int forbid_system_calls(void) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_write, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_exit_group, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return -1;
    return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
}

static void must(pl_status status, const char *what) {
    if (status == PL_OK) return;
    dprintf(2, "%s: %s\n", what, pl_status_text(status));
    _exit(1);
}

static void infer(pl_session session, unsigned char value) {
    pl_slot slot;
    void *data;
    const void *result;
    size_t size;
    must(pl_lend(session, &slot), "lend");
    must(pl_slot_input(slot, 0, &data, &size), "input");
    memset(data, value, size);
    must(pl_submit(slot), "submit");
    must(pl_wait(slot), "wait");
    must(pl_slot_output(slot, 0, &result, &size), "output");
    must(pl_release(slot), "release");
}

// In a process of its own: ends with 0 when nothing was called or allocated.
static void child(const char *path, uint32_t runner) {
    pl_plan plan;
    pl_session session;
    pl_options options;
    must(pl_plan_open(path, &plan), "plan");
    must(pl_options_init(&options, sizeof options), "options");
    options.runner = runner;
    options.wait = PL_WAIT_SPIN;
    must(pl_session_open(plan, &options, &session), "session");
    for (int i = 0; i < WARM_UP; i++) infer(session, (unsigned char)i);
    if (forbid_system_calls() != 0) _exit(77);
    long before = atomic_load(&allocations);
    for (int i = 0; i < MEASURED; i++) infer(session, (unsigned char)i);
    if (atomic_load(&allocations) != before) {
        static const char text[] = "memory was allocated\n";
        if (write(2, text, sizeof text - 1) < 0) _exit(1);
        _exit(1);
    }
    _exit(0);
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    static const struct { uint32_t runner; const char *name; } runs[] = {
        {PL_RUN_INLINE, "inline"},
        {PL_RUN_WORKER, "worker that spins"},
    };
    int counts[3] = {0};
    for (size_t i = 0; i < 2; i++) {
        int status;
        pid_t pid = fork();
        if (pid == 0) child(argv[1], runs[i].runner);
        if (pid < 0 || waitpid(pid, &status, 0) != pid) return 2;
        int exited = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
        int k = exited == 0 ? 0 : exited == 77 ? 2 : 1;
        counts[k]++;
        if (k == 0) printf("ok      %s: %d inferences, no system call, no allocation\n", runs[i].name, MEASURED);
        if (k == 1) printf("FAILED  %s: %s\n", runs[i].name, exited < 0 ? "a system call was made" : "see above");
        if (k == 2) printf("skipped %s: the kernel refuses a seccomp filter\n", runs[i].name);
    }
    printf("%d passed, %d failed, %d skipped\n", counts[0], counts[1], counts[2]);
    return counts[1] == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
