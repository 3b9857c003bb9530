"""A user's evaluation: networks of random weights with their transforms, and what they answer.

    python eval.py IMAGES OUT

writes the probabilities of every pair to OUT.npz, as the user computes them.
"""

import sys
from pathlib import Path

import numpy as np
import torch
import transformers
from PIL import Image, ImageOps
from torchvision import transforms
from torchvision.transforms import v2

LABELS = ["bunting", "crane", "dipper", "egret", "finch"]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


class Small(torch.nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        torch.manual_seed(1)
        self.first = torch.nn.Conv2d(channels, 8, 5, 3)
        self.norm = torch.nn.BatchNorm2d(8)
        self.last = torch.nn.Linear(8, 5)

    def forward(self, images):
        rows = self.norm(self.first(images)).relu().mean((2, 3))
        return self.last(rows) * 30


class Bytes(torch.nn.Module):
    """Takes uint8, answers as transformers do."""

    def __init__(self):
        super().__init__()
        self.inner = Small()

    def forward(self, images):
        return {"logits": self.inner(images.float() / 255)}


def torchvision_v1():
    steps = [transforms.Resize(72), transforms.CenterCrop(64), transforms.ToTensor()]
    return Small(), transforms.Compose([*steps, transforms.Normalize(MEAN, STD)]), LABELS


def torchvision_v2():
    steps = [
        v2.Resize((64, 48), interpolation=v2.InterpolationMode.BICUBIC),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(MEAN, STD),
    ]
    return Small(), v2.Compose(steps), LABELS


def processor_in_a_function():
    reader = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": 70}, crop_size={"height": 63, "width": 64}
    )

    def prepare(image):
        return reader(image, return_tensors="pt")["pixel_values"][0]

    return {"model": Small(), "transform": prepare, "labels": dict(enumerate(LABELS))}


def bytes_of_grey_pictures():
    return Bytes(), transforms.Compose([transforms.Resize(70), v2.CenterCrop(64), v2.PILToTensor()])


def own_loader():
    steps = [transforms.Grayscale(), transforms.Resize(64), transforms.CenterCrop(64)]
    numbers = [transforms.ToTensor(), transforms.Normalize((0.45,), (0.05,))]
    transform = transforms.Compose([*steps, *numbers])
    network = torch.nn.Sequential(Small(1), torch.nn.Softmax(1)).eval()
    return network, transform, LABELS, open_upright


def open_upright(file):
    """Open a file as people see it; of 16 bits the high ones."""
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode == "I;16":
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image


def open_as_viewers(file):
    image = ImageOps.exif_transpose(Image.open(file))
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def opened_as_viewers_do():
    return *torchvision_v1(), open_as_viewers


def inverted_cmyk():
    def load(file):
        image = Image.open(file)
        rgb = image.convert("RGB")
        return ImageOps.invert(rgb) if image.mode == "CMYK" else rgb

    return *torchvision_v1(), load


PAIRS = (
    torchvision_v1,
    torchvision_v2,
    processor_in_a_function,
    bytes_of_grey_pictures,
    own_loader,
)


def resized_as_a_tensor():
    steps = [v2.ToImage(), v2.Resize(72), v2.CenterCrop(64), v2.ToDtype(torch.float32, scale=True)]
    return Small(), v2.Compose(steps), LABELS


def with_a_lambda():
    steps = [transforms.Resize(64), transforms.CenterCrop(64), transforms.ToTensor()]
    return Small(), transforms.Compose([*steps, transforms.Lambda(lambda x: x.flip(0))]), LABELS


def for_training():
    return Small(), transforms.Compose([transforms.RandomResizedCrop(64), transforms.ToTensor()])


def of_many_sizes():
    return Small(), transforms.Compose([transforms.Resize(64), transforms.ToTensor()]), LABELS


def fails():
    raise ValueError("no weights here")


def no_transform():
    return Small()


def answer(pair, files):
    made = pair()
    if isinstance(made, dict):
        made = (made["model"], made["transform"])
    network, transform, *others = made
    loader = others[-1] if len(others) == 2 else lambda file: Image.open(file).convert("RGB")
    rows = []
    for file in files:
        image = loader(file)
        if hasattr(transform, "preprocess"):
            row = transform(image, return_tensors="pt")["pixel_values"]
        else:
            row = transform(image)[None]
        with torch.no_grad():
            scores = network.eval()(row)
        scores = getattr(scores, "logits", scores)
        scores = scores["logits"] if isinstance(scores, dict) else scores
        rows.append(scores if pair is own_loader else scores.softmax(1))
    return torch.cat(rows).numpy()


def write_files(folder):
    """Write networks in every form of a file or a folder."""
    network, images = Small().eval(), torch.rand(2, 3, 32, 32)
    torch.jit.trace(network, images).save(folder / "script.pt")
    free = torch.export.export(network, (images,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.export.save(free, folder / "free.pt2")
    torch.export.save(torch.export.export(network, (images[:1],)), folder / "fixed.pt2")
    torch.save(network.state_dict(), folder / "state.pth")


if __name__ == "__main__":
    images, out = map(Path, sys.argv[1:])
    given = sorted(images.iterdir())
    np.savez(out / "answers.npz", **{pair.__name__: answer(pair, given) for pair in PAIRS})
    write_files(out)
