"""Whether a CPU computes in bf16: without instructions for it, bf16 is emulated and much slower than fp32."""

import sys
from pathlib import Path

import torch

CPU_INFO = Path("/proc/cpuinfo")
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How Linux names the instructions: on x86 the first two, on ARM the last."""


def lacks_bf16(cpu_info: Path = CPU_INFO) -> bool:
    """Whether this machine is known to have no bf16 instructions; False where the system does not say."""
    if not cpu_info.exists():
        return False
    return not BF16_FLAGS & set(cpu_info.read_text().split())


def warn_of_slow_bf16(setting: str) -> None:
    """Say in one line that bf16 will be slow here; a GPU computes in it.

    Args:
        setting: the job and its flag, such as "train: --precision bf16".
    """
    if not torch.cuda.is_available() and lacks_bf16():
        print(f"{setting}: this CPU has no bf16 instructions; it will be slower than fp32", file=sys.stderr)
