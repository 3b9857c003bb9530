"""The input of a foreign graph: the one that takes pixels, and the precision that it computes in.

Read from the graph, and from options where it leaves something open. Legend: N rows, H height,
W width, C channels.
"""

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

from export.errors import AdoptError
from export.geometry import image_spec
from export.labels import own_size
from export.options import Layout, Options
from models.artifact import ImageSpec, Precision
from models.onnx_file import DATATYPES

INPUTS: dict[int, type[np.generic]] = {
    TensorProto.FLOAT: np.float32,
    TensorProto.FLOAT16: np.float16,
    TensorProto.BFLOAT16: ml_dtypes.bfloat16,
    TensorProto.DOUBLE: np.float64,
    TensorProto.UINT8: np.uint8,
    TensorProto.INT8: np.int8,
    TensorProto.UINT16: np.uint16,
}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
# Operators before the first convolution that keep the axes of pixels, or reorder them.
_BEFORE_LAYERS = frozenset(
    {"Identity", "Cast", "Sub", "Div", "Mul", "Add", "Clip", "Pad", "Transpose"}
    | {"QuantizeLinear", "DequantizeLinear", "BatchNormalization"}
)
LAYERS = frozenset({"Conv", "Gemm", "MatMul", "QLinearConv", "FusedConv"})
_QUANTIZED = frozenset(
    {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "QGemm", "ConvInteger", "MatMulInteger"}
)


@dataclass(frozen=True, slots=True)
class GraphInput:
    """The one input of a foreign graph.

    Attributes:
        name: Its name in the graph.
        elem_type: Its datatype, as a number of TensorProto.
        layout: Order of its axes.
        image: What a decoded row looks like.
        batch: The fixed number of rows, None if it is free.
        rank: Number of axes: 4, of grey images also 3 ([N, H, W]), of flat ones 2 ([N, pixels]).
    """

    name: str
    elem_type: int
    layout: Layout
    image: ImageSpec
    batch: int | None
    rank: int = 4

    @property
    def is_float(self) -> bool:
        """Whether it takes floats: then nothing in the graph says what a pixel of 255 becomes."""
        return self.elem_type in FLOATS

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Return the shape of one row of the input."""
        height, width, channels = self.image.shape_HWC
        if self.rank == 2:
            return (height * width * channels,)
        if self.rank == 3:
            return height, width
        return (channels, height, width) if self.layout == "NCHW" else (height, width, channels)

    def prepare(self, images_NHWC: NDArray[np.uint8], options: Options) -> NDArray[np.generic]:
        """Prepare pixels in NumPy and float64, as the nodes of ``wrap`` do in the graph."""
        values = images_NHWC.astype(np.float64)
        if options.channels == "BGR":
            values = values[..., ::-1]
        values = (values * options.scale - np.array(options.mean)) / np.array(options.std)
        if self.layout == "NCHW":
            values = values.transpose(0, 3, 1, 2)
        values = values.reshape(len(images_NHWC), *self.row_shape)
        return np.ascontiguousarray(values.astype(INPUTS[self.elem_type]))


def find_input(model: onnx.ModelProto, options: Options) -> GraphInput:
    """Return the one input of the graph.

    Raises:
        AdoptError: More than one input, not an image, or a property that only an option can give.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise AdoptError(
            f"expected one input, the images, got {names}: export the network with every other "
            "input as a constant"
        )
    (given,) = inputs
    where = f'input "{given.name}"'
    elem_type = given.type.tensor_type.elem_type
    if elem_type not in INPUTS:
        names = ", ".join(DATATYPES[known] for known in INPUTS)
        raise AdoptError(
            f"{where}: expected {names}, got {DATATYPES.get(elem_type, elem_type)}: put a Cast "
            "from one of them before it"
        )
    sides: list[int | None] = [fixed_side(side) for side in given.type.tensor_type.shape.dim]
    if not given.type.tensor_type.HasField("shape"):
        sides = [None] * 4  # as most graphs of images; the options and the first layer say more
    wanted = options.size or own_size(model)
    if len(sides) == 4:
        image, layout = _read_square(model, given.name, sides, wanted, options)
    else:
        image, layout = _read_flat(where, sides, wanted, options)
    found = GraphInput(given.name, elem_type, layout, image, sides[0], len(sides))
    _check_pixels(found, options, where)
    return found


