"""Which rows train, validate and test a run.

``stacked`` has the ``Split`` of many runs, ``folds`` makes those that the experiments need,
``splitters`` takes any splitter's rows, and ``validation`` takes validation rows out of the ones
that train.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
