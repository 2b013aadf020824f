"""The proof that this is PyTorch's VICReg: run it with `python -m parity`.

`cases` is the catalogue of inputs, `oracle` the exact results with the bounds on what
rounding may do to them, `torch_reference` and `upstream` the PyTorch side, `ours` and
`faults` this package's. A section each: `values`, `devices`, `ddp`, `training`,
`reproducibility`. `checks` is the verdict, `report` and `picture` show it.
"""
