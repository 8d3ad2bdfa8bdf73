// Pilotlight: runs INT8 neural networks from firmware. MIT OR Apache-2.0.
//
// Written by `cargo xtask abi --bless` from runtime/capi; do not edit. ABI.md says what may change.
//
// Load a plan, open a session, then for each inference: lend a slot, fill its inputs in place, submit, wait,
// read its outputs in place, release it.
//
// Every function that returns pl_status takes any handle: null, stale and invented ones give PL_ERR_HANDLE.
// A function that fails changes nothing unless it says so. pl_last_error() has the details.
//
// Threads: handles may be used on any thread. Calls with the same slot exclude each other (PL_ERR_BUSY), all
// others may run at the same time. The library starts a thread only for PL_RUN_WORKER and for a meter (and
// where a device has more than one), installs no signal or exit handler, and prints nothing.


#ifndef PILOTLIGHT_H
#define PILOTLIGHT_H

#include <stddef.h>
#include <stdint.h>

// Energy: not known; `reason` of `pl_energy` says why.
#define PL_ENERGY_NOT_MEASURED 0

// Energy: from one rail that feeds the whole module.
#define PL_ENERGY_MEASURED 1

// Energy: from a sum of rails that is not the whole, or a processor's estimate of itself.
#define PL_ENERGY_ESTIMATED 2

// Energy: from a tree that is not the machine's own.
#define PL_ENERGY_MODELLED 3

// Why not: the session was opened without a meter.
#define PL_WHY_NO_METER 1

// Why not: the machine shows no power that could be read; `pl_meter_missing` says what is missing.
#define PL_WHY_NO_POWER 2

// Why not: the session runs on a virtual board.
#define PL_WHY_VIRTUAL_BOARD 3

// Why not: the meter tells seven sessions apart, and this is a further one.
#define PL_WHY_CROWDED 4

// Why not: the window has not closed yet; ask again later.
#define PL_WHY_OPEN 5

// Why not: the window closed too long ago; the last 64 are kept.
#define PL_WHY_FORGOTTEN 6

// Why not: no inference of this number has ended.
#define PL_WHY_UNKNOWN 7

// Why not: the sensor has stopped answering.
#define PL_WHY_SENSOR_LOST 8

// Why not: the sensor has not moved for a minute.
#define PL_WHY_SENSOR_STUCK 9

// Why not: the meter was closed.
#define PL_WHY_METER_CLOSED 10

// A net energy that is not known: its baseline was never measured at these clocks.
#define PL_NO_BASELINE UINT64_MAX

// Log level: nothing.
#define PL_LOG_OFF 0

// Log level: what failed.
#define PL_LOG_ERROR 1

// Log level: what looks wrong.
#define PL_LOG_WARN 2

// Log level: what an operator wants to know.
#define PL_LOG_INFO 3

// Log level: opening, closing, swapping.
#define PL_LOG_DEBUG 4

// Log level: every inference.
#define PL_LOG_TRACE 5

// Device: the processor, with the fastest instructions that it has.
#define PL_DEVICE_CPU 2

// Device: plain loops, one thread, very slow; it defines what every other device must give.
#define PL_DEVICE_REFERENCE 1

// Device: a CUDA GPU, all kernels of an inference as one CUDA graph; for libraries built with it.
#define PL_DEVICE_CUDA_GRAPH 3

// Device: a CUDA GPU, one launch for each kernel; for libraries built with it.
#define PL_DEVICE_CUDA_LAUNCH 4

// Device: a CUDA GPU, one kernel that stays resident; for libraries built with it. The thread that runs inferences
// sleeps once for each, until shortly before the expected end; with `PL_WAIT_SPIN` it does not.
#define PL_DEVICE_CUDA_PERSISTENT 5

// Runner: the thread that waits or polls does the work. The library has no thread.
#define PL_RUN_INLINE 0

// Runner: one thread of the session does the work, in the order of submission.
#define PL_RUN_WORKER 1

// Wait: sleep; at most four system calls for each inference, both threads together.
#define PL_WAIT_BLOCK 0

// Wait: one sleep until shortly before the expected end, then spin; at most three system calls.
#define PL_WAIT_PREDICTIVE 1

