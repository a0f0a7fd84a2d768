"""Images, against TensorFlow."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from .table import BF16, RUNNERS, Record, check, floats, ints, raw, record


def _resizes() -> list[Record]:
    records = []
    x = floats(2, 4, 5, 3)
    for align, centers in ((False, False), (True, False), (False, True)):
        for size in ((8, 10), (7, 3), (4, 5)):
            options = {"align_corners": align, "half_pixel_centers": centers}
            note = f"{size}{align}{centers}"
            for op in ("ResizeNearestNeighbor", "ResizeBilinear", "ResizeBicubic"):
                function = raw(op, "images", size=size, **options)
                records.append(record(op, function, x, exact=op == "ResizeNearestNeighbor", note=note))
            for op in ("ResizeBilinearGrad", "ResizeBicubicGrad"):
                gradient = raw(op, "grads", "original_image", **options)
                records.append(record(op, gradient, floats(2, *size, 3), x, note=note))
    for size in ((8, 10), (7, 3), (4, 5), (1, 2), (2, 2)):
        for align in (False, True):
            area = raw("ResizeArea", "images", size=size, align_corners=align)
            records += [record("ResizeArea", area, of, note=f"{size}{align}")
                        for of in (x, floats(1, 9, 13, 2), ints(2, 6, 4, 1).astype(np.uint8))]
    larger = raw("ResizeBicubic", "images", size=(9, 33), half_pixel_centers=True)
    records += [record("ResizeBicubic", larger, of) for of in (floats(1, 5, 6, 1), ints(2, 6, 4, 3).astype(np.uint8))]
    nearest = raw("ResizeNearestNeighborGrad", "grads", size=(4, 5), half_pixel_centers=True)
    records.append(record("ResizeNearestNeighborGrad", nearest, floats(2, 8, 15, 3)))
    return records


def _scaled() -> list[Record]:
    records = []
    x = floats(2, 7, 9, 3)
    kinds = ("lanczos1", "lanczos3", "lanczos5", "gaussian", "box", "triangle", "keyscubic", "mitchellcubic")
    moved = np.array([0.7, 1.6], np.float32), np.array([1.3, -2.1], np.float32)
    for kind in kinds:
        for antialias in (False, True):
            for size in ((3, 4), (7, 9), (15, 10), (1, 1)):
                scale = np.array([size[0] / 7, size[1] / 9], np.float32)
                for by, shift in ((scale, np.zeros(2, np.float32)), moved):
                    options = {"scale": by, "translation": shift, "kernel_type": kind, "antialias": antialias}
                    note = f"{kind}{size}{antialias}{by is moved[0]}"
                    forward = raw("ScaleAndTranslate", "images", size=size, **options)
                    back = raw("ScaleAndTranslateGrad", "grads", "original_image", **options)
                    records += [record("ScaleAndTranslate", forward, x, note=note),
                                record("ScaleAndTranslateGrad", back, floats(2, *size, 3), x, note=note)]
    bytes_ = raw("ScaleAndTranslate", "images", size=(4, 4), scale=moved[0], translation=moved[1])
    return [*records, record("ScaleAndTranslate", bytes_, ints(1, 7, 9, 3).astype(np.uint8))]


def _colors() -> list[Record]:
    random = np.random.default_rng(0)
    pictures = random.random((2, 5, 7, 3))
    grey = np.repeat(random.random((4, 1)), 3, axis=1)
    steps = random.integers(0, 3, (40, 3)) / 2  # ties between channels, black and white
    records = []
    for op in ("RGBToHSV", "HSVToRGB"):
        for x in (pictures, pictures * 255, grey, steps, -pictures):
            records += [record(op, raw(op, "images"), x.astype(np.float32)), record(op, raw(op, "images"), x)]
    return records


def _turns(count: int, seed: int = 0) -> np.ndarray:
    """Transforms that turn, shear, move and tilt a little."""
    random = np.random.default_rng(seed)
    whole = np.array([1, 0, 0, 0, 1, 0, 0, 0])
    spread = np.array([0.6, 0.6, 9, 0.6, 0.6, 9, 0.02, 0.02])
    return (whole + spread * random.uniform(-1, 1, (count, 8))).astype(np.float32)


def _projections() -> list[Record]:
    x, size = floats(3, 6, 8, 2), np.array([5, 9], np.int32)
    records = []

    def add(images: np.ndarray, transforms: np.ndarray, mode: str, kind: str, note: str, **options: Any) -> None:
        def apply(images: Any, transforms: Any) -> Any:
            return tf.raw_ops.ImageProjectiveTransformV3(
                images=images, transforms=transforms, output_shape=size, fill_value=0.25, interpolation=kind,
                fill_mode=mode)

        records.append(record("ImageProjectiveTransformV3", apply, images, transforms, note=note, **options))

    moved = np.array([[1, 0, 2.5, 0, 1, -1.5, 0, 0]], np.float32)
    far = np.array([[-3, 0, 40, 0, 5, -60, 0, 0], [1, 0, -0.5, 0, 1, -100, 0, 0], [2, 0, -33, 0, -4, 77, 0, 0]],
                   np.float32)
    beyond = np.array([[1, 0, 0, 0, 1, 0, -0.5, 0]], np.float32)  # the third column lies at infinity
    for mode in ("CONSTANT", "REFLECT", "WRAP", "NEAREST"):
        for kind in ("NEAREST", "BILINEAR"):
            for note, transforms in (("turned", _turns(3)), ("all alike", _turns(1)), ("moved", moved), ("far", far),
                                     ("beyond", beyond)):
                add(x, transforms, mode, kind, f"{mode}-{kind}-{note}", exact=kind == "NEAREST")
        add(floats(3, 1, 1, 1), moved, mode, "NEAREST", f"{mode}-one pixel", exact=True)
    add(ints(3, 6, 8, 1), moved, "CONSTANT", "NEAREST", "whole numbers", exact=True)
    add(ints(3, 6, 8, 1).astype(np.uint8), _turns(3), "REFLECT", "NEAREST", "bytes", exact=True)
    add(floats(3, 6, 8, 2, dtype=BF16), _turns(3), "REFLECT", "BILINEAR", "half width")
    bytes_ = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 1), np.uint8)
    add(bytes_, moved, "CONSTANT", "BILINEAR", "bytes", exact=True)
    older = raw("ImageProjectiveTransformV2", "images", "transforms", output_shape=size, interpolation="BILINEAR")
    records.append(record("ImageProjectiveTransformV2", older, x, _turns(3)))
    return records


def _patches() -> list[Record]:
    def cut(size: tuple[int, int], step: tuple[int, int], rate: tuple[int, int], padding: str) -> Any:
        def wide(pair: tuple[int, int]) -> list[int]:
            return [1, *pair, 1]

        return raw("ExtractImagePatches", "images", ksizes=wide(size), strides=wide(step), rates=wide(rate),
                   padding=padding)

    cases = ((4, 4), (4, 4), (1, 1)), ((3, 2), (2, 1), (1, 1)), ((2, 3), (1, 3), (2, 2)), ((9, 1), (1, 1), (1, 1))
    return [record("ExtractImagePatches", cut(*case, padding), x, exact=True, note=f"{case} {padding}")
            for case in cases for padding in ("VALID", "SAME")
            for x in (floats(2, 8, 12, 3), ints(1, 9, 11, 1, dtype=np.int64))]


def _contrasts() -> list[Record]:
    adjust = raw("AdjustContrastv2", "images", "contrast_factor")
    pictures = np.random.default_rng(0).random((2, 2, 6, 5, 3))
    cases = [floats(0, 6, 5, 3), floats(2, 0, 5, 3), pictures.astype(np.float32), pictures[0, 0].astype(np.float32)]
    return [record("AdjustContrastv2", adjust, x, np.float32(factor)) for x in cases for factor in (0.5, 3, -1)]


def _adjusted() -> list[Record]:
    random = np.random.default_rng(3)
    grey = np.repeat(random.random((4, 5, 1)), 3, axis=2)
    steps = random.integers(0, 3, (40, 1, 3)) / 2
    pictures = [random.random((2, 5, 7, 3)), random.random((5, 7, 3)) * 255, grey, steps, np.zeros((0, 2, 3))]
    hue, saturation = (raw(op, "images", name) for op, name in (("AdjustHue", "delta"), ("AdjustSaturation", "scale")))
    return [record(op, function, x.astype(np.float32), np.float32(by), note=str(by))
            for op, function, values in (("AdjustHue", hue, (0.1, -0.4, 1, -1, 0)),
                                         ("AdjustSaturation", saturation, (0.3, 1, 2.5, 0, 40)))
            for x in pictures for by in values]


RECORDS = _resizes() + _scaled() + _colors() + _projections() + _patches() + _contrasts() + _adjusted()


@pytest.mark.parametrize("runner", RUNNERS)
@pytest.mark.parametrize("case", RECORDS, ids=str)
def test_image(case: Record, runner: str) -> None:
    check(case, RUNNERS[runner])
