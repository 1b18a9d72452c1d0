# Edits the PTX inside a copy of the GPU test program, one instruction at a time and without changing its length, and asks whether the tests or the simulator notice.
# Policy: a mutant is caught by a failing test, a reported error or race, or a hang; whatever survives every mode is listed. Called by tests/acceptance/gpu_mutations.
import argparse
import concurrent.futures
import os
import re
import subprocess
import sys
import time

# Kernel (by its traits' mangled name) -> the cases that exercise it.
KERNELS = {
    "fp8_linear": ("GemmTraitsILb1ELb0ELb0ELNS0_6ScalesE1E", "FP8 products*,Bits of an FP8*"),
    "fp8_weight_gradient": ("GemmTraitsILb1ELb0ELb0ELNS0_6ScalesE2E", "FP8 weight gradients*"),
    "bf16_linear": ("GemmTraitsILb0ELb0ELb0E", "linear on the GPU*,Grouped products*,Bits of a BF16*"),
    "bf16_backward_input": ("GemmTraitsILb0ELb0ELb1E", "linear_backward_input*,Grouped products*"),
    "bf16_weight_gradient": ("GemmTraitsILb0ELb1ELb1E", "linear_backward_weight*,Grouped products*"),
}
# What the simulator is asked for, cheapest first; the next mode is tried only if the mutant survived. PREFIX is the simulator's.
MODES = [  # every check of the simulator, three seeds; FP32 accumulation beside the model of Hopper's
    {"SMS": "6", "STRICT": "1", "ACC": "f32"},
    {"SMS": "8", "STRICT": "2"},
    {"SMS": "6", "STRICT": "3"},
]
# Why a survivor is one (docs/gpu-status.md explains each): the first pattern that matches kind and text.
REASONS = [
    (r"delete fence\.mbarrier_init", "the simulator checks it in clusters only: in one block an mbarrier's init is visible to TMA at once"),
    (r"descriptor leading", "equivalent for a: its 64 rows are one swizzle atom, so the offset to the next is never used (b's are caught)"),
    (r"wgmma\.wait_group\.sync\.aligned 1", "the simulator's late wgmma are never so late that TMA, five stages on, overtakes them; its race detector takes them as done when issued"),
    (r"compare ge as gt: setp\.ge\.s32", "equivalent in the first 16 columns of a tile: it begins before n, and n is a multiple of 16"),
    (r"compare lt as le: setp\.lt\.s32 %p\d+, %r\d+, %r\d+", "equivalent where it is the walk over groups: one group past the last has no tiles, for its offsets are zero"),
    (r"compare ne as eq: setp\.ne\.s32 %p\d+, %r1, 0", "equivalent: all threads but the first initialise the barriers, to the same counts, before the same cluster barrier"),
]

DELETED = re.compile(
    r"(?:mbarrier\.init|mbarrier\.arrive|cp\.async\.bulk|fence\.|barrier\.cluster|bar\.warp\.sync|bar\.sync|wgmma\.fence|wgmma\.mma_async|wgmma\.commit_group|wgmma\.wait_group)")
FLIPPED = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq", "lo": "ls", "ls": "lo", "hi": "hs", "hs": "hi"}


class Mutant:
    def __init__(self, kernel, offset, old, new, kind):
        self.kernel, self.offset, self.old, self.kind = kernel, offset, old, kind
        self.new = new.ljust(len(old))
        if len(self.new) != len(old):
            raise ValueError(f"{kind}: {new!r} is longer than {old!r}")

    def __str__(self):
        text = " ".join(self.old.split())
        return f"{self.kernel}: {self.kind}: {text[:110]}"


def kernel_texts(image):
    """(name, offset, text) of every kernel's PTX in the program."""
    for name, (mangled, _) in KERNELS.items():
        for found in re.finditer(rb"\.visible \.entry \S*" + mangled.encode() + rb"\S*\(", image):
            start = at = image.find(b"{\n", found.end(), found.end() + 4000)
            if at < 0:  # the copy that the cubin keeps for debuggers: nobody runs it
                continue
            depth = 0
            while True:  # braces nest: inline PTX has its own
                byte = image[at:at + 1]
                depth += (byte == b"{") - (byte == b"}")
                at += 1
                if depth == 0:
                    break
            yield name, start, image[start:at].decode("latin1")


