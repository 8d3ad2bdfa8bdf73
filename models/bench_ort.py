#!/usr/bin/env python3
"""Times ONNX Runtime on a model and prints one JSON object.

Each thread count gets a session of its own with all graph optimisations; input and output are bound beforehand, so
that a run copies nothing. `start_us` is the time from file name to ready session, the smallest of three.
"""

import argparse
import json
import time

import numpy as np
import onnxruntime as ort

from recipes import reference

STARTS = 3


def bench(model, threads, count, warm_up):
    starts = []
    for _ in range(STARTS):
        begin = time.perf_counter_ns()
        session = reference.session(model, threads)
        starts.append(time.perf_counter_ns() - begin)
    binding = session.io_binding()
    rng = np.random.default_rng(0)
    for given in session.get_inputs():
        if given.type != "tensor(float)" or not all(isinstance(d, int) for d in given.shape):
            raise SystemExit(
                f"{model}: input {given.name} is {given.type} {given.shape}; a float tensor of fixed shape is needed"
            )
        value = ort.OrtValue.ortvalue_from_numpy(rng.standard_normal(given.shape).astype(np.float32))
        binding.bind_ortvalue_input(given.name, value)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    times = []
    for i in range(warm_up + count):
        begin = time.perf_counter_ns()
        session.run_with_iobinding(binding)
        if i >= warm_up:
            times.append((time.perf_counter_ns() - begin) / 1e3)
    p50, p99 = np.percentile(times, [50, 99])
    latency = {"min": round(min(times), 1), "p50": round(float(p50), 1), "p99": round(float(p99), 1), "n": count}
    return {"threads": threads, "start_us": min(starts) / 1e3, "latency_us": latency}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--threads", default="1,2", help="comma-separated thread counts (default 1,2)")
    parser.add_argument("-n", type=int, default=200, help="timed runs (default 200)")
    parser.add_argument("--warm-up", type=int, default=20, help="runs before them (default 20)")
    a = parser.parse_args()
    runs = [bench(a.model, int(t), a.n, a.warm_up) for t in a.threads.split(",")]
    print(
        json.dumps(
            {
                "schema": 1,
                "runtime": f"onnxruntime {ort.__version__}",
                "options": reference.OPTIMISATIONS,
                "model": a.model,
                "runs": runs,
            }
        )
    )


if __name__ == "__main__":
    main()
