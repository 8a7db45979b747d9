"""What happens to tensors before a kernel: inputs checked and derived, orders sorted, vectors rotated."""
