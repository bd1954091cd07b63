"""Whole printed models on a GPU: the part `models` of `bench/gpu.py`.

Packages are checked by several processes at once, since most of the time goes into compiling kernels: each takes one
package after another, so that a fault of the device costs no more than one. `python bench/models.py build/gpu/models`
runs them by itself; `--device cpu` tries the script without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

# Those that inductor compiles, too, with lengths that vary or not; what belongs to the gallery is at least traced.
COMPILED = ("mixtral_8x7b", "deepseek_v3", "jetmoe_8b", "soft_causal")
DYNAMIC = ("qwen3_30b_a3b", "switch_base")
SECONDS = 240  # for one package


class Failed(Exception):
    """A package with checks that failed; the text names them."""


def jobs(folder: Path, device: str) -> list[tuple[str, str]]:
    """(package, checks): what takes longest first; a CPU compiles too slowly for some of that."""
    names = sorted(path.parent.name for path in folder.glob("*/call.json"))
    if device == "cpu":
        return [(name, "all") for name in names]
    wholes = [(name, "inductor") for name in COMPILED if name in names]
    wholes += [(name, "inductor_dynamic") for name in DYNAMIC if name in names]
    compiled = {name for name, _ in wholes}
    wholes += [(n, "traced") for n in names if n not in compiled and not n.startswith("drawn_")]
    return wholes + [(name, "all") for name in names]


def cases(folder: Path, device: str) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Work on all packages begins at once; cases come as they are done."""
    for name, why in json.loads((folder / "unknown.json").read_text()).items():
        yield name, lambda why=why: unknown(why)
    pool = Pool(folder, device, jobs(folder, device))
    for _ in pool.found:
        name, checks = job = pool.finished.get()
        case = name if checks == "all" else f"{name} {checks}"
        yield case, lambda job=job: pool.result(job)


def unknown(why: str) -> dict:
    raise Failed(why)


class Pool:
    """Processes that check packages, and what they found."""

    def __init__(self, folder: Path, device: str, todo: list[tuple[str, str]]) -> None:
        self.folder, self.device = folder, device
        self.found: dict[tuple[str, str], dict] = {job: {} for job in todo}
        self.queue: queue.SimpleQueue = queue.SimpleQueue()
        self.finished: queue.SimpleQueue = queue.SimpleQueue()
        for job in todo:
            self.queue.put(job)
        for _ in range(max((os.cpu_count() or 2) - 1, 1)):
            threading.Thread(target=self.serve, daemon=True).start()

    def result(self, job: tuple[str, str]) -> dict:
        found = self.found[job]
        wrong = {check: one["error"] for check, one in found.items() if "error" in one}
        if wrong:
            raise Failed(json.dumps(wrong))
        return {check: one["found"] for check, one in found.items()}

    def serve(self) -> None:
        """Feed one process; start another where it ended by itself or took too long."""
        worker = None
        while True:
            try:
                job = self.queue.get_nowait()
            except queue.Empty:
                break
            if worker is None or worker.poll() is not None:
                worker = self.start()
            worker.stdin.write(" ".join(job) + "\n")
            worker.stdin.flush()
            watch = threading.Timer(SECONDS, worker.kill)
            watch.start()
            check = "start"
            for line in worker.stdout:
                if not line.startswith("{"):
                    continue
                told = json.loads(line)
                check = told.pop("check")
                if check == "end":
                    break
                if told:
                    self.found[job][check] = told
            else:
                text = f"the process ended ({worker.wait()}) in {check}"
                self.found[job].setdefault(check, {"error": text})
            watch.cancel()
            self.finished.put(job)
        if worker is not None:
            worker.kill()

    def start(self) -> subprocess.Popen:
        command = [sys.executable, __file__, str(self.folder), "--device", self.device, "--serve"]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def serve(folder: Path, device: str) -> None:
    """Jobs from stdin, findings to stdout: a line when a check begins, and one when it ends."""
    import torch
    from model_checks import CHECKS, NEED_GPU
    from model_graphs import WHOLE
    from printed_models import Printed

    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    for line in sys.stdin:
        name, asked = line.split()
        if asked == "all":
            checks = {k: v for k, v in CHECKS.items() if device == "cuda" or k not in NEED_GPU}
        else:
            checks = {asked: WHOLE[asked]}
        try:
            printed = Printed(folder / name, device)
        except Exception as error:
            checks = {}
            tell("import", error=f"{type(error).__name__}: {error}"[:600])
        for check, run in checks.items():
            tell(check)
            start = time.perf_counter()
            try:
                found = run(printed)
                found |= {"seconds": time.perf_counter() - start}
                tell(check, found={key: short(value) for key, value in found.items()})
            except Exception as error:
                tell(check, error=told(error))
                if "CUDA error" in str(error):
                    sys.exit(3)  # nothing on this device works any more for this process
        tell("end")


def short(value: object) -> object:
    """Figures as long as they mean something."""
    return float(f"{value:.2g}") if isinstance(value, float) else value


def told(error: Exception) -> str:
    """The error, and where in the printed package it came up."""
    frames, trace = [], error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{Path(code.co_filename).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return f"{type(error).__name__}: {error}"[:900] + " at " + " ".join(frames[-6:])


def tell(check: str, **more: object) -> None:
    print(json.dumps({"check": check, **more}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--only", action="append", help="this package alone")
    options = parser.parse_args()
    if options.serve:
        serve(options.folder, options.device)
        return
    todo = [
        job
        for job in jobs(options.folder, options.device)
        if not options.only or job[0] in options.only
    ]
    pool = Pool(options.folder, options.device, todo)
    for _ in todo:
        job = pool.finished.get()
        try:
            print(*job, json.dumps(pool.result(job)), flush=True)
        except Failed as failure:
            print(*job, "FAILED", failure, flush=True)


if __name__ == "__main__":
    main()
