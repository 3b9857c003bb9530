"""A user's project: networks of random weights, their own transforms, and what they answer.

    python project.py PHOTOGRAPHS NAME...

"trains" each pair of ``pairs.toml`` that is named and writes beside this file:

    NAME.npy     probabilities of the sorted photographs, as the user computes them
    NAME.json    what ``foveal adopt`` is given, and figures of the answers
    NAME.*       weights, and the file or folder that is adopted, if it is one

``project.py:NAME`` is a function that returns a pair's module, transform and labels.
"""

import contextlib
import functools
import json
import math
import sys
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

HERE = Path(__file__).resolve().parent
PAIRS = tomllib.loads((HERE / "pairs.toml").read_text())
LABELS = [f"bird {number:02}" for number in range(37)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}
LOADERS = {"convert": lambda file: Image.open(file).convert("RGB"), "open": Image.open}
ROWS = 10  # of a batch
SEEDS = 200  # projections to choose from
# The principal components that labels are made of: not the first, which are light and colour.
FIRST, PARTS = 4, 24


def torchvision_transform(given, is_crop_wrong):
    import torchvision
    from torchvision import transforms
    from torchvision.transforms import v2

    kind = transforms.InterpolationMode(given["filter"])
    resize, crop = given["resize"], given.get("crop")
    if is_crop_wrong and isinstance(resize, list):
        resize, crop = round(resize[0] / 0.875), resize
    elif is_crop_wrong:
        resize = crop if resize > crop else round(crop / 0.875)
    if "preset" in given:
        preset = getattr(torchvision.models, given["preset"]).DEFAULT.transforms
        return preset(resize_size=resize, interpolation=kind)
    if given.get("api") == "v2":
        steps = [v2.Resize(resize, kind), *([v2.CenterCrop(crop)] if crop else [])]
        steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
        return v2.Compose(steps)
    steps = [transforms.Resize(resize, kind), *([transforms.CenterCrop(crop)] if crop else [])]
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def timm_transform(given, is_crop_wrong):
    import timm.data

    share = given["crop_pct"]
    if is_crop_wrong:
        share = 1.0 if share <= 0.9 else 0.875
    return timm.data.create_transform(
        (3, *given["size"]),
        is_training=False,
        interpolation=given["filter"],
        crop_pct=share,
        crop_mode=given.get("crop_mode", "center"),
        mean=given.get("mean", MEAN),
        std=given.get("std", STD),
    )


def transformers_transform(given, is_crop_wrong):
    import transformers

    options = given.get("options", {}) | (given["wrong_crop"] if is_crop_wrong else {})
    make = getattr(transformers, given["processor"] + "ImageProcessorPil")
    return make(**options, resample=FILTERS[given["filter"]])


TRANSFORMS = {
    "torchvision": torchvision_transform,
    "timm": timm_transform,
    "transformers": transformers_transform,
}


def make_transform(pair, wrong=None):
    """Return a pair's transform, or the one with another filter or another crop."""
    given = dict(pair["transform"])
    if wrong == "filter":
        given["filter"] = "bicubic" if given["filter"] == "bilinear" else "bilinear"
    return TRANSFORMS[pair["library"]](given, wrong == "crop")


def build(pair):
    """Return a network with random weights that tells small things apart."""
    torch.manual_seed(0)
    kind, options = pair["network"], pair.get("options", {})
    if pair["library"] == "torchvision":
        import torchvision

        network = getattr(torchvision.models, kind)(num_classes=len(LABELS), **options)
    elif pair["library"] == "timm":
        import timm

        network = timm.create_model(kind, num_classes=len(LABELS), **options)
    else:
        import transformers

        config = getattr(transformers, kind + "Config")(**options, num_labels=len(LABELS))
        config.id2label = dict(enumerate(LABELS))
        network = getattr(transformers, kind + "ForImageClassification")(config)
    randomise(network)
    return network.eval()


def randomise(network):
    """Draw weights that let small things count, and let no part begin at nothing."""
    norms = [m for m in network.modules() if "Norm" in type(m).__name__]
    gains = {id(norm.weight) for norm in norms if getattr(norm, "weight", None) is not None}
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                fan_in = math.prod(module.weight.shape[1:])
                module.weight.normal_(0, 1.5 / math.sqrt(fan_in))
        for parameter in network.parameters():
            low, high = parameter.min(), parameter.max()
            is_nothing = high == 0 and id(parameter) in gains
            if low == high and (0 < high < 0.01 or is_nothing):  # a norm, the scale of a layer
                parameter.fill_(0.5)


