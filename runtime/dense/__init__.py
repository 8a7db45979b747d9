"""Dense attention in plain PyTorch: the definition that kernels are compared with."""
