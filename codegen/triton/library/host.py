"""Calling the kernels: allocation, launches (``launch_forward`` and so on follow below), and what is left to do."""

import functools

import torch
import triton

# ---- text of generated kernels from here on ----


def rows_of(*tensors):
    """Tensors whose rows lie in one piece and not too far apart, as the kernels read them."""
    plain = torch.contiguous_format
    fine = [t.stride(-1) == 1 and t.stride(-2) <= LARGEST_ROW for t in tensors]
    return [t if own else t.clone(memory_format=plain) for t, own in zip(tensors, fine)]


def forward(q, k, v, scale, given, precision="ieee", shares=1, sums=None, kind=None):
    """Output (batch, heads, n_q, dim_v), log-sum-exp (batch, heads, n_q) float32, norm, outputs of separate branches.

    The norm, (3, batch, heads, n_q) float32, is what the weights of a row are relative to: a score, in the units of the
    kernels (those of log2, natural where there are score lines), and log2 of the sum of the weights relative to it;
    then the row's largest score, in natural units.
    q is (batch, heads, n_q, dim), k and v (batch, kv_heads, n, dim): grouped queries by shape. ``given`` holds, by
    name, what the kernels read beside these (see GIVEN); where tensors hold a part of the pattern's queries, keys,
    heads and batch entries, ``given['part']`` says which: the positions of row 0 and of key 0, the first head, the
    first batch entry, then the pattern's own n, n_q, heads, kv_heads and batch. ``shares`` cuts the keys of each
    query tile into so many parts, which run side by side. ``sums`` are an output and a log-sum-exp, float32 and
    contiguous, of other keys: these change in place. ``kind`` is the type of the output, that of q if not said.
    """
    q, k, v = rows_of(q, k, v)
    kind = kind or q.dtype
    if sums is not None and (BRANCHES or not CARRY):
        out, lse, norm, parts = forward(q, k, v, scale, given, precision, shares, None, torch.float32)
        both = torch.stack([begin_of(sums[1]), begin_of(lse)])
        sums[1][:], norm, weights = merged(both, None)
        sums[0][:] = (weights[..., None] * torch.stack([sums[0], out.float()])).sum(0)
        return *sums, norm, parts
    many = BRANCHES or shares
    shape, sink = (many, *q.shape[:3], v.shape[3]), by_row(given.get("sink"))
    norms = q.new_empty((many, 3, *q.shape[:3]), dtype=torch.float32)
    if sums is not None:
        out, norms[0] = sums[0][None], begin_of(sums[1])
        lse = sums[1][None]
    elif CARRY:
        out = q.new_zeros(shape, dtype=torch.float32)
        lse = begin(norms, None if BRANCHES else sink)
    else:
        out = q.new_empty(shape, dtype=kind if many == 1 else torch.float32)
        lse = q.new_empty(shape[:-1], dtype=torch.float32)
    if q.numel():
        launch_forward(q, k, v, out, lse, norms, scale, given, precision, shares)
    if sums is not None:
        return *sums, norms[0], q.new_empty(0)
    if many == 1 and not BRANCHES:
        return out[0].to(kind), lse[0], norms[0], q.new_empty(0)
    lse, norm, weights = merged(norms, sink if BRANCHES else None)
    mixed = (weights[..., None] * out).sum(0).to(kind)
    return mixed, lse, norm, out.to(q.dtype) if BRANCHES else q.new_empty(0)


def begin(norms, sink):
    """Make norms those of rows that have seen nothing but their sink, (batch, heads, n_q or 1); returns that."""
    lse = torch.full_like(norms[:, 0], float("-inf")) if sink is None else sink[None].expand_as(norms[:, 0])
    norms[:, 0] = lse / (UNIT.value * LN2.value)
    norms[:, 1], norms[:, 2] = 0.0, float("-inf")
    return lse.clone()


def begin_of(lse):
    """The norm of rows that have seen what has this log-sum-exp."""
    norms = lse.new_empty((1, 3, *lse.shape))
    begin(norms, lse)
    return norms[0]


def merged(norms, sink):
    """Log-sum-exp and norm of a softmax in parts, (parts, 3, batch, heads, n_q), and a sink; weights of the parts."""
    if sink is not None:
        last = torch.empty_like(norms[:1])
        begin(last, sink)
        norms = torch.cat([norms, last])
    tops, sums, largest = norms.unbind(1)
    top = tops.amax(0)
    shares = torch.exp2((tops - top.nan_to_num(neginf=0.0)) * UNIT.value + sums)
    total = shares.sum(0)
    total = torch.where(total > 0, total, 1.0)
    norm = torch.stack([top, total.log2(), largest.amax(0)])
    weights = shares / total
    return (norm[0] * UNIT.value + norm[1]) * LN2.value, norm, weights if sink is None else weights[:-1]


