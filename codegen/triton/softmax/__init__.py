"""The bodies of Triton kernels of softmax attention: forward, dQ, dK and dV, and gradients of inputs."""
