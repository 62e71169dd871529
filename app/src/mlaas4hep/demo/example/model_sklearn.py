"""The same job for scikit-learn: boosted decision trees instead of a network."""

from sklearn.ensemble import HistGradientBoostingClassifier


def model(idim):
    """Return a classifier; scikit-learn learns the number of columns from the data."""
    return HistGradientBoostingClassifier(max_iter=150, learning_rate=0.1)