def find_precision(model: onnx.ModelProto) -> Precision:
    """Return the precision that a file computes in: of its quantizers, or of most weights."""
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        return "int8"
    sizes = {TensorProto.FLOAT: 0, TensorProto.FLOAT16: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += math.prod(tensor.dims)
    return "fp16" if sizes[TensorProto.FLOAT16] > sizes[TensorProto.FLOAT] else "fp32"


def fixed_side(side: onnx.TensorShapeProto.Dimension) -> int | None:
    """Return a fixed side; 0, -1 and names are free."""
    return side.dim_value if side.dim_value > 0 else None


def _read_square(
    model: onnx.ModelProto,
    name: str,
    sides: list[int | None],
    wanted: tuple[int, int] | None,
    options: Options,
) -> tuple[ImageSpec, Layout]:
    where = f'input "{name}"'
    first = _first_kernel(model, name)
    layout = options.layout or _guess_layout(sides, first, where)
    height, width, channels = sides[1:] if layout == "NHWC" else (*sides[2:], sides[1])
    if channels is None:
        channels = options.input_channels or (first[1] if first is not None else None)
    if channels is None:
        raise AdoptError(f"{where}: expected --input-channels, its shape {sides} leaves them open")
    if options.input_channels not in (None, channels):
        raise AdoptError(
            f"{where}: expected --input-channels {channels}, as in its shape {sides}, "
            f"got {options.input_channels}"
        )
    if channels not in (1, 3):
        raise AdoptError(
            f"{where}: expected 1 or 3 channels (grey or RGB) in {layout}, got {channels} in shape "
            f"{sides}: export a network that takes RGB and makes the other channels itself"
        )
    if wanted is None and (height is None or width is None):
        raise AdoptError(f"{where}: expected --size, its shape {sides} leaves it open")
    chosen = wanted or (int(height or 0), int(width or 0))
    if (height or chosen[0], width or chosen[1]) != chosen:
        raise AdoptError(f"{where}: expected --size to fit its shape {sides}, got {chosen}")
    return _image(channels, chosen, options), layout


def _read_flat(
    where: str, sides: list[int | None], wanted: tuple[int, int] | None, options: Options
) -> tuple[ImageSpec, Layout]:
    """Read [N, H, W], or [N, pixels], whose size and channels only options tell."""
    if len(sides) == 3:
        if sides[0] not in (None, 1):
            raise AdoptError(f"{where}: expected [N, H, W] or 4 axes, got shape {sides}")
        height, width = sides[1] or (wanted or (0, 0))[0], sides[2] or (wanted or (0, 0))[1]
        if wanted not in (None, (height, width)) or not (height and width):
            raise AdoptError(f"{where}: expected --size to fit its shape {sides}, got {wanted}")
        return _image(1, (height, width), options), "NHWC"
    if len(sides) != 2:
        raise AdoptError(f"{where}: expected [N, C, H, W] or another order, got shape {sides}")
    if wanted is None:
        raise AdoptError(f"{where}: expected --size, as 8x8, got shape {sides}, pixels in a line")
    area = wanted[0] * wanted[1]
    channels = options.input_channels or (sides[1] // area if sides[1] else None)
    if channels not in (1, 3) or sides[1] not in (None, area * channels):
        raise AdoptError(
            f"{where}: expected --size and --input-channels (1 or 3) of its {sides[1]} numbers a "
            f"row, got {wanted[0]}x{wanted[1]} and {channels}"
        )
    if channels == 3 and options.layout is None:
        raise AdoptError(f"{where}: expected --layout NCHW or NHWC, which shape {sides} hides")
    return _image(channels, wanted, options), options.layout or "NHWC"


def _image(channels: int, size: tuple[int, int], options: Options) -> ImageSpec:
    return image_spec(options, "RGB" if channels == 3 else "L", *size)


def _check_pixels(given: GraphInput, options: Options, where: str) -> None:
    """Check that the options fit the input's datatype and channels."""
    if given.elem_type == TensorProto.UINT8 and not (
        (options.scale, set(options.mean), set(options.std)) == (1, {0}, {1})
    ):
        raise AdoptError(f"{where}: expected no scale, mean or std, it takes uint8 pixels")
    three = max(len(options.mean), len(options.std)) == 3 or options.channels == "BGR"
    if given.image.channels == 1 and three:
        raise AdoptError(f"{where}: expected one mean and std and no BGR, it takes grey images")
    if given.is_float or given.elem_type == TensorProto.UINT8:
        return
    name = DATATYPES[given.elem_type]
    if given.elem_type == TensorProto.UINT16 and not options.is_scaled:
        raise AdoptError(
            f"{where}: expected to know what it takes, got {name}: give --scale 257 if it takes 0 "
            "to 65535, --scale 1 if it takes 0 to 255"
        )
    limits = np.iinfo(np.dtype(INPUTS[given.elem_type]))
    pixels = np.arange(256.0)[:, np.newaxis] * options.scale
    values = (pixels - np.array(options.mean)) / np.array(options.std)
    if values.min() < limits.min or values.max() > limits.max or (values % 1).any():
        raise AdoptError(
            f"{where}: expected whole numbers from {limits.min} to {limits.max}, as it takes "
            f"{name}, got {values.min():g} to {values.max():g} for pixels 0 to 255: "
            f"{'give --mean 128' if name == 'INT8' else 'give another --scale'}"
        )


def _guess_layout(sides: list[int | None], first: tuple[Layout, int] | None, where: str) -> Layout:
    is_nchw, is_nhwc = sides[1] in (1, 3), sides[3] in (1, 3)
    if is_nchw != is_nhwc:
        return "NCHW" if is_nchw else "NHWC"
    if first is not None and (sides[1] if first[0] == "NCHW" else sides[3]) in (None, first[1]):
        return first[0]
    raise AdoptError(
        f"{where}: expected --layout NCHW or NHWC, shape {sides} allows both or neither"
    )


def _first_kernel(model: onnx.ModelProto, name: str) -> tuple[Layout, int] | None:
    """Return the layout that reaches the first convolution, and its channels."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    reached: dict[str, Layout] = {name: "NCHW"}
    for node in model.graph.node:
        layout = next((reached[each] for each in node.input if each in reached), None)
        if layout is None:
            continue
        if node.op_type in ("Conv", "FusedConv", "QLinearConv") and node.input[0] in reached:
            kernel = node.input[3 if node.op_type == "QLinearConv" else 1]
            while kernel not in shapes and kernel in makers and makers[kernel].input:
                kernel = makers[kernel].input[0]
            group = next((each.i for each in node.attribute if each.name == "group"), 1)
            sides = shapes.get(kernel, [])
            return (layout, sides[1] * group) if len(sides) == 4 else None
        if node.op_type not in _BEFORE_LAYERS:
            return None
        if node.op_type == "Transpose":
            perm = next((list(each.ints) for each in node.attribute if each.name == "perm"), [])
            if perm != [0, 3, 1, 2] or layout == "NHWC":
                return None
            layout = "NHWC"
        reached |= dict.fromkeys(node.output, layout)
    return None
