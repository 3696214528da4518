"""Peak memory and time of predicting rasters of growing size: `python benchmarks/rasters.py [SIDE ...]`.

Each raster is a sparse GeoTIFF, SIDE pixels a side, with data in a diagonal of blocks, so that a large one has no bytes
for the rest; the network is a small U-Net. Every size is a process of its own; what it needs before it reads the raster
is measured first, and the rest is the raster's share.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BLOCK = 1024


def make(path: Path, side: int) -> None:
    """Write a raster whose diagonal has data."""
    import numpy as np
    import rasterio
    from rasterio.windows import Window

    kind = {"driver": "GTiff", "dtype": "uint8", "count": 3, "nodata": 0, "tiled": True, "sparse_ok": True}
    place = {"crs": "EPSG:32632", "transform": rasterio.transform.from_origin(5e5, 5.4e6, 0.2, 0.2)}
    rng = np.random.default_rng(0)
    with rasterio.open(path, "w", height=side, width=side, bigtiff="yes", photometric="rgb", **kind, **place) as file:
        for start in range(0, side - BLOCK, max(BLOCK, side // 12)):
            data = rng.integers(1, 256, (3, BLOCK, BLOCK), dtype=np.uint8)
            file.write(data, window=Window(start, start, BLOCK, BLOCK))


def measure(path: Path) -> None:
    """Predict the raster in this process, and print what it took."""
    import resource

    import numpy as np
    import torch

    from segmodels.inference.rasters import predict_raster
    from segmodels.models.unet import UNet
    from segmodels.tasks import get_task

    model = UNet(8, width=4, batch_norm=True).eval()

    @torch.inference_mode()
    def maps(image: np.ndarray) -> torch.Tensor:
        batch = torch.tensor(image).permute(2, 0, 1)[None].float() / 255
        probabilities: torch.Tensor = model(batch)["out"].softmax(1)[0]
        return probabilities

    maps(np.zeros((BLOCK, BLOCK, 3), np.uint8))
    before, began, windows = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter(), 0

    def count() -> None:
        nonlocal windows
        windows += 1

    predict_raster(
        path, maps, get_task("semantic"), [(i, i, i) for i in range(8)], masks=path.with_name("ids.tif"),
        overlays=path.with_name("film.tif"), on_window=count,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"before": before, "after": after, "seconds": time.perf_counter() - began, "windows": windows}))


def main() -> None:
    """Print a line for each size."""
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]))
        return
    print(f"{'pixels a side':>14} {'windows':>8} {'seconds':>8} {'MiB before':>11} {'MiB at most':>12}")
    for side in [int(given) for given in sys.argv[1:]] or [3000, 30000]:
        with tempfile.TemporaryDirectory() as work:
            path = Path(work, "map.tif")
            make(path, side)
            done = subprocess.run(
                [sys.executable, __file__, "--measure", str(path)], capture_output=True, text=True, check=True
            )
            told = json.loads(done.stdout)
        print(f"{side:14,} {told['windows']:8,} {told['seconds']:8.0f} "
              f"{told['before'] / 1024:11.0f} {told['after'] / 1024:12.0f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