// Wait: spin; no system call, and the worker spins too.
#define PL_WAIT_SPIN 2

// Priority of the worker: as the thread that opened the session.
#define PL_PRIORITY_INHERIT 0

// Priority of the worker: `priority_level` is a nice level, -20 (most urgent) to 19.
#define PL_PRIORITY_NICE 1

// Priority of the worker: real time, first in first out; `priority_level` is 1 to 99 (most urgent).
#define PL_PRIORITY_FIFO 2

// Element type: unsigned 8-bit.
#define PL_U8 1

// Element type: signed 8-bit.
#define PL_I8 2

// Element type: signed 32-bit.
#define PL_I32 3

// Element type: signed 64-bit.
#define PL_I64 4

// Element type: IEEE 754 binary32.
#define PL_F32 5

// Kind of input: elements in host memory, row-major, written into the lent slot.
#define PL_KIND_HOST 0

// The most dimensions that `pl_port` can show.
#define PL_MAX_RANK 8

// The ABI that this header describes; compare it with `pl_abi_version()`.
#define PL_ABI_VERSION 1

// What a call came to. Numbers never change their meaning; new ones may be added.
enum pl_status
#if defined(__cplusplus) || __STDC_VERSION__ >= 202311L
  : int32_t
#endif // defined(__cplusplus) || __STDC_VERSION__ >= 202311L
 {
  // Done.
  PL_OK = 0,
  // Not done yet: the request is queued or runs. Not a failure.
  PL_PENDING = 1,
  // A pointer argument is NULL.
  PL_ERR_NULL = 10,
  // The handle is null, was closed or released, or never existed.
  PL_ERR_HANDLE = 11,
  // The slot is in another state: not lent, not submitted, or without output.
  PL_ERR_STATE = 12,
  // Another thread, or a callback's caller, is inside a call with the same slot.
  PL_ERR_BUSY = 13,
  // The session's own worker thread cannot wait for itself.
  PL_ERR_THREAD = 14,
  // There is no input or output of this number.
  PL_ERR_INDEX = 15,
  // The size differs from the input's, output's or structure's.
  PL_ERR_SIZE = 16,
  // An option is out of range.
  PL_ERR_OPTION = 17,
  // All slots are in use.
  PL_ERR_NO_SLOT = 20,
  // The session is closed.
  PL_ERR_CLOSED = 21,
  // Slots are still lent or being read.
  PL_ERR_IN_USE = 22,
  // The plan file cannot be read.
  PL_ERR_PLAN_FILE = 30,
  // Not a plan, or one of a format that this library does not read.
  PL_ERR_PLAN_FORMAT = 31,
  // The plan is truncated, damaged or not valid.
  PL_ERR_PLAN_DAMAGED = 32,
  // No memory.
  PL_ERR_MEMORY = 40,
  // The operating system refused what an option asks for.
  PL_ERR_SYSTEM = 41,
  // More open plans or sessions than handles.
  PL_ERR_LIMIT = 42,
  // The deadline passed before the inference could begin.
  PL_ERR_DEADLINE = 50,
  // The device failed.
  PL_ERR_DEVICE = 51,
  // A defect of Pilotlight: please report it.
  PL_ERR_INTERNAL = 52,
};
#ifndef __cplusplus
#if __STDC_VERSION__ >= 202311L
typedef enum pl_status pl_status;
#else
typedef int32_t pl_status;
#endif // __STDC_VERSION__ >= 202311L
#endif // __cplusplus

// Reads the power of the module, for all sessions of the process. All zero is null: no meter.
typedef struct pl_meter {
  // Not to be looked at.
  uint64_t id;
} pl_meter;

// A plan open on a device. All zero is null.
typedef struct pl_session {
  // Not to be looked at.
  uint64_t id;
} pl_session;

