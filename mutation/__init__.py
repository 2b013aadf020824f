"""Do the tests see a small fault in the core? Run it with `python -m mutation`.

`mutants` makes the faults, `plan` names the tests that should see them, and
`equivalent.txt` the faults that no test could see. `trial` runs the tests on one fault,
`report` prints the result.

mutmut and cosmic-ray start Python anew for every fault, which costs 10 s of imports
each: here all faults are forked from one process that has imported them.
"""
