"""The program that runs a user's PyTorch code in the user's environment: loads, records, exports.

    python torch_child.py FOLDER

Reads ``job.json`` of the folder. Writes there:

    result.json             labels, description of the transform, exporter, what was noticed
    outputs.npy             the network's output for each image file, [N, K]
    pixels/<i>.npy          the transform's tensor of file i
    check-input.npy, check-output.npy    at most 7 rows, and the network's output for them
    model.onnx              the exported graph, with a free batch size
    progress.txt            how far it is: what is done, of how much (0: unknown), the step
    error.json              instead of these: what failed, and where

It is started by its path, and loads ``torch_describe`` by its path; it imports nothing else of this
project. Needs torch, onnx, NumPy and Pillow, and onnxscript for torch's newer exporter. Runs on
Python 3.9, which users may still have. Legend: N rows, K classes.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any, Callable  # noqa: UP035 - this program runs on older Pythons, too

# Neither this file's folder nor the working folder may hide a package of the user's.
_HERE = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - as sys.path writes it
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _HERE]  # noqa: PTH100
os.environ.pop("PYTHONSAFEPATH", None)

try:
    import resource

    import numpy as np
    import torch
    from PIL import Image
except ModuleNotFoundError as missing:
    Path(sys.argv[1], "error.json").write_text(json.dumps({"missing": missing.name}))
    sys.exit(1)

CHECK_ROWS = 7
_PR_SET_PDEATHSIG = 1


def _sibling(name: str) -> Any:
    """Load another file of this folder, by its path."""
    spec = importlib.util.spec_from_file_location(name, Path(_HERE, name + ".py"))
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_read = _sibling("torch_describe")


class JobError(Exception):
    """What was given cannot be used; the message is for the user."""


class OneOutput(torch.nn.Module):
    """A network that returns one tensor, whatever the user's returns."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores: a field ``logits``, or the first tensor."""
        return _scores(self.network(images))


def main(folder: Path) -> None:
    """Do the job of the folder.

    Args:
        folder: Holds ``job.json``; the results go there, too.
    """
    job = json.loads((folder / "job.json").read_text())
    memory = job["memory_bytes"]
    # Not the address space, of which torch reserves many times what it uses.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # killed with the command that started it: linux/prctl.h
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    torch.manual_seed(0)
    _tell(folder, "loads the network")
    parts = _load(job)
    network = parts["network"]
    was_training = any(module.training for module in network.modules())
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    # A script is exported as it is: the exporter cannot trace through it.
    network = network.to("cpu")
    one = network if isinstance(network, torch.jit.ScriptModule) else OneOutput(network)
    if job["kind"] != "program":  # an exported program has one mode only
        one.eval()
    transform = parts.get("transform")
    rows = []
    if transform is not None:
        rows = _record(one, transform, parts.get("loader"), job, folder)
    check = _check_input(rows, network, job)
    with torch.no_grad():
        np.save(folder / "check-input.npy", check.numpy())
        np.save(folder / "check-output.npy", _array(_scores(one(check))))
    exporter, failures = _export(one, check, job["exporters"], folder)
    result = {
        "labels": _read.read_labels(parts.get("labels")),
        "transform": None if transform is None else _read.describe(transform),
        "loader": parts.get("loader") is not None,
        "was_training": was_training and job["kind"] == "make",
        "exporter": exporter,
        "failures": failures,
        "versions": {
            "python": sys.version.split()[0],
            **{n: _version(n) for n in ("torch", "torchvision", "timm", "transformers", "PIL")},
        },
    }
    (folder / "result.json").write_text(json.dumps(result))


def _load(job: dict[str, Any]) -> dict[str, Any]:
    """Return ``network`` and, where known, ``transform``, ``labels`` and ``loader``."""
    path, kind = job["path"], job["kind"]
    if kind == "make":
        return _make(Path(path), job["function"])
    if kind == "folder":
        return _load_folder(path)
    if kind == "timm":
        return _load_timm(job)
    if kind == "program":
        return {"network": torch.export.load(path).module()}
    if kind == "torchscript":
        return {"network": torch.jit.load(path, map_location="cpu")}
    loaded = torch.load(path, map_location="cpu", weights_only=False)
    if not isinstance(loaded, torch.nn.Module):
        raise JobError(f"expected a module, got {type(loaded).__name__}; {job['paste']}")
    return {"network": loaded}


def _make(path: Path, function: str) -> dict[str, Any]:
    """Call the user's function in the user's file, whose folder is on the path as if it ran."""
    sys.path.insert(0, str(path.resolve().parent))
    sys.argv[:] = [str(path)]
    spec = importlib.util.spec_from_file_location("adopted_" + path.stem, path)
    assert spec is not None and spec.loader is not None, "a .py file has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    make = getattr(module, function, None)
    if not callable(make):
        raise JobError(f"expected a function {function}, got none: define it, or name another")
    made = make()
    parts = _sort(made if isinstance(made, (tuple, dict)) else (made,))
    if not isinstance(parts.get("network"), torch.nn.Module):
        raise JobError(f"{function}(): expected (module, transform), got no torch.nn.Module")
    if parts.get("transform") is None:
        raise JobError(
            f"{function}(): expected (module, transform), got no transform: return the one that "
            "your evaluation uses"
        )
    return parts