// An inference's part of a window's energy: the session's share by device busy time, over its inferences.
typedef struct pl_energy {
  // Size of this structure: set it to `sizeof(pl_energy)` before the call.
  size_t size;
  // `PL_ENERGY_...`. Where it is not measured the fields below `reason` are 0.
  uint32_t status;
  // `PL_WHY_...`, where it is not measured; else 0.
  uint32_t reason;
  // Of all the energy of the rail, microjoules.
  uint64_t gross_uj;
  // Standard deviation of it; two of them cover at least 95 %.
  uint64_t deviation_uj;
  // Above a board on which nothing of ours is resident, or `PL_NO_BASELINE`.
  uint64_t net_parked_uj;
  // Above one whose resident kernel waits for work, or `PL_NO_BASELINE`.
  uint64_t net_lit_uj;
  // Above one that works back to back at something else, or `PL_NO_BASELINE`.
  uint64_t net_busy_uj;
  // Inferences of the session in the window.
  uint64_t inferences;
  // Length of the window, nanoseconds.
  uint64_t length_ns;
  // Time of it that samples cover.
  uint64_t covered_ns;
  // How long it had been over when the inference ended, or when it was asked for.
  uint64_t age_ns;
} pl_energy;

// Takes a message: the caller's `user` pointer, a level, and a NUL-terminated text that is valid during the call.
typedef void (*pl_log_callback)(void *user, uint32_t level, const char *text);

// How a session is opened. Call `pl_options_init` first, then change what should differ.
typedef struct pl_options {
  // Size of this structure, set by `pl_options_init`: it tells the library which fields there are.
  size_t size;
  // `PL_DEVICE_...`; `PL_DEVICE_CPU`.
  uint32_t device;
  // How many threads share one inference, the running one included; 1.
  uint32_t threads;
  // How many inferences can be lent, in flight or being read at the same time, 1 to 64; 2.
  uint32_t slots;
  // `PL_RUN_...`; `PL_RUN_INLINE`.
  uint32_t runner;
  // `PL_WAIT_...`; `PL_WAIT_BLOCK`.
  uint32_t wait;
  // Not 0: lock all memory that the process has mapped once the plan is loaded; 0.
  uint32_t lock_memory;
  // `PL_PRIORITY_...` of the worker thread; `PL_PRIORITY_INHERIT`.
  uint32_t priority;
  // Level that belongs to `priority`; 0.
  int32_t priority_level;
  // Cores that the worker thread may run on, one bit each from bit 0; 0 means any.
  uint64_t cores;
  // Name of the worker thread, NUL-terminated; "pilotlight".
  char thread_name[16];
  // Tells what inferences cost; null: nobody does.
  struct pl_meter meter;
} pl_options;

// A compiled model, read and validated. All zero is null.
typedef struct pl_plan {
  // Not to be looked at.
  uint64_t id;
} pl_plan;

// An input or output of a plan.
typedef struct pl_port {
  // Size of this structure: set it to `sizeof(pl_port)` before the call.
  size_t size;
  // Size in bytes: elements times the element's size, without gaps.
  size_t bytes;
  // `PL_U8`, `PL_I8`, `PL_I32`, `PL_I64` or `PL_F32`.
  uint32_t dtype;
  // `PL_KIND_...`.
  uint32_t kind;
  // Number of dimensions.
  uint32_t rank;
  // Extent of each dimension, in the model's order; the batch, where there is one, comes first.
  uint32_t shape[PL_MAX_RANK];
  // Not 0 when integers stand for reals: `real = scale * (q - zero_point)`.
  uint32_t quantised;
  // Scale, where quantised.
  float scale;
  // Zero point, where quantised.
  int32_t zero_point;
  // The name in the model, NUL-terminated; longer names are cut.
  char name[64];
} pl_port;

// A lent slot, a request in flight, or an output: the handle stays the same on the way. All zero is null.
//
// Every lent slot is given back by exactly one `pl_release` or `pl_cancel`; then the handle is stale.
typedef struct pl_slot {
  // Not to be looked at.
  uint64_t session;
  // Not to be looked at.
  uint64_t id;
} pl_slot;

