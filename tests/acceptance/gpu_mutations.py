# Edits the PTX inside a copy of the GPU test program, one instruction at a time and without changing its length, and asks whether the tests or the simulator notice.
# Policy: a mutant is caught by a failing test, a reported error or race, or a hang; whatever survives every mode is listed. An equivalent mutant is one with a proof below,
# which names the kernel, the edit and the source line: any other survivor counts as missed. Called by tests/acceptance/gpu_mutations.
import argparse
import bisect
import concurrent.futures
import os
import re
import subprocess
import sys
import threading
import time

# Kernel (by its traits' mangled name) -> the cases that exercise it.
KERNELS = {
    "fp8_linear": ("GemmTraitsILb1ELb0ELb0ELNS0_6ScalesE1E", "FP8 products*,Bits of an FP8*"),
    "fp8_weight_gradient": ("GemmTraitsILb1ELb0ELb0ELNS0_6ScalesE2E", "FP8 weight gradients*"),
    "bf16_linear": ("GemmTraitsILb0ELb0ELb0E", "linear on the GPU*,Results on the GPU*,Grouped products*,Bits of a BF16*"),
    "bf16_backward_input": ("GemmTraitsILb0ELb0ELb1E", "linear_backward_input*,Results on the GPU*,Grouped products*"),
    "bf16_weight_gradient": ("GemmTraitsILb0ELb1ELb1E", "linear_backward_weight*,Results on the GPU*,Grouped products*"),
}
# What the simulator is asked for, cheapest first; the next mode is tried only if the mutant survived. PREFIX is the simulator's.
MODES = [  # every check of the simulator, three seeds; sums as the tests want them, bit for bit
    {"SMS": "6", "STRICT": "1"},
    {"SMS": "8", "STRICT": "2"},
    {"SMS": "6", "STRICT": "3"},
]
# What the host says in a tensor map: the operands' swizzle (0 none, 1 and 2 narrower), box, bound and stride (gpu_mutations_maps.c applies it to the unchanged program).
MAPS = ["swizzle 0", "swizzle 1", "swizzle 2", "box 0 32", "box 1 32", "dim 1 1", "stride 0 16"]
# Survivors that change nothing: (kernel, kind and instruction, source line, which of its copies there), each with the proof that no input shows them.
REGISTERS, ANY = r"setp\.\w+\.s32 %p\d+, %r\d+, %r\d+;", "copy"
EQUIVALENT = [
    (r".*", r"compare lt as le: " + REGISTERS, "while (group < args.num_groups) {", r"copy (\d+) of \1$",
     "the test behind a tile: group is that tile's and below num_groups, so < and <= are both true (the one that follows ++group is caught)"),
    (r"fp8_weight_gradient", r"compare lt as le: setp\.lt\.s32 %p\d+, %r\d+, 128;", "i < tile.num_stages;", ANY,
     "it asks whether depth + 127 < 128; they differ for a depth of 1 only, and the depth of a group is a multiple of 128"),
    (r"bf16_linear|bf16_backward_input", r"compare lt as le: setp\.lt\.u32 %p\d+, %r\d+, 127;", "gemm_kernel.h", "copy 1 of 1",
     "it asks whether k + 126 < 127, that is whether there is no stage; they differ for k = 1 only, and k is a multiple of 8"),
    (r"bf16_linear|bf16_backward_input", r"compare lt as le: setp\.lt\.s32 %p\d+, %r\d+, 1;", "if (tile.num_stages == 0) return;", ANY,
     "it asks whether k < 1; they differ for k = 1 only, and k is a multiple of 8"),
    (r"fp8_.*", r"(compare ge as gt|no bounds check): " + REGISTERS, "if (row >= tile.m_end || column >= args.n) continue;", "copy 2 of 3",
     "the column of the first 16 of a tile: a tile begins at a multiple of 128 below n, and n is a multiple of 16, so all 16 are below n (rows and later columns are caught)"),
    (r"bf16_weight_gradient", r"descriptor leading 512 as (256|504): or\.b32", "gemm_kernel.h:39 ", ANY,
     "a's: its 64 rows are one swizzle atom wide, so the distance to the next atom along m is never added (b's, two atoms wide, is caught)"),
]

