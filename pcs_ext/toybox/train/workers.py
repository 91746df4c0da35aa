"""Shards are rendered beside each other where a machine has cores for it."""

import concurrent.futures
import multiprocessing
from collections.abc import Callable, Sequence
from typing import Any

import torch


def in_processes(
    work: Callable[..., object], calls: Sequence[tuple[Any, ...]], processes: int, done: Callable[[int], None]
) -> None:
    """Call `work` with every tuple of arguments.

    Args:
        work: a function of a module, which processes of their own can import.
        calls: its arguments, to be pickled between processes of this program alone.
        processes: 1 works in this one.
        done: hears how many calls are over, after each.
    """
    if processes == 1 or len(calls) < 2:
        for index, call in enumerate(calls):
            work(*call)
            done(index + 1)
        return
    # Forked processes could not use CUDA.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        min(processes, len(calls)), mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures = [pool.submit(work, *call) for call in calls]
        try:
            for index, future in enumerate(concurrent.futures.as_completed(futures)):
                future.result()
                done(index + 1)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
