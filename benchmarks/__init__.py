"""Benchmarks of this package beside PyTorch and the bare matrix products.

`python -m benchmarks` measures and prints. The README says how to read the results.
"""
