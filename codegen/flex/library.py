"""What exported files have in common: functions of which each stands in a file that calls it, in this order."""

from __future__ import annotations

FUNCTIONS = {
    "_check": '''\
def _check(name, tensor, shape):
    """Refuse an input that has another shape; None is any size."""
    if tensor.dim() != len(shape) or any(s not in (None, t) for s, t in zip(shape, tensor.shape)):
        raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, not {shape}")
''',
    "_check_sorted": '''\
def _check_sorted(name, tensor):
    """Refuse what decreases along the last dimension: which blocks there are is read off its ends."""
    if (tensor[..., 1:] < tensor[..., :-1]).any():
        raise ValueError(f"{name} must not decrease along its last dimension")
''',
    "_check_offsets": '''\
def _check_offsets(name, tensor, n):
    """Refuse offsets that do not begin at 0, end at n, or that decrease."""
    if (tensor[..., 0] != 0).any() or (tensor[..., -1] != n).any():
        raise ValueError(f"{name} must begin with offset 0 and end with offset {n}")
    if (tensor[..., 1:] < tensor[..., :-1]).any():
        raise ValueError(f"{name} holds offsets that decrease")
''',
    "_check_positive": '''\
def _check_positive(name, value):
    """Refuse a divisor that is none."""
    if (value < 1).any():
        raise ValueError(f"{name} is a divisor: it must be positive")
''',
    "_documents": '''\
def _documents(offsets, n):
    """The number of the document at each of n positions, from the offsets at which documents begin, and n."""
    at = torch.arange(n, dtype=offsets.dtype, device=offsets.device)
    at = at.expand(*offsets.shape[:-1], n).contiguous()
    return torch.searchsorted(offsets[..., 1:].contiguous(), at, right=True)
''',
    "_first": '''\
def _first(doc):
    """The first position of the run of equal values that each position is in."""
    doc = doc.contiguous()
    return torch.searchsorted(doc, doc)
''',
    "_last": '''\
def _last(doc):
    """The last position of the run of equal values that each position is in."""
    doc = doc.contiguous()
    return torch.searchsorted(doc, doc, right=True) - 1
''',
    "_flags": '''\
def _flags(lists):
    """Which values stand in each list, (.., values); negative ones match nothing."""
    lists = lists.long()
    most = max(1, int(lists.max()) + 1 if lists.numel() else 0)
    flags = torch.zeros(*lists.shape[:-1], most + 1, dtype=torch.bool, device=lists.device)
    flags.scatter_(-1, torch.where(lists < 0, most, lists), True)
    return flags[..., :-1].contiguous()
''',
    "_alibi_slopes": '''\
def _alibi_slopes(heads, device):
    """The slope of each head in ALiBi (Press et al., 2022)."""
    whole = 2 ** (heads.bit_length() - 1)
    slopes = [2.0 ** (-8.0 * (h + 1) / whole) for h in range(whole)]
    slopes += [2.0 ** (-4.0 * (h + 1) / whole) for h in range(0, 2 * whole, 2)][: heads - whole]
    return torch.tensor(slopes, device=device)
''',
}

BLOCK_MASK = '''\
def _block_mask(touched, full, batch, heads, n_q, n, mask_mod, device):
    """The block mask of blocks that hold a pair; those that hold nothing else are not masked."""
    rows, columns = BLOCK_SIZE
    i = torch.arange(-(-n_q // rows), device=device).view(1, 1, -1, 1)
    j = torch.arange(-(-n // columns), device=device).view(1, 1, 1, -1)
    whole = ((i + 1) * rows <= n_q) & ((j + 1) * columns <= n)
    whole = whole.expand(batch, heads, -1, -1)
    full = whole & full
    partial = ~full & touched
    found = [order for dense in (partial, full, partial.mT, full.mT) for order in _in_order(dense)]
    return BlockMask((n_q, n), *found, BLOCK_SIZE=BLOCK_SIZE, mask_mod=mask_mod)


def _in_order(dense):
    """How many blocks each row of blocks has, and which."""
    counts = dense.sum(-1, dtype=torch.int32)
    row, column = dense.flatten(0, -2).nonzero(as_tuple=True)
    starts = counts.flatten().cumsum(0) - counts.flatten()
    indices = torch.zeros(dense.shape, dtype=torch.int32, device=dense.device)
    indices.flatten(0, -2)[row, torch.arange(len(row), device=row.device) - starts[row]] = column.int()
    return counts, indices
'''
