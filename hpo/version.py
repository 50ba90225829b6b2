"""The version that is installed, of the distribution hpo-images: `hpo` in the public registry is another project."""

from importlib.metadata import version

VERSION = version("hpo-images")
