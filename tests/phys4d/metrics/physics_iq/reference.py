"""Physics-IQ written down a second time: float64, NumPy and SciPy, no OpenCV; for sizes divisible by 4.

It follows the description of the benchmark step by step and shares no code with the library.
"""

import numpy as np
from scipy import ndimage

Frames = np.ndarray
METRICS = ("mse", "st", "s", "ws")


def grey(rgb: np.ndarray) -> np.ndarray:
    """Luma of 8-bit RGB, rounded; the weights .299, .587, .114 are multiples of 2^-15 in OpenCV."""
    return np.floor(rgb @ (np.array([9798, 19235, 3735]) / 2**15) + 0.5)


def blurred(image: np.ndarray) -> np.ndarray:
    """Binomial 5 x 5 blur, mirrored at the border without repeating it, rounded."""
    kernel = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    for axis in (0, 1):
        image = ndimage.correlate1d(image, kernel, axis=axis, mode="mirror")
    return np.floor(image + 0.5)


def masks(rgb: Frames) -> np.ndarray:
    """Motion masks at full resolution, bool."""
    average = blurred(grey(rgb[0].astype(float)))
    found = [np.zeros(average.shape, bool)]
    for frame in rgb[1:]:
        now = blurred(grey(frame.astype(float)))
        average = (1 - 0.3) * average + 0.3 * now
        moving = np.abs(now - np.rint(average)) > 10
        found.append(eroded(dilated(dilated(eroded(moving)))))
    return np.stack(found)


def dilated(mask: np.ndarray) -> np.ndarray:
    return ndimage.maximum_filter(mask, 5, mode="constant", cval=0)


def eroded(mask: np.ndarray) -> np.ndarray:
    """Outside the image counts as moving."""
    return ~dilated(~mask)


def quarter(images: np.ndarray) -> np.ndarray:
    """Bilinear samples at the centres of 4 x 4 blocks: the mean of the 2 x 2 pixels about each."""
    return (images[:, 1::4, 1::4] + images[:, 2::4, 1::4] + images[:, 1::4, 2::4] + images[:, 2::4, 2::4]) / 4


def shrunk(rgb: Frames) -> tuple[np.ndarray, np.ndarray]:
    """RGB in [0, 1] and masks at a quarter of the resolution."""
    return np.floor(quarter(rgb.astype(float)) + 0.5) / 255, quarter(255.0 * masks(rgb)) >= 127.5


def metrics(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """The four metrics of two shrunk clips; frames of `mse` and `st` are rounded to 4 decimals."""
    (rgb_a, mask_a), (rgb_b, mask_b) = a, b

    def iou(x: np.ndarray, y: np.ndarray) -> float:
        union = np.logical_or(x, y).sum()
        return np.logical_and(x, y).sum() / union if union else 1.0

    share_a, share_b = mask_a.mean(0), mask_b.mean(0)
    union = np.maximum(share_a, share_b).sum()
    return {
        "mse": np.array([round(float(np.mean((x - y) ** 2)), 4) for x, y in zip(rgb_a, rgb_b, strict=True)]),
        "st": np.array([round(float(iou(x, y)), 4) for x, y in zip(mask_a, mask_b, strict=True)]),
        "s": np.array(iou(mask_a.any(0), mask_b.any(0))),
        "ws": np.array(np.minimum(share_a, share_b).sum() / union if union else 1.0),
    }


def scores(model: list[list[dict]], variance: list[list[dict]]) -> tuple[float, float]:
    """Original and Verified from the metrics of [scenario][view]."""
    mean = {
        k: np.mean([np.mean(np.concatenate([np.atleast_1d(v[k]) for v in views])) for views in model])
        for k in METRICS
    }
    digits = {"mse": 4, "st": 4, "s": 5, "ws": 4}
    noise = {}
    for k in METRICS:
        per_view = [np.mean([np.mean(views[i][k]) for views in variance]) for i in range(3)]
        noise[k] = round(float(np.mean(per_view)), digits[k])
    ratios = sum(mean[k] / noise[k] for k in ("st", "s", "ws")) / 3
    original = round(float(np.clip(100 * (ratios - (mean["mse"] - noise["mse"])), 0, 100)), 2)
    cells = []
    for views, limits in zip(model, variance, strict=True):
        for got, limit in zip(views, limits, strict=True):
            parts = [np.mean(got[k]) / (np.mean(limit[k]) + 1e-8) for k in ("st", "s", "ws")]
            with np.errstate(divide="ignore"):
                parts.append(1 / (np.mean(got["mse"]) / (np.mean(limit["mse"]) + 1e-8)))
            cells.append(np.mean(np.clip(parts, 0, 1)))
    return original, 100 * float(np.mean(cells))