// What an inference took.
typedef struct pl_report {
  // Size of this structure: set it to `sizeof(pl_report)` before the call.
  size_t size;
  // Which inference of the session it was, from 1, in the order in which they began.
  uint64_t sequence;
  // Nanoseconds from submission to begin.
  uint64_t queued_ns;
  // Nanoseconds from begin to end.
  uint64_t ran_ns;
  // Nanoseconds after its deadline that it ended; 0 when it was in time or had none.
  uint64_t late_ns;
  // `PL_ENERGY_...`: whether and how the energy is known.
  uint32_t energy_status;
  // 0.
  uint32_t reserved;
  // Gross energy of an inference in the session's last window that closed, microjoules, where `energy_status`
  // says that it is known; else 0. `pl_slot_energy` tells the rest.
  uint64_t energy_uj;
  // Nanoseconds that this window had been over when the inference ended, where the energy is known; else 0.
  uint64_t energy_age_ns;
} pl_report;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Opens a meter: give it to `pl_options.meter` of every session. It keeps one thread; on a machine without readable
// power it keeps none, and sessions get `PL_ENERGY_NOT_MEASURED`. Any thread.
//
// `root` is the root of the file tree whose sensors are read; NULL is the machine's own, and what another tree shows
// is `PL_ENERGY_MODELLED`. `rate` is samples a second, 0 or 10 to 1000; `window_ms` the length of a window, 0 or
// 100 to 60000. Zeros are the defaults: 100, and 1000.
//
// Fails with `PL_ERR_NULL`, `PL_ERR_OPTION`, `PL_ERR_SYSTEM`, `PL_ERR_LIMIT`.
//
// # Safety
// 1. `root` is NULL or a NUL-terminated string.
// 2. `meter` is NULL or points to a `pl_meter`.
pl_status pl_meter_open(const char *root,
                        uint32_t rate,
                        uint32_t window_ms,
                        struct pl_meter *meter);

// Why a meter reads nothing, in English: copies up to `size - 1` bytes and a NUL to `buffer`. Empty where it reads
// something. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE` (a `size` of 0).
//
// # Safety
// 1. `buffer` is NULL or has room for `size` bytes.
pl_status pl_meter_missing(struct pl_meter meter,
                           char *buffer,
                           size_t size);

// Closes a meter and ends its thread. Sessions that were opened with it go on, without energies. Any thread.
//
// Fails with `PL_ERR_HANDLE`.
pl_status pl_meter_close(struct pl_meter meter);

// The energy of inference `sequence` (of `pl_report`): its part of the window in which it ended, once that has
// closed; `PL_WHY_OPEN` until then. Set `energy->size` first. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `energy` is NULL or points to a `pl_energy` whose `size` is set.
pl_status pl_session_energy(struct pl_session session,
                            uint64_t sequence,
                            struct pl_energy *energy);

// Sends messages up to `level` (`PL_LOG_...`) to `callback`; NULL or `PL_LOG_OFF` stops them. Until this is
// called there are none. Any thread.
//
// The callback is called on the thread that has something to say: one that is inside a `pl_` function, or a
// worker. It must return (no longjmp, no C++ exception), and may call `pl_` functions, but a slot whose call is
// under way answers `PL_ERR_BUSY`. A call of the previous callback may still be under way on another thread when
// this returns.
//
// Fails with `PL_ERR_OPTION`.
//
// # Safety
// 1. Until it is replaced, `callback` can be called with `user` on any thread, on several at a time.
pl_status pl_log_set(pl_log_callback callback,
                     void *user,
                     uint32_t level);

// Fills in the defaults: run in the caller's thread, two slots. `size` is `sizeof(pl_options)`. Any thread.
//
// Fails with `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `options` is NULL or points to room for `size` bytes.
pl_status pl_options_init(struct pl_options *options, size_t size);

// Reads a plan from a file. The file is read whole: what becomes of it afterwards does not matter. Any thread.
//
// Fails with `PL_ERR_PLAN_FILE`, `PL_ERR_PLAN_FORMAT`, `PL_ERR_PLAN_DAMAGED`, `PL_ERR_MEMORY`, `PL_ERR_LIMIT`.
//
// # Safety
// 1. `path` is NULL or a NUL-terminated string.
// 2. `plan` is NULL or points to a `pl_plan`.
pl_status pl_plan_open(const char *path,
                       struct pl_plan *plan);

