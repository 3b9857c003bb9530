"""The processes, devices and number formats of a run.

With several devices Lightning starts this command again for each of them, unless torchrun or Slurm
has done so. Every process fits; only the first one writes and measures.
"""

import os

import torch

# Lightning, torchrun and Slurm number processes in different variables.
_RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")

PRECISIONS = {"none": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def is_first_process() -> bool:
    """Return whether this process is the one that writes and measures."""
    return all(os.environ.get(name, "0") == "0" for name in _RANKS)


def fits(size_bytes: int, device: torch.device) -> bool:
    """Return whether data fits into half of a device's free memory; the rest is for the run."""
    if device.type != "cuda":
        return device.type == "cpu"
    return size_bytes <= torch.cuda.mem_get_info(device)[0] // 2


def best_autocast() -> str:
    """Choose the type of the matrix products that this machine computes fastest.

    bfloat16 where the hardware has it (it needs no scaling of the loss), float16 on other GPUs,
    and ``none`` on a CPU that only emulates it.
    """
    if torch.cuda.is_available():
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    able = torch.cpu.get_capabilities()
    return "bfloat16" if able.get("avx512_bf16") or able.get("amx_bf16") else "none"
