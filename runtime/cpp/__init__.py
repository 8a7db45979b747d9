"""C++ kernels on this processor: compiled, loaded, called."""
