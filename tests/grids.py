"""Which cases of a grid every run of the tests takes, and which only the slow one."""

import pytest


def thinned(cases, *, keep):
    """Returns `cases` for `parametrize`; those that are not in `keep` are slow.

    The kept ones hold the promise once, in each regime; the others make sure that it
    does not depend on the choice.
    """
    cases = list(cases)
    unknown = [case for case in keep if case not in cases]
    assert not unknown, unknown
    return [case if case in keep else _slow(case) for case in cases]


def _slow(case):
    values = case if isinstance(case, tuple) else (case,)
    return pytest.param(*values, marks=pytest.mark.slow)
