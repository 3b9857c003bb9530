"""The choice of number format and layout, on times that were measured on one H100."""

import pytest

from service.session.formats import Choice, Tf32, Variant, choose_variant, variants
from service.session.plans import Device

EXACT = Variant("fp32")
TF32, TF32_NHWC = Variant("fp32", True), Variant("fp32", True, "nhwc")
HALF, HALF_NHWC = Variant("fp16"), Variant("fp16", False, "nhwc")
INT8 = Variant("int8")
# Images/s of batches of 64 (and 256), onnxruntime-gpu 1.31.1; docs/gpu.md has the same.
RESNET50 = {EXACT: 2950, TF32: 5627, TF32_NHWC: 6742, HALF: 7994, HALF_NHWC: 10200}
CIFAR10_64 = {TF32: 77162, TF32_NHWC: 104611, HALF: 54767, HALF_NHWC: 62138}
CIFAR10_256 = {TF32: 141153, TF32_NHWC: 194116, HALF: 167468, HALF_NHWC: 225100}


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (RESNET50, HALF_NHWC),
        ({v: r for v, r in RESNET50.items() if v.format != "fp16"}, TF32_NHWC),
        (CIFAR10_64, TF32_NHWC),
        (CIFAR10_256, HALF_NHWC),
        # Exact float32, where it was measured in both layouts.
        ({EXACT: 2950, Variant("fp32", False, "nhwc"): 2442}, EXACT),
        # Within the noise of the measurement: the more exact one, and NCHW.
        ({EXACT: 1000, TF32: 1140, HALF: 1140}, EXACT),
        ({EXACT: 1000, TF32: 1160, HALF: 1300}, TF32),
        ({TF32: 1000, TF32_NHWC: 1020}, TF32),
        ({HALF: 1000, INT8: 1200}, INT8),
    ],
)
def test_the_choice(rates: dict[Variant, float], expected: Variant) -> None:
    assert choose_variant({variant: 64 / rate for variant, rate in rates.items()}) == expected


@pytest.mark.parametrize(
    ("device", "asked", "tf32", "expected"),
    [
        ("cuda", "fp32", "auto", (EXACT,)),
        ("cuda", "fp32", "off", (EXACT,)),
        ("cuda", "fp32", "on", (TF32, TF32_NHWC)),
        ("cuda", "fp16", "off", (HALF, HALF_NHWC)),
        ("cuda", "int8", "off", (INT8,)),
        ("cuda", "auto", "off", (EXACT, HALF, HALF_NHWC)),
        ("cuda", "auto", "auto", (EXACT, TF32, TF32_NHWC, HALF, HALF_NHWC)),
        ("tensorrt", "auto", "off", (EXACT, HALF, INT8)),
        ("cpu", "auto", "on", (EXACT, HALF, INT8)),
    ],
)
def test_what_is_chosen_from(
    device: Device, asked: Choice, tf32: Tf32, expected: tuple[Variant, ...]
) -> None:
    assert variants(device, asked, tf32, {"fp16", "int8"}) == expected


def test_only_files_that_passed_their_gate_are_chosen_from() -> None:
    assert variants("cuda", "auto", "auto", ()) == (EXACT, TF32, TF32_NHWC)
    assert variants("cuda", "fp16", "off", ()) == (EXACT,)
