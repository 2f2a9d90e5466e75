"""Exact layer norms against the exact spectrum by FFT and SVD: what one look at WideResNet-28-10
costs.

Ours: the l1 and the linf norm of each convolution of stride 1 on 32x32 inputs (the network's own
zero padding). The peer: the singular values of the same layers as Sedghi et al. publish them (arXiv
1805.10408), which hold for circular padding: an FFT of the kernel at the input's size, and an SVD
for each of the 1024 frequencies. The peer is in torch: its SVD of these was faster than NumPy's.
Both in float32 on the same device, taking turns; on the CPU with one thread, as two wait for each
other on a busy machine. Medians of each layer's repeats, summed over layers. Prints
``layer_norms: ratio=`` theirs / ours, and n, the layers timed times the peer's repeats.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from robsearch.network.layers import Traced, traced
from robsearch.network.operators import norm
from robsearch.parts.models import WideResNet
from robsearch.protocols import ImageSpec

SPEC = ImageSpec((3, 32, 32), 10, (0.5,) * 3, (0.25,) * 3)
OURS_PER_THEIRS = 20
"""Repeats of ours to one of theirs: it is that much shorter, and its median needs more."""


def both(layer: nn.Conv2d, shape: tuple[int, ...]) -> list[Tensor]:
    return [norm(layer, shape, "l1"), norm(layer, shape, "linf")]


def sedghi(layer: nn.Conv2d, shape: tuple[int, ...]) -> Tensor:
    """As published, in torch:
    ``transforms = fft2(kernel, input_shape); svd(transforms, compute_uv=False)``."""
    transforms = torch.fft.fft2(layer.weight.detach(), s=shape[1:])
    values: Tensor = torch.linalg.svdvals(transforms.permute(2, 3, 0, 1))
    return values


def seconds(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def chosen(run: list[Traced], quick: bool) -> list[Traced]:
    """The convolutions of stride 1 on 32x32 inputs; quick: the first of each size."""
    found = [
        t
        for t in run
        if isinstance(t.module, nn.Conv2d) and t.shape[1:] == (32, 32) and t.module.stride == (1, 1)
    ]
    sizes = {tuple(t.module.weight.shape): t for t in reversed(found)}
    return list(sizes.values()) if quick else found


def timed(layers: list[Traced], repeats: int, device: str) -> tuple[float, float]:
    """Seconds of ours and theirs, each the sum over layers of the medians."""
    totals = [0.0, 0.0]
    for t in layers:
        us, them = [], []
        for _ in range(repeats):
            us += [
                seconds(lambda t=t: both(t.module, t.shape), device) for _ in range(OURS_PER_THEIRS)
            ]
            them.append(seconds(lambda t=t: sedghi(t.module, t.shape), device))
        totals = [
            total + statistics.median(times)
            for total, times in zip(totals, (us, them), strict=True)
        ]
        print(
            f"  {t.name}: ours {1e3 * statistics.median(us):.3f} ms, theirs "
            f"{1e3 * statistics.median(them):.1f} ms"
        )
    return totals[0], totals[1]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument(
        "--quick",
        action="store_true",
        help="one layer of each size, twice, instead of all, 5 times",
    )
    options.add_argument(
        "--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu"
    )
    asked = options.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = WideResNet(depth=28, width=10).build(SPEC).eval().to(asked.device)
    run = traced(model, torch.rand(1, *SPEC.shape, device=asked.device))
    layers, repeats = chosen(run, asked.quick), 2 if asked.quick else 5
    (
        both(layers[0].module, layers[0].shape),
        sedghi(layers[0].module, layers[0].shape),
    )  # both then find all loaded
    us, them = timed(layers, repeats, asked.device)
    whole = [
        seconds(lambda: [both(t.module, t.shape) for t in run], asked.device) for _ in range(5)
    ]
    print(
        f"{len(run)} layers of the whole network, l1 and linf: "
        f"{1e3 * statistics.median(whole):.1f} ms, median of 5"
    )
    print(
        f"{len(layers)} convolutions on {asked.device}: ours {1e3 * us:.2f} ms, FFT and SVD "
        f"{1e3 * them:.0f} ms"
    )
    print(f"layer_norms: ratio={them / us:.0f} goal=100 n={len(layers) * repeats}")


if __name__ == "__main__":
    main()
