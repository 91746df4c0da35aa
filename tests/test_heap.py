"""Freed memory is kept."""

import subprocess
import sys

import pytest

from pcs_ext.heap import keep_freed_memory

# Takes, fills and frees 40 MB twenty times; prints how many pages the kernel had to give.
_PROGRAM = """
import ctypes, resource, sys
if sys.argv[1] == "kept":
    from pcs_ext.heap import keep_freed_memory
    keep_freed_memory()
libc, size = ctypes.CDLL(None), 40_000_000
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_kernel_gives_a_block_once() -> None:
    assert keep_freed_memory()
    pages = 40_000_000 / 4096
    assert _faults("returned") > 15 * pages
    assert _faults("kept") < 2 * pages


def _faults(what: str) -> int:
    done = subprocess.run([sys.executable, "-c", _PROGRAM, what], capture_output=True, text=True, check=True)
    return int(done.stdout)
