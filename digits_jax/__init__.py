"""Train many small networks at once, in one vmapped, jitted JAX program.

The public names are those of ``__init__.pyi``, each loaded at its first use (the Scientific Python
project's SPEC 1): who imports the package to read data or plot waits for neither optax nor Orbax.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
