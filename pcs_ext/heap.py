"""The heap of the C library, which on Linux gives freed blocks back to the kernel, to be zeroed for the next tensor."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let the process keep up to 2 GiB of freed memory for what it allocates next; its peak stays what it is.

    A training step on a CPU takes a tenth less time (benchmarks/dreambooth_lora_step.py, `ours`). It is for the whole
    process, so a program's to call and not a library's: `pcs-ext` does, a Python program may.

    Returns:
        Whether it was done; only glibc can.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all(mallopt(option, _LARGEST) == 1 for option in (_TRIM_THRESHOLD, _MMAP_THRESHOLD))
