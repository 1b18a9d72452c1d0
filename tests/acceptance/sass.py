# What the compiled GEMM kernels say about themselves: registers, spills, instructions of the inner loop, and bounds in cycles from documented rates of an SM of Hopper.
# Policy: bounds, never TFLOP/s: a bound is what a unit needs at least, per K block of one SM; nothing here was measured. Called by tests/acceptance/sass.
import argparse
import re
import subprocess

TENSOR_MACS = {"QGMMA": 4096, "HGMMA": 2048}  # a cycle and SM
SHARED_BYTES = 128                             # a cycle and SM
PLAIN = ("cast_tiles", "cast_blocks", "cast_transposed", "cast_e5m6", "read_e5m6", "scales", "rms_norm", "rms_norm_backward", "add_partial", "swiglu", "swiglu_backward", "adamw")
REGISTERS = 65536                              # an SM
CONSUMER_REGISTERS, PRODUCER_REGISTERS = 232, 40  # what setmaxnreg gives the two consumer warpgroups and leaves the producer's
SMS, HBM_BYTES = 132, 3350e9 / 1.83e9          # an H100: SMs; bytes of memory a cycle at the datasheet's clock
V3_SHAPES = ((2112, 7168), (24576, 1536), (32768, 512), (7168, 16384), (4096, 7168), (7168, 2048))  # N x K of DeepSeek-V3 at M = 4096
# Warps that must be resident for a memory-bound kernel to hide its latency: what it had when it was last looked at.
WARPS = {"cast_tiles": 40, "cast_blocks": 16, "cast_transposed": 24, "cast_e5m6": 40, "read_e5m6": 40, "scales": 64, "rms_norm": 16, "rms_norm_backward": 8, "add_partial": 48,
         "swiglu": 40, "swiglu_backward": 24, "adamw": 32}
SCHEDULERS = 4                                 # an SM, one warp instruction a cycle each

INSTRUCTION = re.compile(r"^\s+/\*([0-9a-f]{4,5})\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z0-9_.x]+)(.*?);", re.M)


def functions(cuobjdump, path):
    """name -> [(address, opcode, operands)] of a cubin or object."""
    text = subprocess.run([cuobjdump, "-sass", path], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"Function : (\S+)", text)
    for name, body in zip(parts[1::2], parts[2::2]):
        yield name, [(int(a, 16), op, rest) for a, op, rest in INSTRUCTION.findall(body)]


def resources(ptxas):
    """mangled name -> (registers, spill bytes, static shared bytes) from -Xptxas -v."""
    found = {}
    name, spill = None, 0
    for line in ptxas.splitlines():
        if m := re.search(r"Compiling entry function '(\S+)' for 'sm_90a'", line):
            name, spill = m.group(1), 0
        if m := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spill = int(m.group(1)) + int(m.group(2))
        if (m := re.search(r"Used (\d+) registers", line)) and name:
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = (int(m.group(1)), spill, int(shared.group(1)) if shared else 0)
    return found


def inner_loop(code):
    """The shortest loop around tensor-core instructions: between a backward branch's target and the branch."""
    best = None
    for i, (address, op, rest) in enumerate(code):
        target = re.search(r"0x([0-9a-f]+)", rest) if op == "BRA" else None
        if not target or int(target.group(1), 16) > address:
            continue
        body = [c for c in code[:i + 1] if c[0] >= int(target.group(1), 16)]
        if any(c[1].startswith(("QGMMA", "HGMMA")) for c in body) and (best is None or len(body) < len(best)):
            best = body
    return best


def count(code, prefix):
    return sum(op.startswith(prefix) for _, op, _ in code)


def wide_share(code):
    """Share of 16-byte accesses among the global loads and stores."""
    accesses = [op for _, op, _ in code if op.startswith(("LDG", "STG"))]
    return f"{sum('.128' in op for op in accesses)}/{len(accesses)}" if accesses else "-"


def gemm_row(label, code, registers, spill, shared, groups, tile_m, tile_n):
    loop = inner_loop(code)
    gmma = [op for _, op, _ in loop if op.startswith(("QGMMA", "HGMMA"))]
    macs = reads = 0
    for op in gmma:
        m, n, k = map(int, re.search(r"\.(\d+)x(\d+)x(\d+)\.", op).groups())
        macs += m * n * k
        reads += (m + n) * 32  # bytes: K is 32 bytes of each row of a and b
    kind = gmma[0].split(".")[0]
    k_bytes = macs * groups // (tile_m * tile_n) * (1 if kind == "QGMMA" else 2)
    tensor = macs * groups / TENSOR_MACS[kind]
    issue = len(loop) * groups * 4 / SCHEDULERS
    read = reads * groups / SHARED_BYTES
    fill = (tile_m + tile_n) * k_bytes / SHARED_BYTES
    print(f"| {label} | {registers} | {spill} | {shared} | {len(gmma)} {kind} | {count(loop, 'FFMA')} + {count(loop, 'FMUL')} | {len(loop)} | {wide_share(code)} | "
          f"{count(code, 'LDL') + count(code, 'STL')} | {tensor:.0f} | {issue:.0f} | {read:.0f} | {fill:.0f} |")
    fences = count(loop, "MEMBAR") + count(loop, "CCTL")
    highest = 1 + max(int(r) for _, _, rest in code for r in re.findall(r"\bR(\d+)\b", rest))
    budgets = sorted({int(n, 16) for _, op, rest in code if op.startswith("USETMAXREG") for n in re.findall(r"0x([0-9a-f]+)", rest)})
    print(f"budget {label.replace(' ', '_')} {highest} {'/'.join(map(str, budgets)) or '-'} {(2 * max(budgets, default=0) + min(budgets, default=0)) * 128}")
    print(f"check {label}: spill {spill} local {count(code, 'LDL') + count(code, 'STL')} fences {fences} tensor {tensor:.0f} issue {issue:.0f} read {read:.0f} fill {fill:.0f}")


