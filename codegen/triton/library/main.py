"""Running a generated file by itself: an example, compared with what dense attention in float64 gives."""

import base64
import os
import sys
import zlib

import torch
import triton

# ---- text of generated kernels from here on ----


def wave(shape, seed):
    """Numbers between -1.7 and 1.7 without a pattern, the same everywhere: float64."""
    at = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return ((torch.sin(at * 12.9898 + seed * 78.233) * 43758.5453) % 1.0 * 3.4 - 1.7).view(shape)


def unpacked(kind, shape, text):
    """A tensor from the text that holds its bytes."""
    data = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(data, dtype=getattr(torch, kind)).view(shape).clone() if data else torch.empty(shape)


def main():
    """Run forward and backward, compare both with dense attention in float64, and time them where there is a GPU."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        sys.exit("There is no GPU here. TRITON_INTERPRET=1 runs this on the CPU, slowly.")
    dtype = DTYPE if device == "cuda" else torch.float32  # the interpreter multiplies bfloat16 wrongly
    q, k, v, dout = (wave(shape, seed).to(device, dtype) for seed, shape in enumerate(SHAPES))
    given = {
        name: value if isinstance(value, (int, float)) else unpacked(*value).to(device) for name, value in DATA.items()
    }
    wanted = [name for name in given if f"d{name}" in EXPECTED]
    out, lse, norm, parts = forward(q, k, v, SCALE, given)
    dq, dk, dv, dsink, more = backward(q, k, v, SCALE, given, out, lse, norm, parts, dout, None, wanted)
    found = {"out": out, "lse": lse, "dq": dq, "dk": dk, "dv": dv, **{f"d{name}": t for name, t in more.items()}}
    found |= {} if dsink is None else {"dsink": dsink}
    tolerance = {torch.float32: 2e-4, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    wrong = False
    for name, (size, sums) in EXPECTED.items():
        got = found[name].double().cpu().nan_to_num(neginf=0.0)
        errors = [abs(float((got * wave(got.shape, 100 + n)).sum()) - x) / (size + 1e-30) for n, x in enumerate(sums)]
        worst = max(errors) if not torch.isnan(got).any() else float("inf")
        wrong |= not worst <= tolerance
        print(f"{name}: {tuple(got.shape)}, error {worst:.1e}{'' if worst <= tolerance else ', WRONG'}")
    if device == "cuda":
        ms = triton.testing.do_bench(lambda: forward(q, k, v, SCALE, given))
        print(f"forward: {ms:.3f} ms")
    sys.exit("The kernels do not agree with dense attention." if wrong else 0)


if __name__ == "__main__":
    main()
