"""Errors for arguments with another project's name, which give the right name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypedDict, TypeVar

if TYPE_CHECKING:
    from jax.lax import PrecisionLike

    from vicreg_jax._types import AxisName

P = ParamSpec("P")
LossT = TypeVar("LossT")

# Names of one argument in different projects.
_SAME = (
    {"lambd", "lambda_param", "invariance_lambda"}
    | {"sim_loss_weight", "sim_coeff", "inv_coeff"},
    {"mu", "mu_param", "variance_mu", "var_loss_weight", "std_coeff", "var_coeff"},
    # `covariance_v` is pytorch-metric-learning's own spelling.
    {"nu", "nu_param", "covariance_v", "cov_loss_weight", "cov_coeff"},
    {"eps", "epsilon"},
)


class Options(TypedDict, total=False):
    """Keywords that every convention passes on."""

    axis_name: AxisName
    precision: PrecisionLike


class LocalOptions(Options, total=False):
    """Keywords that a convention of the local loss may pass on."""

    global_views: int


_OPTIONS = tuple(Options.__annotations__)
_LOCAL_OPTIONS = tuple(LocalOptions.__annotations__)  # with those of `Options`


def names_the_right_argument(function: Callable[P, LossT]) -> Callable[P, LossT]:
    """Adds the name that the project has to the TypeError about an argument."""
    known = [
        parameter.name
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is not parameter.VAR_KEYWORD
    ]

    @wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> LossT:
        # A convention takes any keyword as an option. A wrong one reaches `VICRegLoss`,
        # whose error would be about this package's names.
        try:
            return function(*args, **kwargs)
        except TypeError as error:
            unknown = [k for k in kwargs if k not in (*known, *_LOCAL_OPTIONS)]
            # Then the error is about something else.
            if not unknown:
                raise
            instead = _instead(unknown[0], known)
            raise TypeError(
                f"{function.__name__}() has no argument {unknown[0]!r}; {instead}"
            ) from error

    return checked


def _instead(name: str, known: list[str]) -> str:
    for names in _SAME:
        for other in known:
            if {name, other} <= names:
                return f"this project calls it {other!r}"
    return f"its arguments are {', '.join([*known, *_OPTIONS])}"
