"""Version of the installed package; a source tree that is not installed has none."""

from importlib.metadata import PackageNotFoundError, version


def read_version() -> str:
    try:
        return version("sana-serve")
    except PackageNotFoundError:
        return "0+source"


VERSION = read_version()
