// The persistent kernel: one block on each multiprocessor, resident until it is told to leave.
//
// Each block walks its own list of 128-byte instructions; an instruction is some blocks of one of the launches
// above. What must be done before it is a set of flags, one flag for each instruction of the plan, which hold
// the number (epoch) of the last inference in which that instruction was done. Every flag has one writer, so no
// read-modify-write is needed, and 32 flags are polled with one load.
//
// Between inferences block 0 polls the mailbox in mapped host memory and passes requests on through control
// memory. An inference ends when all blocks have joined; only then is it reported and may the next one begin,
// so whatever two inferences share is ordered by that join.
//
// Launch: cooperative, grid of at most MOST_CTAS blocks, 256 threads, dynamic shared memory of the largest tile.
// Waits for: the mailbox. Signals: the mailbox. Reference: whatever each instruction's kernel names.
// runtime/cuda/PERSISTENT.md describes the protocol.

DEV u32 load_relaxed_gpu(u64 a) {
  u32 v;
  asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(a) : "memory");
  return v;
}
DEV u32 load_acquire_gpu(u64 a) {
  u32 v;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(v) : "l"(a) : "memory");
  return v;
}
DEV u32 load_relaxed_sys(u64 a) {
  u32 v;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(a) : "memory");
  return v;
}
DEV u32 load_acquire_sys(u64 a) {
  u32 v;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(v) : "l"(a) : "memory");
  return v;
}
DEV void store_relaxed_gpu(u64 a, u32 v) { asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(a), "r"(v) : "memory"); }
DEV void store_release_gpu(u64 a, u32 v) { asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(a), "r"(v) : "memory"); }
DEV void store_relaxed_sys(u64 a, u32 v) { asm volatile("st.relaxed.sys.global.u32 [%0], %1;" ::"l"(a), "r"(v) : "memory"); }
DEV void store_release_sys(u64 a, u32 v) { asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(a), "r"(v) : "memory"); }
DEV void store_relaxed_sys64(u64 a, u64 v) { asm volatile("st.relaxed.sys.global.u64 [%0], %1;" ::"l"(a), "l"(v) : "memory"); }
DEV void add_release_gpu(u64 a) { asm volatile("red.release.gpu.global.add.u32 [%0], %1;" ::"l"(a), "r"(1) : "memory"); }
DEV void fence_sc_sys() { asm volatile("fence.sc.sys;" ::: "memory"); }
DEV void prefetch_l2(u64 a) { asm volatile("prefetch.global.L2 [%0];" ::"l"(a)); }
DEV void sleep_ns(u32 ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns)); }
DEV u64 now_ns() {
  u64 t;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(t));
  return t;
}

DEV u64 progress_line(const Pilot& p) { return p.mailbox + MAIL_PROGRESS + blockIdx.x * LINE; }

// The reason for which another block of this launch has told all to leave, or 0.
DEV u32 told_to_leave(const Pilot& p) {
  // ORDER: relaxed; nothing is read on the strength of it. Its partner is in tell_to_leave.
  u32 word = load_relaxed_gpu(p.control + CONTROL_LEAVE);
  return word >> 3 == p.generation ? word & 7 : 0;
}

DEV void tell_to_leave(const Pilot& p, u32 reason) {
  // ORDER: relaxed; whoever sees it leaves, and reads nothing of ours. Words of older launches do not count, so
  // nobody has to reset it. Several blocks may write it at a time: any of their reasons will do.
  store_relaxed_gpu(p.control + CONTROL_LEAVE, p.generation * 8 + reason);
}

// Called by one thread now and then while it polls: why to wait no longer, or 0.
DEV u32 out_of_patience(const Pilot& p, u64 until, u32& polls) {
  if (++polls & 15) return 0;
  u32 reason = told_to_leave(p);
  // ORDER: relaxed; an order to abort stands alone.
  if (!reason && blockIdx.x == 0 && load_relaxed_sys(p.mailbox + MAIL_ORDER) == ORDER_ABORT) reason = LEAVE_ABORTED;
  if (!reason && (i64)(now_ns() - until) > 0) reason = LEAVE_DEADLINE;
  // Whoever waits so long waits for a fault's end: leave the memory to others.
  if (polls > 256) sleep_ns(polls > 4096 ? 20000 : 1000);
  return reason;
}

// Tells host and blocks that this block gives up, where it stands.
DEV void give_up(const Pilot& p, u32 reason, u32 request, u32 flag) {
  u64 line = progress_line(p);
  // ORDER: relaxed; the host reads these words after it has seen this launch leave: block 0's release of
  // MAIL_PARKED, or the driver's word that the kernel has ended.
  store_relaxed_sys(line + 8, request);
  store_relaxed_sys(line + 12, flag);
  store_relaxed_sys(line + 4, reason);
  tell_to_leave(p, reason);
}