def mutants_of(kernel, base, text):
    counts = set(re.findall(r"mbarrier\.init\S* \[\S+\], (%r\d+)", text))
    bytes_expected = set(re.findall(r"expect_tx\S* _, \[\S+\], (%r\d+)", text))

    def make(at, old, new, kind):
        return Mutant(kernel, base + at, old, new, kind)

    # Whole statements, found line by line: an instruction ends at the first semicolon after it begins.
    for found in re.finditer(r"(?m)^[ \t]*(?:@!?%?\w+ )?([a-z][\w:.]*)[^;]*;", text):
        at, statement, op = found.start(1), text[found.start(1):found.end()], found.group(1)
        if DELETED.match(op):
            yield make(at, statement, "", f"delete {op.split('.')[0]}.{op.split('.')[1]}" if "." in op else f"delete {op}")
        if op.startswith("mbarrier.try_wait"):
            predicate = statement.split()[1].rstrip(",")
            yield make(at, statement, f"setp.eq.u32 {predicate}, 0, 0;", "do not wait on mbarrier")
        if op.startswith("elect.sync"):
            yield make(at, statement, "setp.eq.u32 P, 0, 0;", "elect every lane")
        if op.startswith("wgmma.wait_group"):
            n = int(re.search(r"(\d+);$", statement).group(1))
            yield make(at, statement, re.sub(r"\d+;$", f"{n + 1};", statement), "wait for one group fewer")
        if op.startswith("setp."):
            relation = op.split(".")[1]
            if relation in FLIPPED:
                yield make(at, statement, statement.replace(f"setp.{relation}.", f"setp.{FLIPPED[relation]}.", 1), f"compare {relation} as {FLIPPED[relation]}")
        if op == "xor.b32":
            yield make(at, statement, statement.replace("xor.b32", "or.b32", 1), "swizzle or parity: or for xor")
        destination = re.match(r"\S+ (%r\d+),", statement)
        if destination and destination.group(1) in counts:
            n = int(re.search(r"(\d+);$", statement).group(1)) if re.search(r" \d+;$", statement) else None
            if n is not None:
                for other in (n + 1, n - 1):
                    if other > 0:
                        yield make(at, statement, re.sub(r"\d+;$", f"{other};", statement), f"barrier count {n} as {other} ({op})")
        if destination and destination.group(1) in bytes_expected and op == "mov.u32":
            n = int(re.search(r"(\d+);$", statement).group(1))
            for other in (n + 16, n - 16):
                yield make(at, statement, re.sub(r"\d+;$", f"{other};", statement), f"expect {other} bytes for {n}")
        constant = re.search(r"or\.b64 .* (\d{17,20});$", statement)
        if constant:  # the constant fields of a matrix descriptor
            value = int(constant.group(1))
            fields = {"layout": (62, 3), "stride": (32, 0x3FFF), "leading": (16, 0x3FFF)}
            for field, (shift, mask) in fields.items():
                old = value >> shift & mask
                if field == "leading" and not old > 1:
                    continue  # unused by K-major tiles
                for new in {"layout": (0, 2), "stride": (old // 2, old + 8), "leading": (old // 2, old - 8)}[field]:
                    changed = str(value & ~(mask << shift) | new << shift)
                    if len(changed) <= len(constant.group(1)):
                        yield make(at, statement, statement.replace(constant.group(1), changed), f"descriptor {field} {old} as {new}")


def thinned(mutants, most):
    """Of mutants that differ only in registers and numbers (unrolled copies) at most `most`: first, last, evenly between."""
    groups = {}
    for m in mutants:
        groups.setdefault((m.kernel, m.kind, re.sub(r"%\w+|\d+", "#", m.old)), []).append(m)
    kept = []
    for group in groups.values():
        n = len(group)
        kept += group if n <= most else [group[i * (n - 1) // (most - 1)] for i in range(most)]
    return kept


def run(program, cases, mode, prefix, library, timeout):
    env = dict(os.environ, LD_LIBRARY_PATH=library, **{f"{prefix}_{k}": v for k, v in mode.items()})
    try:
        done = subprocess.run([program, cases, "-a"], env=env, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return "hang"
    output = (done.stdout + done.stderr).decode("latin1")
    if done.returncode == 0:
        return None
    if "RACE" in output:
        return "race"
    for line in output.splitlines():
        if f"[{prefix.lower()}]" in line:
            return "simulator"
    return "test"


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("program")
    arguments.add_argument("work")
    arguments.add_argument("--library", required=True)
    arguments.add_argument("--prefix", required=True, help="of the simulator's variables")
    arguments.add_argument("--kernels", default="fp8_linear,fp8_weight_gradient,bf16_weight_gradient")
    arguments.add_argument("--copies", type=int, default=3, help="most mutants of one unrolled instruction")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--only", default="", help="regular expression over kind and text")
    a = arguments.parse_args()
    image = open(a.program, "rb").read()
    wanted = a.kernels.split(",")
    mutants = [m for name, at, text in kernel_texts(image) if name in wanted for m in mutants_of(name, at, text)]
    mutants = [m for m in thinned(mutants, a.copies) if re.search(a.only, str(m))]
    if a.list:
        print("\n".join(map(str, mutants)))
        return
    for name in wanted:  # the unchanged program passes every mode, or nothing here means anything
        for mode in MODES:
            outcome = run(a.program, KERNELS[name][1], mode, a.prefix, a.library, 300)
            if outcome:
                sys.exit(f"{name}: the unchanged program does not pass {mode}: {outcome}")
    def judge(numbered):
        number, m = numbered
        began = time.time()
        changed = bytearray(image)
        if changed[m.offset:m.offset + len(m.old)].decode("latin1") != m.old:
            sys.exit(f"{m}: the text is not where it was found")
        changed[m.offset:m.offset + len(m.old)] = m.new.encode("latin1")
        mutant_program = os.path.join(a.work, f"mutant{number}")
        with open(mutant_program, "wb") as out:
            out.write(changed)
        os.chmod(mutant_program, 0o755)
        outcome = None
        for mode in MODES:
            outcome = run(mutant_program, KERNELS[m.kernel][1], mode, a.prefix, a.library, 60)
            if outcome:
                break
        os.remove(mutant_program)
        print(f"{outcome or 'SURVIVED':9s} {time.time() - began:5.1f} s  {m}", flush=True)
        return m, outcome

    caught, survivors, unexplained = {}, [], 0
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for m, outcome in pool.map(judge, enumerate(mutants)):
            if outcome:
                caught[outcome] = caught.get(outcome, 0) + 1
            else:
                reason = next((why for pattern, why in REASONS if re.search(pattern, str(m))), None)
                survivors.append((m, reason))
                unexplained += reason is None
    total = sum(caught.values())
    print(f"mutants {len(mutants)} caught {total} " + " ".join(f"{k} {v}" for k, v in sorted(caught.items())))
    for m, reason in survivors:
        print(f"survivor {m} | {reason or 'no reason yet'}")
    print(f"survivors without a reason: {unexplained}")


main()
