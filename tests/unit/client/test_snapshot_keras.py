"""Keras models; here Keras runs on PyTorch, so that each of them is a module of PyTorch too."""

import hashlib
import json
import os
import stat
import zipfile

import numpy as np
import pytest

from seclea.client.snapshot import safetensors
from seclea.client.snapshot.application import application_type
from seclea.client.snapshot.models import describe_model, snapshot_model
from seclea.client.snapshot.parameters import CUT, MAX_BYTES
from seclea.entities import to_json_value
from seclea.errors import UnknownModelError

pytestmark = [
    pytest.mark.torch,
    # Keras 3.15 asks numpy 2 for an array of a torch parameter in a way that numpy warns of.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
]

X = np.linspace(-1, 1, 24, dtype="float32").reshape(6, 4)


@pytest.fixture(scope="module")
def keras(tmp_path_factory):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        patch.setenv("KERAS_HOME", os.fspath(tmp_path_factory.mktemp("keras")))  # it writes a settings file there
        return pytest.importorskip("keras", reason="Keras is not installed")


@pytest.fixture(scope="module")
def net(keras):
    class Net(keras.Model):
        """A user's subclass."""

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.body = keras.layers.Dense(5, activation="relu")
            self.head = keras.layers.Dense(3, activation="softmax")

        def call(self, x):
            return self.head(self.body(x))

    return Net


def sequential(keras, units, activation, loss):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(units, activation=activation)]
    )
    if loss is not None:
        model.compile(keras.optimizers.Adam(0.01), loss=loss)
        model.optimizer.build(model.trainable_variables)  # as its first step does
    return model


def two_heads(keras, losses, loss_type=list):
    inside = keras.Input((4,))
    one = keras.layers.Dense(1, activation="sigmoid", name="one")(inside)
    two = keras.layers.Dense(3, name="two")(inside)
    model = keras.Model(inside, [one, two])
    model.compile("sgd", loss=dict(zip(("one", "two"), losses, strict=True)) if loss_type is dict else losses)
    return model


def own_loss(truth, predicted):
    return (truth - predicted) ** 2


KINDS = {
    "binary": (lambda k: sequential(k, 1, "sigmoid", "binary_crossentropy"), "binary"),
    "binary of two": (lambda k: sequential(k, 2, "softmax", "sparse_categorical_crossentropy"), "binary"),
    "binary by a loss object": (
        lambda k: sequential(k, 1, None, k.losses.BinaryCrossentropy(from_logits=True)),
        "binary",
    ),
    "multiclass": (lambda k: sequential(k, 3, "softmax", "categorical_crossentropy"), "multiclass"),
    "multiclass by a function": (
        lambda k: sequential(k, 3, "softmax", k.losses.sparse_categorical_crossentropy),
        "multiclass",
    ),
    "multilabel": (lambda k: sequential(k, 3, "sigmoid", "binary_crossentropy"), "multilabel"),
    "regression": (lambda k: sequential(k, 1, None, "mse"), "regression"),
    "regression of two": (lambda k: sequential(k, 2, None, k.losses.Huber()), "multioutput_regression"),
    "not compiled": (lambda k: sequential(k, 3, "softmax", None), "multiclass"),
    "neither": (lambda k: sequential(k, 1, None, None), "unknown"),
    "own loss": (lambda k: sequential(k, 1, "sigmoid", own_loss), "binary"),
    "multioutput": (lambda k: two_heads(k, ["bce", "mse"]), "multioutput"),
    "multioutput by names": (lambda k: two_heads(k, ["bce", "mse"], dict), "multioutput"),
    "multioutput regression": (lambda k: two_heads(k, ["mse", "mae"]), "multioutput_regression"),
}