// A warp waits for up to 32 flags; 0, or in all lanes the reason to leave.
DEV u32 wait_for(const Pilot& p, const Wait& w, const Request& r, u32 request, u64 until) {
  const u32 lane = threadIdx.x & 31, mask = w.mask;
  const bool mine = mask >> lane & 1;
  const u64 flag = r.state + STATE_FLAGS + (u64)(w.first + lane) * 4;
  u32 polls = 0;
  for (;;) {
    // ORDER: relaxed while polling (an acquire would empty the L1 cache each time); the acquire follows below.
    bool ready = !mine || (int)(load_relaxed_gpu(flag) - r.epoch) >= 0;
    if (__all_sync(~0u, ready)) break;
    u32 reason = lane == 0 ? out_of_patience(p, until, polls) : 0;
    reason = __shfl_sync(~0u, reason, 0);
    if (reason) {
      if (lane == 0) give_up(p, reason, request, w.first);
      return reason;
    }
  }
  // ORDER: acquires what the producers released with these flags (store_release_gpu in `persistent`): all bytes
  // that their blocks wrote, and that they have read what this instruction may overwrite. The barrier behind
  // this call passes it on to all threads of the block.
  if (mine) load_acquire_gpu(flag);
  return 0;
}

// Says to the host that this launch is about to leave; false if a request came first and it must stay.
DEV bool park(const Pilot& p, u32 served, u32 reason) {
  store_relaxed_sys(p.mailbox + MAIL_REASON, reason);
  // ORDER: released, so that the host sees the reason with it.
  store_release_sys(p.mailbox + MAIL_PARKED, p.generation);
  // ORDER: partner of the host's fence between storing SUBMITTED and loading PARKED (mailbox.rs `submit`): of two
  // sequentially consistent fences one is first, so either we see the request or the host sees us parked. Both
  // may happen; then the host's new launch finds nothing left to do.
  fence_sc_sys();
  if (load_relaxed_sys(p.mailbox + MAIL_SUBMITTED) == served) return true;
  store_relaxed_sys(p.mailbox + MAIL_PARKED, p.generation - 1);
  return false;
}

// Block 0, one thread: waits for the host. 0 when a request is there, or the reason to leave.
DEV u32 listen(const Pilot& p, u32 served) {
  const u64 mail = p.mailbox;
  u64 idle_since = now_ns(), beat_since = idle_since;
  u32 beat = load_relaxed_sys(mail + MAIL_BEAT), pause = 16;
  for (u32 polls = 0;; polls++) {
    // ORDER: relaxed while polling, acquire once it has changed.
    if (load_relaxed_sys(mail + MAIL_SUBMITTED) != served) {
      // ORDER: acquires the host's release of SUBMITTED (mailbox.rs `submit`): the request, and the slot's inputs.
      load_acquire_sys(mail + MAIL_SUBMITTED);
      return 0;
    }
    if ((polls & 7) == 7) {
      // ORDER: order and beat stand alone.
      u32 order = load_relaxed_sys(mail + MAIL_ORDER), heard = load_relaxed_sys(mail + MAIL_BEAT);
      u64 t = now_ns();
      if (heard != beat) beat = heard, beat_since = t;
      u32 reason = order == ORDER_ABORT               ? LEAVE_ABORTED
                   : order == ORDER_PARK              ? LEAVE_ORDERED
                   : t - idle_since > p.idle_ns       ? LEAVE_IDLE
                   : t - beat_since > p.heartbeat_ns  ? LEAVE_HEARTBEAT
                                                      : 0;
      if (reason && park(p, served, reason)) return reason;
      pause = pause < 512 ? pause * 2 : pause;
    }
    sleep_ns(pause);
  }
}

// The other blocks, one thread each: wait for block 0. It ends when block 0 does: that polls with limits of its
// own in every loop, and tells all to leave before it leaves.
DEV u32 follow(const Pilot& p, u32 served) {
  u32 pause = 16;
  for (;;) {
    // ORDER: relaxed while polling, acquire once it has changed.
    if (load_relaxed_gpu(p.control + CONTROL_GO) != served) {
      // ORDER: acquires block 0's release of GO: the request, and through block 0's own acquire what the host
      // wrote before it submitted (causality order is transitive over scopes).
      load_acquire_gpu(p.control + CONTROL_GO);
      return 0;
    }
    if (u32 reason = told_to_leave(p)) return reason;
    sleep_ns(pause);
    pause = pause < 512 ? pause * 2 : pause;
  }
}