def backward(q, k, v, scale, given, out, lse, norm, parts, dout, dlse, wanted=(), precision="ieee", sums=None):
    """Gradients of q, k, v, of the sink (None without one), and of float inputs by name (those that are ``wanted``).

    ``out``, ``lse``, ``norm`` and ``parts`` are what ``forward`` returned, ``dout`` and ``dlse`` (or None) the
    gradients of the first two. Without ``norm`` the weights are relative to ``lse``. ``sums`` are gradients of q, k and
    v, float32, to add to: these change in place, which takes kernels that CARRY.
    """
    q, k, v, dout = rows_of(q, k, v, dout)
    batch, heads, n_q = q.shape[:3]
    own = parts if BRANCHES else out[None]
    norm = begin_of(lse) if norm is None else norm.contiguous()
    delta = norm.new_empty((own.shape[0], *norm.shape[1:]))
    dlse = None if dlse is None else dlse.float().contiguous()
    for branch in range(own.shape[0]):
        part = own[branch]
        if delta.numel():
            width = max(16, triton.next_power_of_2(v.shape[3]))
            prepare[(triton.cdiv(n_q, 16) * batch * heads,)](
                part, dout, dlse, delta[branch], *part.stride(), *dout.stride(), n_q, heads,
                DIM=v.shape[3], WIDTH=width, ROWS=16, enable_fp_fusion=True,
            )  # fmt: skip
    if sums is not None:
        dq, dk, dv = sums
    else:
        dq = torch.zeros(q.shape, dtype=torch.float32, device=q.device) if CARRY else q.new_empty(q.shape)
        slots = given["order"].shape[2] if REPEATS else 0
        dk, dv = (
            torch.zeros((batch, heads, slots, t.shape[3]) if REPEATS else t.shape, dtype=torch.float32, device=q.device)
            if ADDS
            else torch.empty(t.shape, dtype=t.dtype, device=q.device)
            for t in (k, v)
        )
    gradients = {name: torch.zeros(given[name].shape, dtype=torch.float32, device=q.device) for name in wanted}
    if q.numel() and k.numel():
        launch_queries(q, k, v, dout, norm, delta, dq, scale, given, gradients, precision)
        launch_keys(q, k, v, dout, norm, delta, dk, dv, scale, given, precision)
    elif sums is None:
        dq.zero_(), dk.zero_(), dv.zero_()
    if REPEATS:
        dk, dv = (by_position(t, given["order"], k.shape) for t in (dk, dv))
    dsink = None
    if given.get("sink") is not None:  # a sink is a key without a value: dS = P (0 - delta)
        share = torch.exp(by_row(given["sink"]) - lse)
        own_delta = (dout.float() * out.float()).sum(-1) * (0.0 if BRANCHES else 1.0)
        dsink = -(share * (own_delta if dlse is None else own_delta - dlse))
        if given["sink"].dim() == 2:  # the same for all rows
            dsink = dsink.sum(-1)
    if sums is None:
        dq, dk, dv = dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
    return dq, dk, dv, dsink, gradients


def by_row(sink):
    """A sink with a dimension of rows, (batch, heads, n_q or 1); None where there is none."""
    return sink if sink is None or sink.dim() == 3 else sink[..., None]


def by_position(t, order, shape):
    """Gradients of keys (batch, kv_heads, n, dim) from those of the slots of a computed order, summed in one order."""
    batch, heads, slots, dim = t.shape
    n, rounds = shape[2], slots // max(1, shape[2])
    total = t.new_zeros((batch, heads, n, dim))
    for part in range(rounds):
        rows = slice(part * n, part * n + n)
        place = torch.argsort(order[:, :, rows].long(), dim=-1)
        total += torch.gather(t[:, :, rows], 2, place[..., None].expand(batch, heads, n, dim))
    return total.view(batch, shape[1], heads // shape[1], n, dim).sum(2)


@functools.cache
def head_list(heads, device):
    """The heads of a class."""
    return torch.tensor(heads, dtype=torch.int32, device=device)


def held_of(heads, first, count):
    """Those of the heads that a part holds."""
    return tuple(head for head in heads if first <= head < first + count)


@functools.cache
def head_groups(heads, group, device, first):
    """The heads of a class by the keys that they share: lists of heads, and how many in each share theirs.

    ``first`` is the first head of the call.
    """
    by_key = {}
    for head in heads:
        by_key.setdefault((head - first) // group, []).append(head)
    sizes = sorted({len(own) for own in by_key.values()})
    rows = {size: [head for own in by_key.values() if len(own) == size for head in own] for size in sizes}
    return [(head_list(tuple(own), device), size) for size, own in rows.items()]
