"""Imports the job, without the packages that take long to import."""

import sys

import vicreg_jax.pretrain  # noqa: F401


def main():
    """Checks which modules were imported."""
    slow = {"orbax", "sklearn", "matplotlib"}
    assert not slow & set(sys.modules), slow & set(sys.modules)


if __name__ == "__main__":
    main()