// Block 0, one thread: waits until all blocks have finished the request. 0, or the reason to leave.
DEV u32 wait_for_all(const Pilot& p, u32 request, u64 until) {
  u32 polls = 0;
  const u32 all = request * gridDim.x;
  // ORDER: relaxed while polling, acquire below.
  while (load_relaxed_gpu(p.control + CONTROL_JOIN) != all) {
    if (u32 reason = out_of_patience(p, until, polls)) {
      give_up(p, reason, request, ~0u);
      return reason;
    }
  }
  // ORDER: acquires every block's release of JOIN (they add to one word, which makes one release sequence): all
  // that the inference wrote and read.
  load_acquire_gpu(p.control + CONTROL_JOIN);
  return 0;
}

#define BLOCKS(name, Type)                                                                                \
  case OP_##name:                                                                                         \
    for (u32 b = in.first; b < in.first + in.count; b++) name##_block(*(const Type*)params, b);           \
    break;
#define TILES(name, ...)                                                                                  \
  case OP_##name:                                                                                         \
    for (u32 b = in.first; b < in.first + in.count; b++) {                                                \
      u32 column = b / in.grid_y;                                                                         \
      conv_tile<__VA_ARGS__>(*(const Conv*)params, column % in.grid_x, b % in.grid_y, column / in.grid_x); \
      /* ORDER: all have left shared memory before the next tile fills it. */                             \
      __syncthreads();                                                                                    \
    }                                                                                                     \
    break;