def plain_row(label, code, registers, spill, shared, threads):
    blocks = min(2048 // threads, 65536 // ((registers + 7) // 8 * 8 * threads), 227 * 1024 // (shared + 1024))
    print(f"| {label} | {registers} | {spill} | {shared} | {wide_share(code)} | {count(code, 'LDL') + count(code, 'STL')} | {blocks * threads // 32} of 64 |")
    print(f"check {label}: spill {spill} local {count(code, 'LDL') + count(code, 'STL')}")
    print(f"warps {label.split(' ')[0]} {blocks * threads // 32} {WARPS[label.split(' ')[0]]}")


def shapes():
    """Of each V3 shape: cycles of the tensor cores for whole waves of 128 x 128 tiles, and of memory for each operand and the BF16 result once."""
    print("| N x K, M = 4096 | tiles | waves of 132 | tensor cores, cycles | memory, cycles |")
    print("|---|---|---|---|---|")
    m = 4096
    for n, k in V3_SHAPES:
        tiles = (m // 128) * ((n + 127) // 128)
        tensor = -(-tiles // SMS) * 128 * 128 * k / TENSOR_MACS["QGMMA"]
        memory = (m * k + n * k + 2 * m * n) / HBM_BYTES
        print(f"| {n} x {k} | {tiles} | {tiles / SMS:.2f} | {tensor:.0f} | {memory:.0f} |")
        print(f"shape {n}x{k} {tensor:.0f} {memory:.0f} {2 * m * n * k / 1.979e15 < (m * k + n * k + 2 * m * n) / 3.35e12:d}")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("cuobjdump")
    arguments.add_argument("folder", help="build/dev/cuda")
    arguments.add_argument("--cutlass", help="a cubin of CUTLASS's kernel, and FILE.ptxas beside it")
    a = arguments.parse_args()
    dynamic_shared = 5 * (2 * 16384 + 2 * 512 + 16) + 2 * 16384
    print("| kernel | registers (at launch) | spill bytes | shared memory | GMMA a K block | FFMA + FMUL a K block | instructions a K block | 16-byte accesses | local accesses |"
          " tensor cores, cycles | issue slots, cycles | shared reads, cycles | shared fill, cycles |")
    print("|---|---|---|---|---|---|---|---|---|---|---|---|---|")
    for name in ("fp8_linear", "fp8_weight_gradient", "bf16_linear", "bf16_backward_input", "bf16_weight_gradient"):
        used = resources(open(f"{a.folder}/{name}.ptxas").read())
        for mangled, code in functions(a.cuobjdump, f"{a.folder}/{name}.o"):
            registers, spill, _ = used[mangled]
            gemm_row(name, code, registers, spill, dynamic_shared, 2, 128, 128)
    if a.cutlass:
        used = resources(open(a.cutlass + ".ptxas").read())
        for mangled, code in functions(a.cuobjdump, a.cutlass):
            if count(code, "QGMMA"):
                registers, spill, _ = used[mangled]
                gemm_row("CUTLASS 67", code, registers, spill, "-", 2, 128, 128)
    shapes()
    print("| kernel | registers | spill bytes | static shared memory | 16-byte accesses | local accesses | resident warps |")
    print("|---|---|---|---|---|---|---|")
    for name in ("cast_tiles", "cast_blocks", "cast_transposed", "cast_e5m6", "scales", "rms_norm", "swiglu", "adamw"):
        used = resources(open(f"{a.folder}/{name}.ptxas").read())
        for mangled, code in functions(a.cuobjdump, f"{a.folder}/{name}.o"):
            registers, spill, shared = used[mangled]
            short = max((k for k in PLAIN if f"{len(k) + 7}{k}_kernel" in mangled), key=len)  # names are mangled with their length before them
            form = " (codes in)" if "Codes" in mangled else " (fp32 in)" if re.search(r"kernelIf|PlainIf", mangled) else " (bf16 in)" if re.search(r"kernelINS|PlainIN", mangled) else ""
            if short == "cast_transposed":  # dynamic: the square, fp32 or bf16, its rows 16 bytes longer
                shared += 128 * 136 * 2 if "bf16" in form else 128 * 132 * 4
            plain_row(short + form, code, registers, spill, shared, 128 if "add_partial" in mangled or "scales" in mangled else 256)


main()