DELETED = re.compile(
    r"(?:mbarrier\.init|mbarrier\.arrive|cp\.async\.bulk|fence\.|barrier\.cluster|bar\.warp\.sync|bar\.sync|wgmma\.fence|wgmma\.mma_async|wgmma\.commit_group|wgmma\.wait_group)")
FLIPPED = {"lt": "le", "le": "lt", "gt": "ge", "ge": "gt", "eq": "ne", "ne": "eq", "lo": "ls", "ls": "lo", "hi": "hs", "hs": "hi"}


class Mutant:
    def __init__(self, kernel, offset, old, new, kind, place):
        self.kernel, self.offset, self.old, self.kind, self.place = kernel, offset, old, kind, place
        self.copy = ""  # "copy 1 of 3": of the same edit of the same instruction at the same place, registers aside
        self.new = new.ljust(len(old))
        if len(self.new) != len(old):
            raise ValueError(f"{kind}: {new!r} is longer than {old!r}")

    def __str__(self):
        text = " ".join(self.old.split())
        return f"{self.kernel}: {self.kind}: {text[:110]} | {self.place} | {self.copy}"

    def equivalent(self):
        """The proof that this mutant changes nothing, or None."""
        for kernel, edit, place, copy, why in EQUIVALENT:
            if re.fullmatch(kernel, self.kernel) and re.match(edit, f"{self.kind}: {self.old}") and place in self.place and re.search(copy, self.copy):
                return why
        return None


class MapMutant(Mutant):
    """Another tensor map for the same program."""

    def __init__(self, kernel, change):
        super().__init__(kernel, None, change, change, "tensor map", "gemm_launch.h operand_map")


def kernel_texts(image):
    """(name, offset, text, names of source files) of every kernel's PTX in the program."""
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
            tables = image.rfind(b".version", 0, start), image.find(b"\0", at)  # the file names follow the module's kernels
            files = {int(k): os.path.basename(path.decode()) for k, path in re.findall(rb"\n[ \t]*\.file[ \t]+(\d+) \"([^\"]*)\"", image[tables[0]:tables[1]])}
            yield name, start, image[start:at].decode("latin1"), files


def places(text, files, source):
    """A function from an offset in a kernel's PTX to its source: "file:line code", and for what was inlined the caller's too."""
    marks, starts = [], []
    code = {}

    def line_of(file, line):
        name = files.get(int(file), "?")
        if name not in code:
            path = os.path.join(source, "kernels/cuda", name)
            code[name] = open(path, encoding="utf-8").read().splitlines() if os.path.exists(path) else []
        known = code[name]
        return f"{name}:{line} {known[int(line) - 1].strip()[:140]}" if int(line) <= len(known) else f"{name}:{line}"

    for found in re.finditer(r"(?m)^[ \t]*\.loc[ \t]+(\d+)[ \t]+(\d+)[^\n]*?(?:inlined_at[ \t]+(\d+)[ \t]+(\d+)[^\n]*)?$", text):
        if found.group(2) == "0":  # the compiler's own: as before
            continue
        own = line_of(found.group(1), found.group(2))
        starts.append(found.start())
        marks.append(own + (f" < {line_of(found.group(3), found.group(4))}" if found.group(3) else ""))

    def place(at):
        k = bisect.bisect_right(starts, at) - 1
        return marks[k] if k >= 0 else ""
    return place


