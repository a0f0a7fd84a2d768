"""Boxes cut out of images, against TensorFlow."""

from __future__ import annotations

import numpy as np
import pytest

from .table import FLOATS, RUNNERS, Record, check, floats, ints, raw, record

_BOXES = np.array([[0, 0, 1, 1], [0.1, 0.2, 0.8, 0.7], [0.9, 0.6, 0.2, -0.3], [-0.5, 0, 1.5, 0.5],
                   [0.3, 0.3, 0.3, 0.3]], np.float32)
_IMAGES = np.array([0, 1, 0, 1, 1], np.int32)


def _crops() -> list[Record]:
    records = []
    x = floats(2, 6, 9, 3)
    for method in ("bilinear", "nearest"):
        for size in ((4, 5), (1, 1), (6, 9), (13, 1)):
            options = {"method": method, "note": f"{method} {size}"}
            records += _of_size(x, size, **options)
        cut = raw("CropAndResize", "image", "boxes", "box_ind", crop_size=(3, 4), method=method,
                  extrapolation_value=2.5)
        types = (np.uint8, np.int8, np.uint16, np.int16, np.int32, np.int64)
        records += [record("CropAndResize", cut, x.astype(t), _BOXES, _IMAGES, note=method) for t in FLOATS[:3]]
        records += [record("CropAndResize", cut, ints(2, 6, 9, 3, dtype=t), _BOXES, _IMAGES, note=method)
                    for t in types]
        records.append(record("CropAndResize", cut, x, floats(0, 4), ints(0), note=method))
    cut = raw("CropAndResize", "image", "boxes", "box_ind", crop_size=(3, 4))
    return [*records, record("CropAndResize", cut, x, _BOXES, _IMAGES + 1, checks=False),
            record("CropAndResize", cut, x, np.full_like(_BOXES, np.inf), _IMAGES, checks=False)]


def _of_size(x: np.ndarray, size: tuple[int, int], method: str, note: str) -> list[Record]:
    cut = raw("CropAndResize", "image", "boxes", "box_ind", crop_size=size, method=method)
    back, back_wide = (raw("CropAndResizeGradImage", "grads", "boxes", "box_ind", image_size=x.shape, T=t,
                           method=method)
                       for t in (np.float32, np.float64))
    dy = floats(5, *size, 3, seed=1)
    records = [record("CropAndResize", cut, x, _BOXES, _IMAGES, note=note),
               record("CropAndResizeGradImage", back_wide, dy, _BOXES, _IMAGES, note=f"{note} wide"),
               record("CropAndResizeGradImage", back, dy, _BOXES, _IMAGES, note=note)]
    if method == "nearest":
        return records
    ends = raw("CropAndResizeGradBoxes", "grads", "image", "boxes", "box_ind")
    return [*records, record("CropAndResizeGradBoxes", ends, dy, x, _BOXES, _IMAGES, note=note)]


RECORDS = _crops()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_crop(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
