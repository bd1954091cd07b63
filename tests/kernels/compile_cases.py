"""Compiles the kernels of printed packages for GPUs that are not here, as their wrappers launch them.

    python -m tests.kernels.compile_cases TARGET PACKAGE...

prints one JSON line per kernel and target: registers, spills and shared memory, read from the binary.
Packages share most kernels: what has the same text and constants is compiled once. Run by test_compiled.py in a process of its own, since the interpreter must be off.
"""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
import triton.backends.nvidia
import triton.language
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


class Recorder:
    """Stands in for a kernel and keeps what it would be launched with."""

    def __init__(self, kernel: JITFunction, launches: list[tuple[JITFunction, dict]]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: tuple) -> Callable[..., None]:
        def launch(*args: object, **named: object) -> None:
            bound = dict(zip(self.kernel.arg_names, args, strict=False)) | named
            self.launches.append((self.kernel, bound))

        return launch


def launches(package: Path) -> list[tuple[JITFunction, dict]]:
    """Everything that one step through the package's operators launches, in bf16."""
    sys.path.insert(0, str(package.parent))
    kernels = importlib.import_module(f"{package.name}.kernels")
    recorded: list[tuple[JITFunction, dict]] = []
    for name, value in list(vars(kernels).items()):
        if isinstance(value, JITFunction) and name.endswith("_kernel"):
            setattr(kernels, name, Recorder(value, recorded))
    view = json.loads((package / "view.json").read_text())
    for route in view["routes"]:
        step_route(kernels, route)
    step_rows(kernels, view)
    return recorded


def step_route(kernels: ModuleType, route: dict) -> None:
    from tests.kernels.agree import SMOOTH, route_inputs

    wants = route["statistics"]
    # Sequences for one program each, and for several.
    for rows in (48, 480):
        z = torch.zeros(rows, route["num_experts"], dtype=torch.bfloat16)
        for inputs in route_inputs(route, wants, z, 3):
            weight, expert, *sums = getattr(kernels, f"route_{route['name']}")(*inputs)
            smooth = [s for name, s in zip(wants, sums, strict=True) if name in SMOOTH]
            segments = inputs[-2:] if smooth else ()
            backward = getattr(kernels, f"route_{route['name']}_backward")
            backward(weight, *smooth, z, expert, *segments)


def step_rows(kernels: ModuleType, view: dict) -> None:
    x, y = (torch.zeros(rows, 2048, dtype=torch.bfloat16) for rows in (8, 64))
    place = torch.zeros(8, 8, dtype=torch.int32)
    weight = torch.zeros(8, 8)
    for many in (1, 40):  # rows that each program counts, and rows that are counted before
        kernels.dispatch(place.long().repeat(many, 1), 60, *([64] if view["bounded"] else []))
    if not view["loose"]:
        kernels.gather_rows(x, torch.zeros(64, dtype=torch.int32), place)
    kernels.gather_rows_backward(y, place)
    kernels.combine(y, weight, place)
    kernels.combine_backward(x, y, weight, place)
    if view["lines"]:
        kernels.place_in_line(place.long(), 60)
    if view["columns"]:
        kernels.take_rows(x, 4, 2)
    if view["expert_bias"]:
        kernels.expert_bias_backward(y, torch.zeros(4, dtype=torch.int32))


def compiled(kernel: JITFunction, bound: dict, target: GPUTarget, known: dict[str, dict]) -> dict:
    signature, constants, attributes = {}, {}, {}
    for i, parameter in enumerate(kernel.params):
        value = bound[parameter.name]
        if parameter.is_constexpr or value is None:
            signature[parameter.name], constants[(i,)] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(i,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "i32"
    options = {"num_warps": bound.get("num_warps", 4)}
    key = repr((sources(kernel), signature, constants, options))
    if key not in known:
        source = ASTSource(kernel, signature, constants, attributes)
        binary = triton.compile(source, target=target, options=options)
        usage = vector_usage(binary) if target.backend == "hip" else cubin_usage(binary)
        known[key] = usage | {"shared": binary.metadata.shared}
    return {"kernel": kernel.__name__, **known[key]}


def sources(kernel: JITFunction) -> dict[str, str]:
    """The text of a kernel and of all that it calls or reads, by name."""
    found, waiting = {kernel.__name__: kernel.src}, [kernel]
    while waiting:
        function = waiting.pop()
        for name in sorted(set(re.findall(r"\w+", function.src)) - found.keys()):
            value = function.fn.__globals__.get(name)
            if isinstance(value, JITFunction):
                found[name] = value.src
                waiting.append(value)
            elif isinstance(value, triton.language.constexpr):
                found[name] = repr(value)
    return found


def vector_usage(binary: triton.compiler.CompiledKernel) -> dict[str, int]:
    """Registers and spills of an AMD kernel, from its assembly."""
    text = binary.asm["amdgcn"]
    count = {name: int(value) for name, value in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    spilled = count["vgpr_spill_count"] + count["sgpr_spill_count"]
    return {"registers": count["vgpr_count"], "spilled": spilled}


def cubin_usage(binary: triton.compiler.CompiledKernel) -> dict[str, int]:
    """Registers and stack bytes of an NVIDIA kernel, which only spills make it use."""
    tool = Path(next(iter(triton.backends.nvidia.__path__))) / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [tool, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", text).groups()
    return {"registers": int(registers), "spilled": int(stack)}


if __name__ == "__main__":
    target, *packages = sys.argv[1:]
    known: dict[str, dict] = {}
    for package in packages:
        for kernel, bound in launches(Path(package)):
            line = {"package": Path(package).name, "target": target}
            print(json.dumps(line | compiled(kernel, bound, TARGETS[target], known)))