@pytest.mark.parametrize("row", KINDS)
def test_every_kind_of_model_is_described_and_stored_so_that_keras_reads_it(tmp_path, keras, row):
    make, application = KINDS[row]
    model = make(keras)
    name = type(model).__name__
    described = describe_model(model)
    assert (described.name, described.framework, described.framework_version) == (name, "keras", keras.__version__)
    assert application_type(model) == application
    assert described.params["layers"][-1]["class"] == "Dense"
    assert described.params["parameters"] == model.count_params()

    snapshot = snapshot_model(model, tmp_path)
    assert (snapshot.format, snapshot.framework, snapshot.model_name) == ("keras", "keras", name)
    assert snapshot.metadata["backend"] == "torch" and "opaque" not in snapshot.metadata
    assert list(tmp_path.iterdir()) == [snapshot.path]
    assert stat.S_IMODE(snapshot.path.stat().st_mode) == 0o600
    raw = snapshot.path.read_bytes()
    assert (snapshot.size, snapshot.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    with zipfile.ZipFile(snapshot.path) as archive:
        assert set(archive.namelist()) == {"metadata.json", "config.json", "model.weights.h5"}
    loaded = keras.saving.load_model(snapshot.path, custom_objects={"own_loss": own_loss})
    for one, other in zip(as_list(loaded.predict(X, verbose=0)), as_list(model.predict(X, verbose=0)), strict=True):
        assert np.array_equal(one, other)


def as_list(outputs):
    return outputs if isinstance(outputs, list) else [outputs]


def test_parameters_are_layers_optimizer_and_losses(keras):
    model = keras.Sequential(
        [
            keras.Input((8, 4)),
            keras.layers.Conv1D(3, 2, padding="same", activation=own_loss),
            keras.layers.Bidirectional(keras.layers.LSTM(2)),
            keras.Sequential([keras.layers.Dense(2, trainable=False)]),
        ]
    )
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model.compile(keras.optimizers.SGD(schedule, momentum=0.9), loss=[keras.losses.MeanSquaredError()])
    params = describe_model(model).params
    convolution, recurrent, inner = params["layers"]
    assert convolution["class"] == "Conv1D" and convolution["activation"] == "own_loss"
    assert (convolution["filters"], convolution["kernel_size"], convolution["padding"]) == (3, [2], "same")
    assert recurrent["class"] == "Bidirectional" and recurrent["layer"]["class"] == "LSTM"
    assert recurrent["layer"]["units"] == 2
    assert inner["layers"][0]["units"] == 2 and inner["layers"][0]["trainable"] is False
    assert params["trainable_parameters"] < params["parameters"]
    assert params["loss"] == ["MeanSquaredError"]
    optimizer = params["optimizer"]
    assert (optimizer["class"], optimizer["momentum"]) == ("SGD", 0.9)
    assert optimizer["learning_rate"]["class"] == "ExponentialDecay"
    assert optimizer["learning_rate"]["initial_learning_rate"] == 0.1
    assert describe_model(sequential(keras, 1, None, own_loss)).params["loss"] == f"{__name__}.own_loss"


def test_the_parameters_of_a_large_model_are_cut(keras):
    layers = [keras.layers.Dropout(0.1, name=f"dropout_{'x' * 900}_{number}") for number in range(300)]
    params = describe_model(keras.Sequential(layers)).params
    assert len(json.dumps(to_json_value(params))) <= MAX_BYTES
    assert params["layers"][0]["rate"] == 0.1
    assert params[CUT] == {"layers": f"{300 - len(params['layers'])} of 300 left out"}


def test_a_subclass_has_its_own_name_and_is_not_taken_for_a_module_of_pytorch(tmp_path, keras, net):
    import torch

    model = net()
    model(X)
    model.compile("sgd", "sparse_categorical_crossentropy")
    assert isinstance(model, torch.nn.Module)
    described = describe_model(model)
    assert (described.name, described.framework) == ("Net", "keras")
    assert [layer["units"] for layer in described.params["layers"]] == [5, 3]
    assert application_type(model) == "multiclass"
    snapshot = snapshot_model(model, tmp_path)
    loaded = keras.saving.load_model(snapshot.path, custom_objects={"Net": net})
    assert np.array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))


def test_the_save_of_a_subclass_is_not_called(tmp_path, keras, net):
    class Careful(net):
        def save(self, *args, **kwargs):
            raise AssertionError

    model = Careful()
    model(X)
    assert snapshot_model(model, tmp_path).model_name == "Careful"


def refused(model, directory) -> str:
    with pytest.raises(UnknownModelError) as caught:
        snapshot_model(model, directory)
    assert not directory.exists() or not list(directory.iterdir())
    return str(caught.value)


def test_a_model_that_is_not_built_is_refused_but_described(tmp_path, keras, net):
    for model in (net(), keras.Sequential([keras.layers.Dense(2)])):
        assert "is not built: it has no weights yet. Call it on data" in refused(model, tmp_path)
        assert "parameters" not in describe_model(model).params
    assert "Net is a class, not a model." in refused(net, tmp_path)


def test_what_keras_cannot_write_down_is_refused_and_its_weights_are_the_way_out(tmp_path, keras, net):
    class Odd(net):
        def __init__(self, thing):
            super().__init__()
            self.thing = thing

    model = Odd(object())
    model(X)
    text = refused(model, tmp_path)
    assert "Odd cannot be saved by Keras: NotImplementedError: " in text
    assert "record its weights: model.weights" in text and "\n" not in text and len(text) < 600

    snapshot = snapshot_model(model.weights, tmp_path)
    assert (snapshot.format, snapshot.framework, snapshot.model_name) == ("safetensors", "keras", "weights")
    assert snapshot.metadata["tensors"] == len(model.weights) == 4
    with open(snapshot.path, "rb") as file:
        _, tensors = safetensors.read_header(file)
        data = file.read()
    for variable in model.weights:
        begin, end = tensors[variable.path]["data_offsets"]
        stored = np.frombuffer(data[begin:end], "<f4").reshape(tensors[variable.path]["shape"])
        assert np.array_equal(stored, keras.ops.convert_to_numpy(variable))


def test_variables_of_one_path_are_both_kept(tmp_path, keras):
    one, other = (keras.Variable(np.full(2, value, "float32"), name="same") for value in (1, 2))
    half = keras.Variable(np.ones(3), dtype="bfloat16", name="half")
    snapshot = snapshot_model([one, other, half], tmp_path)
    with open(snapshot.path, "rb") as file:
        _, tensors = safetensors.read_header(file)
    assert set(tensors) == {"same", "same#2", "half"} and tensors["half"]["dtype"] == "BF16"


def test_a_full_disk_is_no_fault_of_the_model_and_nothing_is_left(tmp_path, keras, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(28, "No space left on device")

    model = sequential(keras, 1, None, "mse")
    monkeypatch.setattr(zipfile.ZipFile, "open", full)
    with pytest.raises(OSError, match="No space left") as caught:
        snapshot_model(model, tmp_path)
    assert not isinstance(caught.value, UnknownModelError)
    assert not list(tmp_path.iterdir())