def _sort(made: Any) -> dict[str, Any]:
    """Name what ``make()`` returned: by the key of a dict, else by its kind and order."""
    if isinstance(made, dict):
        names = {"module": "network", "model": "network", "classes": "labels"}
        return {names.get(str(key), str(key)): value for key, value in made.items()}
    parts: dict[str, Any] = {}
    for value in made:
        if isinstance(value, torch.nn.Module) and "network" not in parts:
            parts["network"] = value
        elif isinstance(value, (list, dict)) or (
            isinstance(value, tuple) and all(isinstance(item, str) for item in value)
        ):
            parts["labels"] = value
        elif callable(value):
            parts["transform" if "transform" not in parts else "loader"] = value
        elif value is not None:
            raise JobError(
                f"make(): expected a module, a transform, labels and a loader, got {type(value)}"
            )
    return parts


def _load_folder(path: str) -> dict[str, Any]:
    """Load a folder as transformers writes it; weights only as safetensors, no code from it."""
    transformers = importlib.import_module("transformers")
    given = {"local_files_only": True, "trust_remote_code": False}
    # The processors that resize with Pillow, as pictures are resized here.
    is_new = int(transformers.__version__.split(".")[0]) >= 5
    by_pillow = {"backend": "pil"} if is_new else {"use_fast": False}
    processor = transformers.AutoImageProcessor.from_pretrained(path, **by_pillow, **given)
    network = transformers.AutoModelForImageClassification.from_pretrained(
        path, use_safetensors=True, **given
    )
    return {"network": network, "transform": processor, "labels": network.config.id2label}


def _load_timm(job: dict[str, Any]) -> dict[str, Any]:
    timm = importlib.import_module("timm")
    data = importlib.import_module("timm.data")
    weights = Path(job["weights"])
    if weights.suffix == ".safetensors":
        state = importlib.import_module("safetensors.torch").load_file(str(weights))
    else:  # torch's reader of plain tensors runs no code; the other one only where it is trusted
        state = torch.load(weights, map_location="cpu", weights_only=not job["trust_pickle"])
    for key in ("state_dict_ema", "state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
            break
    state = {name[7:] if name.startswith("module.") else name: state[name] for name in state}
    empty = timm.create_model(job["path"], pretrained=False)
    head = empty.pretrained_cfg.get("classifier")
    head = head[0] if isinstance(head, (list, tuple)) else head
    bias = state.get(f"{head}.bias", state.get(f"{head}.weight"))
    network = timm.create_model(
        job["path"], pretrained=False, **({} if bias is None else {"num_classes": bias.shape[0]})
    )
    network.load_state_dict(state)
    config = data.resolve_model_data_config(network)
    return {"network": network, "transform": data.create_transform(**config, is_training=False)}


def _record(
    one: torch.nn.Module, transform: Any, loader: Any, job: dict[str, Any], folder: Path
) -> list[torch.Tensor]:
    """Answer every file by the user's own pipeline, and keep the tensors of some.

    Returns:
        The tensors of the first files, at most ``CHECK_ROWS``.
    """
    (folder / "pixels").mkdir()
    kept, outputs = set(job["kept"]), []
    rows: list[torch.Tensor] = []
    for number, file in enumerate([*job["files"], *job["probes"]]):
        is_probe = number >= len(job["files"])
        _tell(folder, "answers " + Path(file).name, number, len(job["files"]) + len(job["probes"]))
        try:
            row = _prepare(transform, loader(file) if loader else _open(file))
        except Exception as error:
            if is_probe:  # a made file, by which the loader is read: it may fail
                continue
            error.args = (f"{file}: {error}",)
            raise
        if is_probe and rows and row.shape != rows[0].shape:
            continue
        if number in kept or is_probe:
            np.save(folder / "pixels" / f"{number}.npy", row.numpy())
        if is_probe:
            continue
        if len(rows) < CHECK_ROWS:
            rows.append(row)
        with torch.no_grad():
            outputs.append(_array(one(row[None])))
    if outputs:
        np.save(folder / "outputs.npy", np.concatenate(outputs))
    return rows


def _open(file: str) -> Image.Image:
    with Image.open(file) as image:
        return image.convert("RGB")


def _prepare(transform: Callable[..., Any], image: Any) -> torch.Tensor:
    """Return the tensor [C, H, W] that the transform makes of an image."""
    if hasattr(transform, "preprocess") and hasattr(transform, "to_dict"):
        made = transform(images=image, return_tensors="pt")
    else:
        made = transform(image)
    if hasattr(made, "keys"):
        made = made["pixel_values"]
    if isinstance(made, (list, tuple)) and len(made) == 1:
        made = made[0]
    row = torch.as_tensor(made).as_subclass(torch.Tensor).detach().cpu()
    if row.ndim == 4 and row.shape[0] == 1:
        row = row[0]
    if row.ndim != 3:
        raise JobError(f"transform: expected a tensor [C, H, W], got shape {tuple(row.shape)}")
    return row.contiguous()


def _check_input(rows: list[torch.Tensor], network: Any, job: dict[str, Any]) -> torch.Tensor:
    """Return 7 rows to compare the exported graph with the network on: real ones if there are."""
    if rows:
        if len({row.shape for row in rows}) > 1:
            shapes = " and ".join(sorted({str(tuple(row.shape)) for row in rows})[:2])
            raise JobError(
                f"transform: expected one size for all images, got {shapes}: end it in a crop to "
                "one size"
            )
        return torch.stack([rows[i % len(rows)] for i in range(CHECK_ROWS)])
    shape = job["shape"]
    if job["kind"] == "program":
        given = [node for node in network.graph.nodes if node.op == "placeholder"]
        rows, *sides = given[0].meta["val"].shape
        if isinstance(rows, int):
            raise JobError(
                f"expected a free batch size, got {rows}: write it with torch.export.export("
                "network, (images,), dynamic_shapes=({0: torch.export.Dim('rows')},)), of 2 or "
                "more images"
            )
        shape = [int(side) for side in sides]
    if shape is None:
        raise JobError("expected --size, as the file names no size of its input")
    return torch.rand(CHECK_ROWS, *shape)


def _export(
    one: torch.nn.Module, check: torch.Tensor, exporters: list[str], folder: Path
) -> tuple[str, dict[str, str]]:
    """Export by the first exporter that succeeds.

    Returns:
        Its name, and the failure of each one before it.
    """
    failures: dict[str, str] = {}
    for exporter in exporters:
        _tell(folder, "exports by " + exporter)
        try:
            _export_by(exporter, one, check, folder / "model.onnx")
        except Exception as error:
            traceback.print_exc()
            lines = [line for line in str(error).splitlines() if line.strip()] or [repr(error)]
            failures[exporter] = f"{type(error).__name__}: {lines[0][:200]}"
        else:
            return exporter, failures
    both = "; ".join(f"{name}: {text}" for name, text in failures.items())
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    advice = f"; pip install {' '.join(missing)}" if missing else ""
    raise JobError(f"expected torch.onnx.export to succeed, got {both}{advice}")


def _export_by(exporter: str, one: torch.nn.Module, check: torch.Tensor, path: Path) -> None:
    names: dict[str, Any] = {"input_names": ["images"], "output_names": ["scores"]}
    weights = sum(value.numel() * value.element_size() for value in one.state_dict().values())
    if exporter == "dynamo":
        torch.onnx.export(
            one,
            (check[:2],),
            path,
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("rows")},),
            external_data=weights > 1 << 30,
            **names,
        )
        return
    # The name `dynamo` came with torch 2.5; before it this exporter was the only one.
    if "dynamo" in torch.onnx.export.__code__.co_varnames:
        names["dynamo"] = False
    axes = {"images": [0], "scores": [0]}
    torch.onnx.export(one, (check[:2],), path, dynamic_axes=axes, **names)