KERNEL persistent(const __grid_constant__ Pilot p) {
  __shared__ __align__(16) Instruction in;
  __shared__ __align__(16) Request request;
  __shared__ __align__(16) u64 params[MOST_BLOCK_BYTES / 8];
  // Why to leave: instead of a request, or in the middle of one. Each is read behind one barrier and written only
  // behind the next.
  __shared__ u32 verdict, halt;
  const u32 tid = threadIdx.x, lane = tid & 31, warp = tid >> 5, cta = blockIdx.x;
  const u64 mail = p.mailbox, control = p.control;

  // DONE cannot move on before this block has taken part, so all blocks of a launch find the same number.
  // ORDER: relaxed; written by a launch that ended before this one began, or not at all.
  if (tid == 0) verdict = load_relaxed_sys(mail + MAIL_DONE);
  __syncthreads();
  u32 served = verdict;

  for (;;) {
    __syncthreads();
    if (warp == 0) {
      u32 reason = 0;
      if (lane == 0) verdict = reason = cta == 0 ? listen(p, served) : follow(p, served), halt = 0;
      // ORDER: passes lane 0's acquire on to the lanes that read the request.
      __syncwarp();
      reason = __shfl_sync(~0u, reason, 0);
      if (!reason && lane < sizeof(Request) / 4) {
        u32* to = (u32*)&request;
        if (cta != 0) {
          to[lane] = ((const u32*)(control + CONTROL_REQUEST))[lane];
        } else {
          u32 v = ((const u32*)(mail + MAIL_REQUESTS + (served + 1) % REQUESTS * LINE))[lane];
          to[lane] = v;
        }
      }
      __syncwarp();
      if (!reason && cta == 0) {
        // All that read the last request and epoch have joined since, so both may be overwritten.
        if (lane == 0) request.epoch = *(const u32*)request.state + 1;
        __syncwarp();
        if (lane < sizeof(Request) / 4) ((u32*)(control + CONTROL_REQUEST))[lane] = ((const u32*)&request)[lane];
        // ORDER: the lanes' stores come before lane 0's release.
        __syncwarp();
        // ORDER: releases the request and what listen acquired. Partner: follow.
        if (lane == 0) {
          store_release_gpu(control + CONTROL_GO, served + 1);
          store_relaxed_sys64(mail + MAIL_TIMES, now_ns());
        }
      }
    }
    // ORDER: the request, and what was acquired with it, is visible to the whole block.
    __syncthreads();
    if (verdict) break;
    const u32 number = served + 1, epoch = request.epoch;
    const u64 until = now_ns() + request.deadline_ns;
    const u32 end = ((const u32*)request.starts)[cta + 1];
    u32 at = ((const u32*)request.starts)[cta];
    const u32 first = at;
    const u32* list = (const u32*)request.instructions;
    // The next instruction is under way while this one runs. Lists end behind all instructions' words.
    u32 next = warp == 0 && at < end ? list[at * 32 + lane] : 0;
    u32 reason = 0;
    for (; at < end; at++) {
      if (warp == 0) {
        ((u32*)&in)[lane] = next;
        next = at + 1 < end ? list[(at + 1) * 32 + lane] : 0;
      }
      // ORDER: the instruction is visible to the whole block.
      __syncthreads();
      if (in.step < request.from) {
        __syncthreads();
        continue;
      }
      if (in.step > request.until) break;
      // Nothing of this depends on other instructions, so it goes before the wait.
      if (tid * 4 < in.block_bytes) ((u32*)params)[tid] = ((const u32*)(request.blocks + in.block))[tid];
      for (u32 b = tid * 128; b < in.weight_bytes; b += 256 * 128) prefetch_l2(in.weights + b);
      // ORDER: relaxed; for people only.
      if (tid == 0) store_relaxed_sys(progress_line(p), at - first + 1);
      if (request.trace && tid == 0) store_relaxed_sys64(request.trace + (u64)at * 24, now_ns());
      if (in.wait[warp].mask) {
        u32 why = wait_for(p, in.wait[warp], request, number, until);
        if (why && lane == 0) halt = why;
      }
      // ORDER: passes every warp's acquires on to all threads; parameters are visible.
      __syncthreads();
      reason = halt;
      if (reason) break;
      if (request.trace && tid == 0) store_relaxed_sys64(request.trace + (u64)at * 24 + 8, now_ns());
      switch (in.operation) {
        TILES(conv_s8_128x256, true, false, 2, 4, 1, 4, 8)
        TILES(conv_u8_128x256, false, false, 2, 4, 1, 4, 8)
        TILES(conv_s8_64x64, true, false, 1, 2, 4, 4, 4)
        TILES(conv_u8_64x64, false, false, 1, 2, 4, 4, 4)
        TILES(conv_s8_gather, true, true, 1, 4, 2, 4, 4)
        TILES(conv_u8_gather, false, true, 1, 4, 2, 4, 4)
        BLOCKS(finish, Conv)
        BLOCKS(depthwise, Depthwise)
        BLOCKS(depthwise4, Depthwise)
        BLOCKS(direct, Direct)
        BLOCKS(window_sums, Sums)
        BLOCKS(matmul, MatMul)
        BLOCKS(table8, Map)
        BLOCKS(table_f32, Map)
        BLOCKS(unary, Map)
        BLOCKS(quantize, Map)
        BLOCKS(dequantize, Map)
        BLOCKS(cast, Map)
        BLOCKS(zip, Zip)
        BLOCKS(remap, Remap)
        BLOCKS(bilinear, Bilinear)
        BLOCKS(pool, Pool)
        BLOCKS(mean, Line)
        BLOCKS(softmax, Line)
        BLOCKS(softmax8, Line)
        BLOCKS(arg_max, Line)
        default: break;  // An instruction that only waits.
      }
      // Read before the barrier: behind it other lanes of warp 0 may be at the next instruction already.
      const u64 flag = request.state + STATE_FLAGS + (u64)in.flag * 4;
      const u32 to_host = in.to_host;
      // ORDER: all threads' stores and loads of this instruction come before thread 0's release.
      __syncthreads();
      if (tid == 0) {
        // ORDER: releases this block's results, and that it has read its inputs. Partner: wait_for's acquire.
        // The model needs no more than .gpu for outputs either, as block 0 passes them on to the host; .sys has
        // their way to host memory done before the flag is up.
        if (to_host) store_release_sys(flag, epoch);
        else store_release_gpu(flag, epoch);
        if (request.trace) store_relaxed_sys64(request.trace + (u64)at * 24 + 16, now_ns());
      }
    }
    served = number;
    if (tid == 0) {
      if (!reason) {
        // ORDER: thread 0 released its last flag after the barrier behind the last instruction; this releases the
        // same again for block 0, and that this block reads the request no more.
        add_release_gpu(control + CONTROL_JOIN);
        store_relaxed_sys(progress_line(p), 0);
        if (cta == 0) {
          halt = reason = wait_for_all(p, number, until);
          if (!reason) {
            if (request.whole) *(u32*)request.state = epoch;
            store_relaxed_sys64(mail + MAIL_TIMES + 8, now_ns());
            // ORDER: releases the outputs of all blocks, acquired with JOIN, to the host. Partner: the host's
            // acquire of DONE (mailbox.rs `done`).
            store_release_sys(mail + MAIL_DONE, number);
          }
        }
      }
    }
    // ORDER: `halt` is visible to the whole block.
    __syncthreads();
    if (halt) break;
  }
  if (tid == 0) {
    const u32 reason = verdict ? verdict : halt;
    tell_to_leave(p, reason);
    if (cta == 0 && reason >= LEAVE_ABORTED) {
      store_relaxed_sys(mail + MAIL_REASON, reason);
      // ORDER: releases the reason and this block's progress. Partner: the host's acquire of PARKED.
      store_release_sys(mail + MAIL_PARKED, p.generation);
    }
  }
}