def scores(network, rows):
    with torch.no_grad():
        output = network(rows)
    return getattr(output, "logits", output)


def last_layer(network):
    """Return the layer whose outputs are the labels."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    layers = [m for m in network.modules() if isinstance(m, kinds)]
    return [m for m in layers if m.weight.shape[0] == len(LABELS)][-1]


def prepare(transform, image):
    if hasattr(transform, "preprocess"):
        return transform(images=image, return_tensors="pt")["pixel_values"][0]
    return transform(image)


def calibrate(network, rows):
    """Give batch norms the statistics of some photographs."""
    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    scores(network, rows)
    network.eval()


def features_of(network, rows):
    """Return what the last layer is given, [N, D, places]."""
    kept = []
    hook = last_layer(network).register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    for start in range(0, len(rows), ROWS):
        scores(network, rows[start : start + ROWS])
    hook.remove()
    return torch.cat(kept).flatten(2) if kept[0].ndim > 2 else torch.cat(kept)[..., None]


def softmax(values):
    powers = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def fit(features_ND):
    """Choose a last layer by which the photographs have many labels, and clearly.

    Random directions in the features' principal components, each scaled to variance 1. Of some
    draws the one is kept whose least difference between a photograph's first and second label is
    largest, among those with most labels.

    Returns:
        Weight [D, K] and bias [K].
    """
    mean_D = features_ND.mean(axis=0)
    centred_ND = features_ND - mean_D
    _, spread, parts = np.linalg.svd(centred_ND, full_matrices=False)
    # Beneath this share a component is what float32 rounds.
    noise = 3e-3 * np.sqrt((features_ND**2).sum())
    last = max(FIRST + 4, min(FIRST + PARTS, int((spread > noise).sum())))
    chosen = slice(FIRST, last)
    basis_DP = parts[chosen].T / (spread[chosen] / math.sqrt(len(features_ND)))
    white_NP = centred_ND @ basis_DP
    best = None
    for seed in range(SEEDS):
        directions = np.random.default_rng(seed).normal(size=(last - FIRST, len(LABELS)))
        directions *= 1.5 / np.linalg.norm(directions, axis=0)
        answers = softmax(white_NP @ directions)
        two = np.sort(answers, axis=1)[:, -2:]
        rank = (min(25, len(set(answers.argmax(axis=1)))), (two[:, 1] - two[:, 0]).min())
        if best is None or rank > best[0]:
            best = rank, directions
    weight_DK = basis_DP @ best[1]
    return weight_DK, -mean_D @ weight_DK


def train(name, files):
    """Fit the last layer of a pair, record its answers, and what wrong transforms would change."""
    pair = PAIRS[name]
    network, load = build(pair), LOADERS[pair.get("loader", "convert")]
    own, *wrong = [make_transform(pair, kind) for kind in (None, "filter", "crop")]
    rows = torch.stack([prepare(own, load(file)) for file in files])
    calibrate(network, rows[:: max(1, len(rows) // 32)])
    features_NDP = features_of(network, rows).double().numpy()
    weight_DK, bias_K = fit(features_NDP.mean(axis=2))
    if features_NDP.shape[2] > 1:  # a ReLU follows, as in SqueezeNet: it shall cut nothing
        lowest = (np.einsum("ndp,dk->nkp", features_NDP, weight_DK) + bias_K[:, None]).min()
        bias_K = bias_K - 1.2 * lowest
    layer = last_layer(network)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight_DK.T.reshape(layer.weight.shape)))
        layer.bias.copy_(torch.from_numpy(bias_K))
    parts = [scores(network, rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
    answers = softmax(torch.cat(parts).double().numpy())
    np.save(HERE / f"{name}.npy", answers.astype(np.float32))
    changed = [0, 0]
    for start in range(0, len(files), ROWS):
        images = [load(file) for file in files[start : start + ROWS]]
        for number, transform in enumerate(wrong):
            other = scores(network, torch.stack([prepare(transform, image) for image in images]))
            told = answers[start : start + ROWS].argmax(axis=1)
            changed[number] += int((other.numpy().argmax(axis=1) != told).sum())
    two = np.sort(answers, axis=1)[:, -2:]
    figures = {
        "labels": len(set(answers.argmax(axis=1))),
        "margin": float((two[:, 1] - two[:, 0]).min()),
        "wrong_filter": changed[0],
        "wrong_crop": changed[1],
    }
    given = WAYS[pair["way"].split()[0]](name, pair, network, own, rows)
    (HERE / f"{name}.json").write_text(json.dumps({"adopt": [str(a) for a in given], **figures}))


class Logits(torch.nn.Module):
    """What people export of transformers' networks."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        output = self.network(images)
        return getattr(output, "logits", output)