// Reads a plan from memory, which is copied. Any thread.
//
// Fails as `pl_plan_open` does.
//
// # Safety
// 1. `data` is NULL or points to `size` bytes that do not change during the call.
// 2. `plan` is NULL or points to a `pl_plan`.
pl_status pl_plan_from_bytes(const void *data, size_t size, struct pl_plan *plan);

// Reads a plan that is linked into the program (or otherwise lives as long as it): its weights are used where
// they lie. Any thread.
//
// Fails as `pl_plan_open` does.
//
// # Safety
// 1. `data` is NULL or points to `size` bytes that live and do not change until the process ends.
// 2. `plan` is NULL or points to a `pl_plan`.
pl_status pl_plan_from_static(const void *data, size_t size, struct pl_plan *plan);

// Closes a plan. Sessions that were opened with it go on. Any thread.
//
// Fails with `PL_ERR_HANDLE`.
pl_status pl_plan_close(struct pl_plan plan);

// Opens a session. `options` may be NULL for the defaults. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_OPTION`, `PL_ERR_SIZE`, `PL_ERR_MEMORY`, `PL_ERR_SYSTEM`, `PL_ERR_LIMIT`.
//
// # Safety
// 1. `options` is NULL or points to a `pl_options` that `pl_options_init` filled in.
// 2. `session` is NULL or points to a `pl_session`.
pl_status pl_session_open(struct pl_plan plan,
                          const struct pl_options *options,
                          struct pl_session *session);

// Makes another plan the one that new requests run. Slots that are lent or in flight keep theirs; no request is
// lost; when it fails nothing changes. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_MEMORY`, `PL_ERR_OPTION`.
pl_status pl_session_swap(struct pl_session session,
                          struct pl_plan plan);

// Closes a session: what was submitted is run to its end, then the handle and all its slots' handles are stale.
//
// Slots that are lent or hold an output must be released first, since their memory goes: else nothing changes
// and `PL_ERR_IN_USE` is returned. Not on the session's own worker thread (in a log callback).
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_IN_USE`, `PL_ERR_BUSY`, `PL_ERR_THREAD`.
pl_status pl_session_close(struct pl_session session);

// How many inputs and outputs the plan has that new requests run. Either pointer may be NULL. Any thread.
//
// Fails with `PL_ERR_HANDLE`.
//
// # Safety
// 1. `inputs` and `outputs` are NULL or point to a `size_t` each.
pl_status pl_session_ports(struct pl_session session, size_t *inputs, size_t *outputs);

// Describes input `index` of the plan that new requests run. Set `port->size` first. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_NULL`, `PL_ERR_SIZE`, `PL_ERR_INDEX`, `PL_ERR_LIMIT`.
//
// # Safety
// 1. `port` is NULL or points to a `pl_port` whose `size` is set.
pl_status pl_session_input(struct pl_session session, size_t index, struct pl_port *port);

// Describes output `index` of the plan that new requests run. Set `port->size` first. Any thread.
//
// Fails as `pl_session_input` does.
//
// # Safety
// 1. `port` is NULL or points to a `pl_port` whose `size` is set.
pl_status pl_session_output(struct pl_session session, size_t index, struct pl_port *port);

// Lends a free slot. Any thread.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_NO_SLOT`.
//
// # Safety
// 1. `slot` is NULL or points to a `pl_slot`.
pl_status pl_lend(struct pl_session session, struct pl_slot *slot);

// The memory of input `index` of a lent slot, to be filled in place: little-endian elements, row-major.
//
// The pointer is good until the slot is submitted or released; writing through it later is undefined.
// One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`.
//
// # Safety
// 1. `data` is NULL or points to a pointer.
// 2. `size` is NULL or points to a `size_t`.
pl_status pl_slot_input(struct pl_slot slot, size_t index, void **data, size_t *size);

// Copies a whole input into a lent slot; `size` must be the input's. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `data` is NULL or points to `size` bytes outside the slot.
pl_status pl_slot_write(struct pl_slot slot, size_t index, const void *data, size_t size);

// Submits a lent slot, behind those that were submitted before. Its memory must not be touched from now on.
// Any thread; one at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
pl_status pl_submit(struct pl_slot slot);

