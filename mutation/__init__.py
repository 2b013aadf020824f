"""Do the tests see a small fault in the core? Run it with `python -m mutation`.

`mutants` makes the faults, `plan` names the tests that should see them and the faults
that nothing could see, `trial` runs the tests on one fault, `report` prints the result.
"""
