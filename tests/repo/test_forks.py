"""Processes that tests fork can use torch in several threads."""

from __future__ import annotations

import multiprocessing
import sys
import threading

import torch

TENSOR = torch.zeros(1 << 17)


def use_torch_in_threads() -> None:
    errors, begun = [], threading.Event()

    def convert() -> None:
        while not begun.is_set():
            pass
        try:
            TENSOR.to(torch.bfloat16)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=convert) for _ in range(3)]
    for thread in threads:
        thread.start()
    begun.set()
    for thread in threads:
        thread.join()
    sys.exit(bool(errors))


def test_torch_runs_in_several_threads_of_a_forked_process() -> None:
    torch.set_num_threads(1)  # from now on torch has threads to renew
    patience = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(12):  # without the renewal, half of them fail
            process = multiprocessing.get_context("fork").Process(target=use_torch_in_threads)
            process.start()
            process.join(60)
            assert process.exitcode == 0
    finally:
        sys.setswitchinterval(patience)
