"""NVIDIA's machine code, as far as a test reads it: which uniform registers are read before anything is written there.

Descriptors of the tensor cores' operands are made in these registers; ptxas 12.8 forgets to make some.
"""

import re
import subprocess
import tempfile
from pathlib import Path

# instructions that write to uniform registers; one outside the uniform datapath reads them alone
_WRITING = ("U", "S2UR", "R2UR", "CS2UR", "REDUX", "VOTEU", "LDCU")
_INSTRUCTION = re.compile(r"\s*(?:/\*[0-9a-f]+\*/)?\s*(?:@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;")


def disassemble(cubin: bytes) -> str:
    """The machine code of a kernel, by the disassembler that Triton brings."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "nvdisasm"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", file.name], capture_output=True, text=True, check=True).stdout


def reads_of_nothing(code: str) -> list[str]:
    """Instructions that read a uniform register which none of those above them writes."""
    written: set[int] = set()
    found = []
    for line in code.splitlines():
        matched = _INSTRUCTION.match(line)
        if matched is None:
            continue
        name, operands = matched[1], re.split(r",\s*", matched[2])
        target = _target(name, operands)
        read = [number for i, operand in enumerate(operands) if i != target for number in _read(operand, i)]
        if not written.issuperset(read):
            found.append(line.strip())
        if target is not None:
            first = int(operands[target][2:])
            width = 4 if ".128" in name else 2 if ".64" in name or ".WIDE" in name else 1
            written.update(range(first, first + width))
    return found


def _target(name: str, operands: list[str]) -> int | None:
    """The place of the uniform register that an instruction writes: the first operand behind predicates."""
    if name.startswith(_WRITING):
        for i, operand in enumerate(operands):
            if re.fullmatch(r"UR\d+", operand):
                return i
            if not re.fullmatch(r"U?P(\d|T)", operand):
                break
    return None


def _read(operand: str, place: int) -> list[int]:
    """Uniform registers of one operand. A matrix product whose left factor lies in registers has ``gdesc`` third."""
    registers = [int(number) for number in re.findall(r"\bUR(\d+)", operand)]
    if operand.startswith("gdesc["):
        return list(range(registers[0] + (2 if place == 2 else 0), registers[0] + 4))
    if operand.startswith("desc["):
        return [registers[0], registers[0] + 1]
    return registers
