"""The kernel without a GPU: interpreted in another process, and compiled for GPUs that are not here."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="torch without CUDA brings no Triton")

CASES = Path(__file__).with_name("nearest_triton_cases.py")
NUM_CASES = 12
# Instructions per pair of points in the inner loop, 15 % above what Triton 3.8 compiles to: D subtractions,
# D products, 1 minimum, and loading; from sm_100 on two float32 operations are one instruction.
INSTRUCTIONS = {(80, 3): 8.7, (80, 4): 11.2, (90, 3): 8.7, (90, 4): 11.2, (100, 3): 5.8, (100, 4): 6.5}


def run_cases(**environment: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert re.fullmatch(rf"=* ?{NUM_CASES} passed in [0-9.]+s.*", summary), summary


def test_the_interpreted_kernel_agrees_with_the_tree() -> None:
    run_cases(TRITON_INTERPRET="1", CUDA_VISIBLE_DEVICES="")


@pytest.mark.gpu
def test_the_kernel_on_a_gpu_agrees_with_the_tree() -> None:
    run_cases(TRITON_INTERPRET="0")


def machine_code(capability: int, num_dims: int, block_p: int, folder: Path) -> tuple[str, str]:
    """Resource usage and disassembly of the kernel as compiled for a GPU of this capability."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from phys4d.metrics.nearest_triton import TILE, nearest_kernel

    pointers = {
        "x_ptr": "*fp32",
        "y_ptr": "*fp32",
        "d2_ptr": "*fp32",
        "tile_ptr": "*i64",
        "range_ptr": "*i64",
    }
    constants = {"D": num_dims, "BLOCK_P": block_p, "BLOCK_Q": TILE.block_q}
    source = ASTSource(
        fn=nearest_kernel,
        signature={
            **pointers,
            **dict.fromkeys(("num_tiles", "num_x", "num_y"), "i64"),
            **dict.fromkeys(constants, "constexpr"),
        },
        constexprs=constants,
        attrs={(i,): [["tt.divisibility", 16]] for i in range(len(pointers))},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(folder))
        compiled = triton.compile(
            source,
            target=GPUTarget("cuda", capability, 32),
            options={"num_warps": TILE.num_warps, "num_stages": TILE.num_stages},
        )
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin", dir=folder) as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        return (
            subprocess.run(
                [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
            ).stdout,
            subprocess.run(
                [tools / "nvdisasm", "-c", file.name], capture_output=True, text=True, check=True
            ).stdout,
        )


def inner_loop(code: str) -> list[str]:
    """Instructions of the longest loop that takes minima: from a label to the branch back to it."""
    labels: dict[str, int] = {}
    instructions: list[str] = []
    loops = []
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_\w+):", line):
            labels[label[1]] = len(instructions)
        elif instruction := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line):
            instructions.append(instruction[1])
            target = re.search(r"BRA.*(\.L_\w+)", instruction[1])
            if target and target[1] in labels:
                loops.append(instructions[labels[target[1]] :])
    return max((loop for loop in loops if any("FMNMX" in i for i in loop)), key=len)


@pytest.mark.parametrize(("capability", "num_dims"), INSTRUCTIONS)
def test_compiled_code_keeps_to_registers_and_to_its_instruction_count(
    capability: int, num_dims: int, tmp_path: Path
) -> None:
    from phys4d.metrics.nearest_triton import TILE

    usage, code = machine_code(capability, num_dims, TILE.block_p, tmp_path)
    assert re.search(rf"EF_CUDA_SM{capability}\b|sm_{capability}", code + usage)
    assert re.findall(r"(STACK|LOCAL):(\d+)", usage) == [("STACK", "0"), ("LOCAL", "0")]
    loop = inner_loop(code)
    assert not [i for i in loop if re.search(r"\b(LDL|STL)\b", i)]
    pairs_per_thread = TILE.block_p * TILE.block_q / (32 * TILE.num_warps)
    assert num_dims + 1 < len(loop) / pairs_per_thread <= INSTRUCTIONS[capability, num_dims]


def test_a_tile_twice_as_long_would_spill(tmp_path: Path) -> None:
    """That the check above can fail."""
    usage, _ = machine_code(90, 3, 128, tmp_path)
    assert int(re.findall(r"STACK:(\d+)", usage)[0]) > 0
