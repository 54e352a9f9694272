"""What is computed from scores: summaries with intervals, and tests of two methods on equal splits.

Scores of cross-validation are not independent, because their training sets overlap. The variance of
their mean is therefore taken as (1/J + n_test/n_train) s^2 instead of s^2/J, for J scores of sample
variance s^2: the correction of Nadeau and Bengio (2003), which Bouckaert and Frank (2004) recommend
for repeated cross-validation, with J = folds * repeats.

Scores that are all equal are no certainty: a spread of zero estimates nothing, so that neither an
interval nor a test rests on it.

References:
    Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52:239-281.
    Bouckaert and Frank (2004), Evaluating the Replicability of Significance Tests for Comparing
    Learning Algorithms, PAKDD 2004, LNCS 3056:3-12.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
