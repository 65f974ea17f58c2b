"""A small MLP on images of 28 x 28 with a Keras callback, and a limit on the validation accuracy.

KERAS_BACKEND=torch python examples/keras_mlp.py [--epochs 20] [--fault accuracy]

The images are made here: ten classes of blobs. With `--fault accuracy` the labels of the training data are
shuffled, the validation accuracy stays near 0.1, and TrainingAccuracyBelowLimit fires.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

import keras
import numpy as np

from trainbeacon.integrations.keras import TrainBeaconCallback

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=20)
parser.add_argument("--fault", choices=["accuracy"])
arguments = parser.parse_args()

keras.utils.set_random_seed(0)
made = np.random.default_rng(0)
centres = made.normal(size=(10, 28 * 28)).astype("float32")
labels = made.integers(0, 10, size=6_000)
images = centres[labels] + made.normal(scale=4.0, size=(6_000, 28 * 28)).astype("float32")
targets = labels.copy()
if arguments.fault == "accuracy":
    made.shuffle(targets[:5_000])

model = keras.Sequential(
    [
        keras.Input((28 * 28,)),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10),
    ]
)
model.compile(
    optimizer=keras.optimizers.Adam(1e-3),
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
)
model.fit(
    images[:5_000],
    targets[:5_000],
    batch_size=64,
    epochs=arguments.epochs,
    validation_data=(images[5_000:], labels[5_000:]),
    verbose=2,
    callbacks=[TrainBeaconCallback(run="keras-mlp", host="127.0.0.1", thresholds={"accuracy_min": 0.8})],
)
