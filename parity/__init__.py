"""The parity suite: compares this package with PyTorch. Run `python -m parity`.

cases: the catalog of inputs.
oracle: exact results in float64, and bounds on rounding errors.
torch_reference, torch_networks, training_torch: the PyTorch side.
upstream: released PyTorch implementations.
ours, training_jax, faults: this package, and faults put into it.
values, devices, ddp, experiments, reproducibility: the sections.
training, roundings, comparison: how training runs are compared.
checks, suite, report, picture: verdicts, and how they are run and shown.
"""