def options_of(pair, transform):
    """Return the options that say the transform, as the documentation has them."""
    mean = getattr(transform, "image_mean", pair["transform"].get("mean", MEAN))
    std = getattr(transform, "image_std", pair["transform"].get("std", STD))
    (HERE / "labels.txt").write_text("\n".join(LABELS))
    said = ["--labels", HERE / "labels.txt", "--loader", "pillow", "--scale", "1/255"]
    if getattr(transform, "do_normalize", True) is not None:
        said += ["--mean", ",".join(map(str, mean)), "--std", ",".join(map(str, std))]
    return [*said, *pair.get("flags", "").split()]


def as_onnx(name, pair, network, transform, rows):
    """Export by one of torch's exporters, with a fixed batch or a free one."""
    way, file = pair["way"].split(), HERE / f"{name}.onnx"
    network, batch = Logits(network).eval(), int(way[2]) if "static" in way else 2
    axis, free = {}, "static" not in way
    if way[0] == "dynamo" and free:
        axis = {"dynamic_shapes": ({0: torch.export.Dim("batch")},)}
    elif free:
        axis = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": [0], "y": [0]}}
    torch.onnx.export(network, (rows[:batch],), file, dynamo=way[0] == "dynamo", **axis)
    return [file, *options_of(pair, transform), "--expected", HERE / f"{name}.npy"]


def as_torchscript(name, pair, network, transform, rows):
    file = HERE / f"{name}.pt"
    torch.jit.trace(Logits(network).eval(), rows[:2]).save(file)
    size = ["--size", "x".join(map(str, rows.shape[2:]))]
    return [file, *options_of(pair, transform), *size, "--expected", HERE / f"{name}.npy"]


def as_program(name, pair, network, transform, rows):
    file, axes = HERE / f"{name}.pt2", ({0: torch.export.Dim("batch")},)
    made = torch.export.export(Logits(network).eval(), (rows[:2],), dynamic_shapes=axes)
    torch.export.save(made, file)
    return [file, *options_of(pair, transform), "--expected", HERE / f"{name}.npy"]


def as_function(name, _pair, network, _transform, _rows):
    torch.save(network.state_dict(), HERE / f"{name}.pth")
    return [f"{HERE / 'project.py'}:{name}"]


def as_folder(name, _pair, network, transform, _rows):
    network.save_pretrained(HERE / name)
    transform.save_pretrained(HERE / name)
    return [HERE / name]


def as_timm(name, pair, network, transform, _rows):
    torch.save(network.state_dict(), HERE / f"{name}.pth")
    labels = options_of(pair, transform)[:2]
    return [f"timm:{pair['network']}", "--weights", HERE / f"{name}.pth", *labels]


WAYS = {
    "make": as_function,
    "dynamo": as_onnx,
    "torchscript": as_onnx,
    ".pt": as_torchscript,
    ".pt2": as_program,
    "folder": as_folder,
    "timm:NAME": as_timm,
}


def load_pair(name):
    """Return what ``make()`` does: a trained network, its transform, the labels, a loader."""
    pair = PAIRS[name]
    network = build(pair)
    network.load_state_dict(torch.load(HERE / f"{name}.pth"))
    return network, make_transform(pair), LABELS, LOADERS[pair.get("loader", "convert")]


for each in PAIRS:
    globals()[each] = functools.partial(load_pair, each)


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    photographs = sorted(Path(folder).iterdir())
    with contextlib.redirect_stdout(sys.stderr):
        for each in names:
            train(each, photographs)
