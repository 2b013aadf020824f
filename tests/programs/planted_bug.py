"""The command `vicreg-pretrain` with a bug in it, called with the same flags."""

from vicreg_jax.pretrain import __main__, run


def planted(*_):
    raise ValueError("planted")


if __name__ == "__main__":
    run.load_datasets = planted
    __main__.main()
