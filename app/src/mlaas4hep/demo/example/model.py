"""A small Keras classifier: the example of the five files."""

import keras
from keras.layers import Dense, Dropout


def model(idim):
    """Return a compiled network for ``idim`` columns."""
    network = keras.Sequential(
        [
            keras.Input((idim,), name="inputs"),
            Dense(128, activation="relu"),
            Dropout(0.2),
            Dense(64, activation="relu"),
            Dropout(0.2),
            Dense(1, activation="sigmoid"),
        ]
    )
    network.compile(
        optimizer=keras.optimizers.Adam(learning_rate=3e-3),
        loss="binary_crossentropy",
        metrics=[keras.metrics.AUC(name="auc")],
    )
    return network
