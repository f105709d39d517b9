"""How much memory a piece of Python needs at its peak, in a process of its own."""

import subprocess
import sys

# Not ru_maxrss: a child process inherits that of its parent.
_PROGRAM = """
import sys
from pathlib import Path

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])

{imports}
before = peak()
{code}
print(peak() - before)
"""


def peak_kib(imports: str, code: str, *arguments: object) -> tuple[str, int]:
    """What `code` prints, and by how many KiB it raises the peak of its imports; `arguments` are sys.argv[1:]."""
    command = [sys.executable, "-c", _PROGRAM.format(imports=imports, code=code), *map(str, arguments)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    printed, _, kib = out.rstrip().rpartition("\n")
    return printed, int(kib)