def mutants_of(kernel, base, text, place):
    counts = set(re.findall(r"mbarrier\.init\S* \[\S+\], (%r\d+)", text))
    low_words = dict(re.findall(r"cvt\.u64\.u32 (%rd\d+), (%r\d+);", text))
    stepped = set()
    bytes_expected = set(re.findall(r"expect_tx\S* _, \[\S+\], (%r\d+)", text))

    def make(at, old, new, kind):
        return Mutant(kernel, base + at, old, new, kind, place(at))

    def definition(register):
        """The last statement that defines a register, as (offset, text), if it adds a constant."""
        found = None
        for found in re.finditer(r"(add\.s32 " + re.escape(register) + r", %r\d+, \d+);", text):
            pass
        return (found.start(1), found.group(1) + ";") if found else None

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
        if op.startswith("setp.g") and re.search(r"s32 %p\d+, %r\d+, %r\d+;$", statement):
            predicate = statement.split()[1].rstrip(",")
            yield make(at, statement, f"setp.ne.s32 {predicate}, 0, 0;", "no bounds check")
        if op == "xor.b32":
            yield make(at, statement, statement.replace("xor.b32", "or.b32", 1), "swizzle or parity: or for xor")
            constant = re.search(r" (\d+);$", statement)
            if constant and int(constant.group(1)) >= 16:
                n = int(constant.group(1))
                yield make(at, statement, re.sub(r"\d+;$", f"{n - 16 if n > 16 else 32};", statement), "another swizzle constant")
        if op == "and.b32" and re.search(r", 112;$", statement):
            yield make(at, statement, re.sub(r"112;$", "48;", statement), "another swizzle mask")
        if op == "not.b16":  # the mask of CTAs of a multicast is the complement of a shift
            yield make(at, statement, f"mov.b16 {statement.split()[1]} 1;", "multicast to the first CTA only")
        if op.startswith("mapa."):
            yield make(at, statement, re.sub(r"[^ ]+;$", "0;", statement), "arrive at the first CTA only")
        leading = re.search(r"^or\.b32 .* (\d{6,9});$", statement)
        if leading and int(leading.group(1)) % 65536 == 0 and int(leading.group(1)) > 65536:
            n = int(leading.group(1)) >> 16
            for other in (n // 2, n - 8):
                yield make(at, statement, statement.replace(leading.group(1), str(other << 16)), f"descriptor leading {n} as {other}")
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
            fields = {"layout": (62, 3), "stride": (32, 0x3FFF)}  # the leading offset is in the low word; K-major tiles do not use it
            for field, (shift, mask) in fields.items():
                old = value >> shift & mask
                for new in {"layout": (0, 2), "stride": (old // 2, old + 8)}[field]:
                    changed = str(value & ~(mask << shift) | new << shift)
                    if len(changed) <= len(constant.group(1)):
                        yield make(at, statement, statement.replace(constant.group(1), changed), f"descriptor {field} {old} as {new}")
            step = definition(low_words.get(statement.split()[2].rstrip(","), "%r"))
            if step and step[0] not in stepped:
                stepped.add(step[0])
                n = int(re.search(r"(\d+);$", step[1]).group(1))
                yield make(step[0], step[1], re.sub(r"\d+;$", f"{n - n // 2};", step[1]), f"descriptor start {n} as {n - n // 2}")


def thinned(mutants, most):
    """Of mutants that differ only in registers and numbers (unrolled copies) at most `most`: first, last, evenly between."""
    groups = {}
    for m in mutants:
        groups.setdefault((m.kernel, re.sub(r"\d+", "#", m.kind), re.sub(r"%\w+|\d+", "#", m.old), m.place), []).append(m)
    kept = []
    for group in groups.values():
        n = len(group)
        for k, m in enumerate(group):
            m.copy = f"copy {k + 1} of {n}"
        kept += group if n <= most else [group[i * (n - 1) // (most - 1)] for i in range(most)]
    return kept


# A program that another thread's child still holds open for writing cannot be started: writing one and starting one exclude each other.
STARTING = threading.Lock()


def run(program, cases, mode, prefix, library, timeout, more=None):
    env = dict(os.environ, LD_LIBRARY_PATH=library, **{f"{prefix}_{k}": v for k, v in mode.items()}, **(more or {}))
    with STARTING:
        process = subprocess.Popen([program, cases, "-a"], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        output = process.communicate(timeout=timeout)[0].decode("latin1")
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return "hang"
    if process.returncode == 0:
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
    arguments.add_argument("--maps", default="", help="gpu_mutations_maps.c as a shared library: tensor maps are mutated, too")
    arguments.add_argument("--source", default=".", help="the repository's root: source lines of the mutants")
    arguments.add_argument("--prefix", required=True, help="of the simulator's variables")
    arguments.add_argument("--kernels", default=",".join(KERNELS))
    arguments.add_argument("--copies", type=int, default=3, help="most mutants of one unrolled instruction")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time")
    arguments.add_argument("--list", action="store_true")
    arguments.add_argument("--only", default="", help="regular expression over kind and text")
    a = arguments.parse_args()
    image = open(a.program, "rb").read()
    wanted = a.kernels.split(",")
    mutants = [m for name, at, text, files in kernel_texts(image) if name in wanted for m in mutants_of(name, at, text, places(text, files, a.source))]
    mutants = [m for m in thinned(mutants, a.copies) if re.search(a.only, str(m))]
    if a.maps:
        mutants += [m for name in wanted for m in (MapMutant(name, change) for change in MAPS) if re.search(a.only, str(m))]
    if a.list:
        print("\n".join(map(str, mutants)))
        return
    unchanged = {"LD_PRELOAD": os.path.abspath(a.maps), "MUTATE_MAP": "none"} if a.maps else None
    checks = [(name, mode) for name in wanted for mode in MODES]
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:  # the unchanged program passes every mode, or nothing here means anything
        for (name, mode), outcome in zip(checks, pool.map(lambda check: run(a.program, KERNELS[check[0]][1], check[1], a.prefix, a.library, 300, unchanged), checks)):
            if outcome:
                sys.exit(f"{name}: the unchanged program does not pass {mode}: {outcome}")

    def make_mutant(m, to):
        changed = bytearray(image)
        if changed[m.offset:m.offset + len(m.old)].decode("latin1") != m.old:
            sys.exit(f"{m}: the text is not where it was found")
        changed[m.offset:m.offset + len(m.old)] = m.new.encode("latin1")
        with open(to, "wb") as out:
            out.write(changed)
        os.chmod(to, 0o755)

    def judge(numbered):
        number, m = numbered
        began = time.time()
        program, more = os.path.join(a.work, f"mutant{number}"), None
        if isinstance(m, MapMutant):
            program, more = a.program, {"LD_PRELOAD": os.path.abspath(a.maps), "MUTATE_MAP": m.new}
        else:
            with STARTING:
                make_mutant(m, program)
        outcome = None
        for mode in MODES:
            outcome = run(program, KERNELS[m.kernel][1], mode, a.prefix, a.library, 60, more)
            if outcome:
                break
        if not more:
            os.remove(program)
        print(f"{outcome or 'SURVIVED':9s} {time.time() - began:5.1f} s  {m}", flush=True)
        return m, outcome

    caught, equivalent, missed = {}, [], []
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for m, outcome in pool.map(judge, enumerate(mutants)):
            if outcome:
                caught.setdefault(m.kernel, []).append(outcome)
            else:
                (equivalent if m.equivalent() else missed).append(m)
    for m in equivalent:
        print(f"equivalent {m} | {m.equivalent()}")
    for m in missed:
        print(f"missed {m}")
    for name in wanted:
        outcomes = caught.get(name, [])
        how = " ".join(f"{k} {outcomes.count(k)}" for k in ("simulator", "race", "test", "hang") if k in outcomes)
        same, not_seen = (sum(m.kernel == name for m in group) for group in (equivalent, missed))
        print(f"kernel {name} mutants {len(outcomes) + same + not_seen} caught {len(outcomes)} ({how}) equivalent {same} missed {not_seen}")
    print(f"mutants {len(mutants)} caught {sum(map(len, caught.values()))} equivalent {len(equivalent)} missed {len(missed)}")


main()
