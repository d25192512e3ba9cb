"""Everything that needs a CUDA device, in one run: python -m benchmarks.gpu."""