def _scores(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    logits = getattr(output, "logits", None)
    if logits is None and hasattr(output, "keys"):
        logits = output["logits"] if "logits" in output else next(iter(output.values()))
    if logits is None and isinstance(output, (list, tuple)):
        logits = output[0]
    if not isinstance(logits, torch.Tensor):
        raise JobError(f"network: expected a tensor of scores, got {type(output).__name__}")
    return logits


def _array(output: torch.Tensor) -> Any:
    return output.detach().float().reshape(output.shape[0], -1).numpy()


def _tell(folder: Path, step: str, done: int = 0, total: int = 0) -> None:
    (folder / "progress.txt").write_text(f"{done} {total} {step}", errors="replace")


def _version(name: str) -> str:
    return str(getattr(sys.modules.get(name), "__version__", ""))


def _place(error: BaseException) -> str:
    """Return ``file:line`` of the user's code that failed; the last frame if none is theirs."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    library = (f"{os.sep}site-packages{os.sep}", f"{os.sep}lib{os.sep}python", "<frozen")
    own = [frame for frame in frames if not any(part in frame.filename for part in library)]
    chosen = (own or frames)[-1:]
    return f"{chosen[0].filename}:{chosen[0].lineno}" if chosen else ""


if __name__ == "__main__":
    OUT = Path(sys.argv[1])
    try:
        main(OUT)
    except JobError as problem:
        (OUT / "error.json").write_text(json.dumps({"message": str(problem)}))
        sys.exit(1)
    except BaseException as problem:
        traceback.print_exc()
        text = (str(problem).splitlines() or [""])[0][:300]
        failure = {
            "message": f"{type(problem).__name__}: {text}",
            "where": _place(problem),
            "missing": problem.name if isinstance(problem, ModuleNotFoundError) else None,
        }
        (OUT / "error.json").write_text(json.dumps(failure))
        sys.exit(1)
