"""What this package costs, side by side with PyTorch and with the bare products.

`python -m benchmarks` measures and prints; the README here says how to read it.
"""
