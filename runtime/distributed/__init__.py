"""One sequence over many ranks: what each of them computes, sends and receives, on torch.distributed."""
