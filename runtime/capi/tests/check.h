// What the C tests share: a check that names its line, and a count that the runner reads.

#ifndef CHECK_H
#define CHECK_H

#include <pilotlight.h>
#include <stdio.h>
#include <stdlib.h>

static int passed, failed, skipped;

// The status of a call is the documented one, and a failure has a text of its own.
#define GIVES(expected, call)                                                                                \
    do {                                                                                                     \
        pl_status got_ = (call);                                                                             \
        char why_[256] = "";                                                                                 \
        pl_last_error(why_, sizeof why_);                                                                    \
        if (got_ == (expected) && (got_ < 10 || why_[0] != '\0')) break;                                     \
        fprintf(stderr, "%s:%d: %s gave %d (%s: %s), not %s\n", __FILE__, __LINE__, #call, got_,             \
                pl_status_text(got_), why_, #expected);                                                      \
        wrong = 1;                                                                                           \
    } while (0)

#define HOLDS(condition)                                                                                     \
    do {                                                                                                     \
        if (condition) break;                                                                                \
        fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition);                        \
        wrong = 1;                                                                                           \
    } while (0)

// TEST(name) { ... } is a function that sets `wrong` where it finds something.
#define TEST(name)                                                                                           \
    static void name##_body(void);                                                                           \
    static void name(void) {                                                                                 \
        wrong = 0;                                                                                           \
        name##_body();                                                                                       \
        if (wrong) failed++; else passed++;                                                                  \
        printf("%s %s\n", wrong ? "FAILED" : "ok    ", #name);                                               \
    }                                                                                                        \
    static void name##_body(void)

static int wrong;

static inline int summary(void) {
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed == 0 && passed > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

#endif
