"""The networks of the photograph cases, for ``foveal adopt``: timm's, with random weights.

Weights do not change what a run costs, and random ones need no download. Runs in an environment
with timm, torchvision and torch.
"""

import timm
import torch
from torchvision import transforms

CLASSES = 1000


def resnet50():
    """25.6 million weights, 4.1 billion multiplications."""
    return _make("resnet50")


def mobilenetv3():
    """5.5 million weights, 0.22 billion multiplications."""
    return _make("mobilenetv3_large_100")


def vit_tiny():
    """5.7 million weights, 1.3 billion multiplications."""
    return _make("vit_tiny_patch16_224")


def _make(name):
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, num_classes=CLASSES).eval()
    # What tutorials do: the shorter side to 256, the centre of 224, ImageNet's mean and deviation.
    transform = transforms.Compose(
        [
            transforms.Resize(256),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return network, transform, [f"class {i}" for i in range(CLASSES)]