// As `pl_submit`; when `deadline_ns` nanoseconds have passed before the inference can begin it is not run, and
// waiting for it gives `PL_ERR_DEADLINE`. One that began in time and ended late has an output and a `late_ns`.
pl_status pl_submit_within(struct pl_slot slot,
                           uint64_t deadline_ns);

// Waits for a submitted slot, by the session's wait policy; inline, the work is done here.
//
// After a failure of the inference (the last three) the slot is still to be released. Not on the session's
// worker thread. One thread at a time for each slot: to cancel from another, wait with a timeout.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_THREAD`, `PL_ERR_DEADLINE`,
// `PL_ERR_DEVICE`, `PL_ERR_INTERNAL`.
pl_status pl_wait(struct pl_slot slot);

// As `pl_wait`, but no longer than `timeout_ns` nanoseconds: then `PL_PENDING`, and the request goes on. Inline,
// the time is looked at between inferences only.
pl_status pl_wait_timeout(struct pl_slot slot,
                          uint64_t timeout_ns);

// As `pl_wait`, but does not wait: `PL_PENDING` when there is no output yet. Inline, the work is done here.
pl_status pl_poll(struct pl_slot slot);

// The memory of output `index` of a slot that is done: little-endian elements, row-major.
//
// The pointer is good until the slot is released. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`.
//
// # Safety
// 1. `data` is NULL or points to a pointer.
// 2. `size` is NULL or points to a `size_t`.
pl_status pl_slot_output(struct pl_slot slot, size_t index, const void **data, size_t *size);

// Copies a whole output of a slot that is done; `size` must be the output's. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_INDEX`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `data` is NULL or points to room for `size` bytes outside the slot.
pl_status pl_slot_read(struct pl_slot slot,
                       size_t index,
                       void *data,
                       size_t size);

// What the inference of a slot that is done took. Set `report->size` first. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `report` is NULL or points to a `pl_report` whose `size` is set.
pl_status pl_slot_report(struct pl_slot slot,
                         struct pl_report *report);

// The energy that the report of a slot that is done carries: an inference's part of the session's last window that
// had closed. Set `energy->size` first. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`, `PL_ERR_NULL`, `PL_ERR_SIZE`.
//
// # Safety
// 1. `energy` is NULL or points to a `pl_energy` whose `size` is set.
pl_status pl_slot_energy(struct pl_slot slot,
                         struct pl_energy *energy);

// Turns a slot that is done into a lent one, with its inputs as they are. One thread at a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
pl_status pl_again(struct pl_slot slot);

// Gives back a slot that is lent or done, or whose inference failed; the handle is stale then. Any thread; one at
// a time for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE` (in flight: cancel it), `PL_ERR_BUSY`.
pl_status pl_release(struct pl_slot slot);

// Gives up a submitted slot: what has not begun is not run, what runs is run to its end and forgotten. The handle
// is stale then. `not_run`, which may be NULL, gets 1 where it had not begun, else 0. Any thread; one at a time
// for each slot.
//
// Fails with `PL_ERR_HANDLE`, `PL_ERR_STATE`, `PL_ERR_BUSY`.
//
// # Safety
// 1. `not_run` is NULL or points to a `uint32_t`.
pl_status pl_cancel(struct pl_slot slot,
                    uint32_t *not_run);

// The text of a status, in English, without details. Never NULL; valid for ever. Any thread.
const char *pl_status_text(int32_t status);

// What exactly was wrong in the last call on this thread that failed.
//
// Copies up to `size - 1` bytes and a NUL to `buffer`, which may be NULL when `size` is 0. Returns the length of
// the whole text without NUL: 0 when no call has failed yet. Any thread.
//
// # Safety
// 1. `buffer` has room for `size` bytes.
size_t pl_last_error(char *buffer,
                     size_t size);

// The version of the library, `MAJOR.MINOR.PATCH`. Never NULL; valid for ever. Any thread.
const char *pl_version(void);

// The ABI of the library that is linked: equal to `PL_ABI_VERSION` where header and library fit. Any thread.
uint32_t pl_abi_version(void);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* PILOTLIGHT_H */
