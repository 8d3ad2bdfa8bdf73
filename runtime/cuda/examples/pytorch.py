#!/usr/bin/env python3
"""MobileNetV2 and ResNet-50 in PyTorch on a GPU, as GPU.md compares with: float16, channels last, batch 1, random
weights, copies in and out included, as a CUDA graph and without. Needs torch and torchvision with CUDA."""

import time

import torch
import torchvision

torch.backends.cudnn.benchmark = True
for name in ["mobilenet_v2", "resnet50"]:
    model = getattr(torchvision.models, name)(weights=None).eval().half().cuda().to(memory_format=torch.channels_last)
    host = torch.randn(1, 3, 224, 224).half().contiguous(memory_format=torch.channels_last).pin_memory()
    x = host.cuda()
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(5):
                y = model(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = model(x)
        out = torch.empty_like(y, device="cpu").pin_memory()

        def replay():
            x.copy_(host, non_blocking=True)
            graph.replay()
            out.copy_(y, non_blocking=True)
            torch.cuda.synchronize()

        def eager():
            x.copy_(host, non_blocking=True)
            out.copy_(model(x), non_blocking=True)
            torch.cuda.synchronize()

        for what, run in [("graph", replay), ("eager", eager)]:
            for _ in range(20):
                run()
            times = []
            for _ in range(200):
                since = time.perf_counter()
                run()
                times.append((time.perf_counter() - since) * 1e3)
            times.sort()
            print(f"{name} {what}: p5 {times[10]:.3f} p50 {times[100]:.3f} p95 {times[190]:.3f} ms (n = 200)")
