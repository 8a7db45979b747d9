"""The system's C++ compiler: where it is, what it is, and how kernels are compiled with it."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from attnspec.errors.diagnostic import AttnspecError

FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fopenmp",
    "-fno-strict-aliasing",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
)


class CompilerError(AttnspecError, RuntimeError):
    """There is no C++ compiler, or it failed."""


@dataclass(frozen=True)
class Compiler:
    """A C++ compiler: the command, and the text that tells apart what would compile differently."""

    command: tuple[str, ...]
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    identity: str

    def compile(self, text: str, output: Path) -> None:
        """Compile one translation unit to a shared library. Raises CompilerError with the compiler's own words."""
        source = output.with_suffix(".cpp")
        source.write_text(text, encoding="utf-8")
        command = [*self.command, *self.flags, str(source), *self.libraries, "-o", str(output)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CompilerError(f"the C++ compiler could not be run: {error}\ncommand: {shlex.join(command)}") from None
        if done.returncode:
            raise CompilerError(
                f"the C++ compiler failed (status {done.returncode}).\n"
                f"command: {shlex.join(command)}\n{done.stderr[-4000:]}"
            )


@functools.cache
def compiler() -> Compiler:
    """The compiler of this machine: ``$CXX``, else the first of c++, g++, clang++ on the path.

    ``$ATTNSPEC_CXXFLAGS`` are more flags, after those that kernels are compiled with.

    Raises CompilerError if there is none.
    """
    wanted = os.environ.get("CXX")
    names = [wanted] if wanted else ["c++", "g++", "clang++"]
    for name in names:
        words = tuple(shlex.split(name))
        found = shutil.which(words[0]) if words else None
        if found:
            flags = (*FLAGS, *_target_flags(), *shlex.split(os.environ.get("ATTNSPEC_CXXFLAGS", "")))
            libraries = _openmp()
            parts = [_stamp(found), *words[1:], *flags, *libraries, platform.machine(), _processor()]
            return Compiler((found, *words[1:]), flags, libraries, sha256("\0".join(parts).encode()).hexdigest())
    looked = f"$CXX is {wanted!r}, which is not on the path" if wanted else "none of c++, g++, clang++ is on the path"
    raise CompilerError(
        f"no C++ compiler: {looked}.\nAttention kernels for the CPU are compiled on this machine. Install one "
        "(Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or set CXX "
        'to the compiler to use. target="dense" runs without one, slowly.'
    )


def _target_flags() -> tuple[str, ...]:
    """Flags for this processor. Compilers that know no tuning for it must be told that wide vectors are good."""
    if platform.machine() in ("x86_64", "AMD64"):
        return ("-march=native", "-mprefer-vector-width=512")
    return ("-mcpu=native",)


def _openmp() -> tuple[str, ...]:
    """The OpenMP library that torch itself has loaded, so that both share one pool of threads."""
    import torch

    folder = Path(torch.__file__).parent / "lib"
    found = sorted(folder.glob("libgomp*.so*"))
    return (str(found[0]),) if found else ()


def _stamp(path: str) -> str:
    real = os.path.realpath(path)
    status = os.stat(real)
    return f"{real} {status.st_size} {status.st_mtime_ns}"


def _processor() -> str:
    """What the processor can do: a shared home folder may serve several kinds of machine."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith(("flags", "Features")):
                    return line
    except OSError:
        pass
    return platform.processor()
