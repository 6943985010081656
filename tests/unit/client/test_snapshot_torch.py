import hashlib
import io
import json
import random

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from seclea.client.snapshot import safetensors  # noqa: E402
from seclea.client.snapshot.application import application_type  # noqa: E402
from seclea.client.snapshot.models import describe_model, snapshot_model  # noqa: E402
from seclea.client.snapshot.parameters import CUT  # noqa: E402
from seclea.client.snapshot.torch_state import STRUCTURE, TIED  # noqa: E402
from seclea.entities import from_json_value  # noqa: E402
from seclea.errors import UnknownModelError, UsageError  # noqa: E402

pytestmark = pytest.mark.torch


def header(path):
    with open(path, "rb") as file:
        return safetensors.read_header(file)


def read_back(path):
    """The state as it was, by the file alone: tensors from the reference reader, the tree from the metadata."""
    tensors = safetensors_torch.load_file(path)
    metadata, _ = header(path)
    for name, kept in json.loads(metadata.get(TIED, "{}")).items():
        tensors[name] = tensors[kept]
    return rebuilt(json.loads(metadata[STRUCTURE]), tensors) if STRUCTURE in metadata else tensors


def rebuilt(node, tensors):
    if isinstance(node, list):
        return [rebuilt(item, tensors) for item in node]
    if not isinstance(node, dict):
        return node
    if set(node) == {"__tensor__"}:
        return tensors[node["__tensor__"]]
    if set(node) == {"__tuple__"}:
        return tuple(rebuilt(item, tensors) for item in node["__tuple__"])
    if set(node) == {"__items__"}:
        return {rebuilt(key, tensors): rebuilt(item, tensors) for key, item in node["__items__"]}
    if len(node) == 1 and next(iter(node)).startswith("__"):
        return from_json_value(node)
    return {key: rebuilt(item, tensors) for key, item in node.items()}


def same_bits(one, other) -> bool:
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and one.shape == other.shape
        return bytes(one.contiguous().view(-1).view(torch.uint8).tolist()) == bytes(
            other.contiguous().view(-1).view(torch.uint8).tolist()
        )
    if isinstance(one, dict):
        return list(one) == list(other) and all(same_bits(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(same_bits(a, b) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and (one == other or one != one)


def refused(model, directory) -> str:
    with pytest.raises(UnknownModelError) as caught:
        snapshot_model(model, directory)
    assert not list(directory.iterdir())
    return str(caught.value)


NAMES = (
    *("bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16"),
    *("float32", "float64", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
)
DTYPES = [name for name in NAMES if hasattr(torch, name)]


def of_dtype(name):
    raw = torch.tensor(list(range(2 if name == "bool" else 64)) * (32 if name == "bool" else 1), dtype=torch.uint8)
    return raw.view(getattr(torch, name))


@pytest.mark.parametrize("name", DTYPES)
def test_every_type_that_the_format_names_is_kept_bit_for_bit(tmp_path, name):
    state = {"w": of_dtype(name)}
    path = snapshot_model(state, tmp_path).path
    loaded = safetensors_torch.load_file(path)["w"]
    assert loaded.dtype == state["w"].dtype
    assert torch.equal(loaded.view(torch.uint8), state["w"].view(torch.uint8))
    theirs = tmp_path / "theirs"
    safetensors_torch.save_file(state, theirs)
    assert header(path)[1] == header(theirs)[1]


@pytest.mark.skipif(not hasattr(torch, "float8_e8m0fnu"), reason="this PyTorch has no float8_e8m0fnu")
def test_scales_of_eight_bits_are_kept_though_the_reference_reader_has_no_torch_type_for_them(tmp_path):
    from safetensors import safe_open

    path = snapshot_model({"s": of_dtype("float8_e8m0fnu")}, tmp_path).path
    assert header(path)[1]["s"]["dtype"] == "F8_E8M0"
    with safe_open(path, framework="numpy") as file:
        assert list(file.keys()) == ["s"]
    assert path.read_bytes()[-64:] == bytes(range(64))


def test_a_module_is_its_state_dict(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    snapshot = snapshot_model(model, tmp_path)
    raw = snapshot.path.read_bytes()
    assert (snapshot.format, snapshot.framework, snapshot.model_name) == ("safetensors", "pytorch", "Sequential")
    assert (snapshot.size, snapshot.sha256) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert snapshot.metadata["tensors"] == 7
    loaded = safetensors_torch.load_file(snapshot.path)
    fresh = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    fresh.load_state_dict(loaded)
    assert all(torch.equal(a, b) for a, b in zip(fresh.state_dict().values(), model.state_dict().values(), strict=True))
    metadata, tensors = header(snapshot.path)
    assert metadata == {"format": "pt"}
    data_begins = len(raw) - max(info["data_offsets"][1] for info in tensors.values())
    assert data_begins % 8 == 0 and all(info["data_offsets"][0] % 4 == 0 for info in tensors.values())


def test_the_same_state_gives_the_same_file(tmp_path):
    model = torch.nn.Linear(4, 3)
    backwards = dict(reversed(model.state_dict().items()))
    assert snapshot_model(model, tmp_path).sha256 == snapshot_model(backwards, tmp_path).sha256


class OptimizedModule(torch.nn.Module):
    """What torch.compile returns; the true one takes ten seconds to import."""

    __module__ = "torch._dynamo.eval_frame"


def test_wrappers_give_the_users_own_model(tmp_path):
    inner = torch.nn.Linear(2, 2)
    assert snapshot_model(torch.nn.DataParallel(inner), tmp_path).model_name == "Linear"
    compiled = OptimizedModule()
    compiled._orig_mod = inner
    assert snapshot_model(compiled, tmp_path).sha256 == snapshot_model(inner, tmp_path).sha256


def test_tied_tensors_are_stored_once_and_listed(tmp_path):
    model = torch.nn.ModuleDict({"embed": torch.nn.Embedding(10, 4), "head": torch.nn.Linear(4, 10, bias=False)})
    model["head"].weight = model["embed"].weight
    snapshot = snapshot_model(model, tmp_path)
    metadata, tensors = header(snapshot.path)
    assert list(tensors) == ["embed.weight"]
    assert json.loads(metadata[TIED]) == {"head.weight": "embed.weight"}
    safetensors_torch.load_model(model, snapshot.path)
    assert set(read_back(snapshot.path)) == {"embed.weight", "head.weight"}


def test_views_are_stored_in_full_whatever_their_strides(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "base": base, "turned": base.T, "columns": base[:, ::2], "part": base[1:3], "expanded": torch.ones(1).expand(3, 5),
        "empty": torch.zeros(0, 3), "scalar": torch.tensor(7), "conjugated": torch.view_as_complex(base.reshape(-1, 2)).conj(),
        "negated": torch._neg_view(base), "needs_grad": torch.ones(2, requires_grad=True),
    }  # fmt: skip
    path = snapshot_model(state, tmp_path).path
    loaded = safetensors_torch.load_file(path)
    assert set(loaded) == set(state)
    for name, tensor in state.items():
        assert torch.equal(loaded[name], tensor.detach()), name


def test_an_optimizer_state_is_kept_with_its_numbers_and_tuples(tmp_path):
    model = torch.nn.Linear(3, 2)
    # As AdamW.state_dict() gives it; a true optimizer imports the compiler, which takes seconds.
    moments = {"step": torch.tensor(1.0), "exp_avg": torch.randn(2, 3), "exp_avg_sq": torch.rand(2, 3)}
    group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-08, "amsgrad": False, "foreach": None, "params": [0, 1]}
    optimizer = {"state": {0: moments}, "param_groups": [group]}
    checkpoint = {
        "model": dict(model.state_dict()), "optimizer": optimizer, "epoch": 3, "best": float("inf"),
        "note": None, "name": "é", "history": [0.5, float("nan")], "flags": {1: True, "1": False}, "raw": b"\0\xff",
        "__tensor__": 5, "model.weight": torch.ones(1), "shape": torch.Size([2, 3]),
    }  # fmt: skip
    loaded = read_back(snapshot_model(checkpoint, tmp_path).path)
    checkpoint["shape"] = (2, 3)
    assert same_bits(checkpoint, loaded)


def test_random_states_come_back_bit_for_bit(tmp_path):
    rng = random.Random(0)

    def tree(depth):
        kind = rng.randrange(6 if depth < 3 else 3)
        if kind <= 1:
            return torch.randn([rng.randrange(4) for _ in range(rng.randrange(3))]).to(
                getattr(torch, rng.choice(DTYPES[7:14]))
            )
        if kind == 2:
            return rng.choice([None, 1, 0.1, "x", True, float("inf")])
        if kind == 3:
            return {rng.choice(["a", "b", 1, (2, "c"), "__d__"]): tree(depth + 1) for _ in range(3)}
        return (list if kind == 4 else tuple)(tree(depth + 1) for _ in range(rng.randrange(3)))

    for _ in range(50):
        state = {"epoch": 1, "first": torch.ones(1), "rest": tree(0)}
        assert same_bits(state, read_back(snapshot_model(state, tmp_path).path))


def test_what_changes_after_the_call_is_not_in_the_file(tmp_path):
    model = torch.nn.Linear(2, 2)
    before = model.weight.detach().clone()
    path = snapshot_model(model, tmp_path).path
    with torch.no_grad():
        model.weight.zero_()
    assert torch.equal(safetensors_torch.load_file(path)["weight"], before)


def on_meta():
    with torch.device("meta"):
        return torch.nn.Linear(2, 2)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (on_meta, "Tensor 'weight' is on the meta device"),
        (lambda: {"a": {"b": torch.eye(2).to_sparse()}}, "Tensor 'a.b' is sparse (torch.sparse_coo)"),
        (lambda: {"q": torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)}, "Tensor 'q' is quantised"),
        (lambda: {"z": torch.ones(1, dtype=torch.complex128)}, "Tensor 'z' is torch.complex128"),
        (lambda: {"w": torch.ones(1), "x": {"y": object()}}, "The state holds a builtins.object at 'x.y'"),
        (lambda: {"w": torch.ones(1), "d": torch.float32}, "holds a torch.dtype at 'd'"),
        (lambda: {"w": torch.ones(1), "f": len}, "at 'f'"),
    ],
)
def test_tensors_and_values_that_cannot_be_kept_are_named(tmp_path, make, words):
    assert words in refused(make(), tmp_path)


def test_a_state_that_is_part_of_itself_is_refused(tmp_path):
    state = {"w": torch.ones(1)}
    state["self"] = state
    assert "nested deeper than 64 levels" in refused(state, tmp_path)


def test_a_subclass_without_data_of_its_own_is_refused(tmp_path):
    class Gathered(torch.Tensor):
        def __tensor_flatten__(self):
            return [], None

    assert "Tensor 'w' is a test_a_subclass" in refused({"w": torch.ones(1).as_subclass(Gathered)}, tmp_path)


def test_the_format_refuses_names_that_are_its_own():
    info = safetensors.TensorInfo("__metadata__", "U8", (0,), bytes)
    with pytest.raises(UsageError, match="cannot be used for a tensor"):
        safetensors.write(io.BytesIO(), [info], {})


def test_a_tensor_that_shrinks_while_it_is_written_is_an_error(tmp_path):
    with open(tmp_path / "f", "wb") as file, pytest.raises(ValueError, match="tensor w has 1 bytes, not 2"):
        safetensors.write(file, [safetensors.TensorInfo("w", "U8", (2,), lambda: b"1")], {})


class Net(torch.nn.Module):
    """A user's subclass."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(60)))
        self.head = torch.nn.Linear(2, 1)
        self.head.bias.requires_grad = False


def test_a_module_is_described_by_its_class_and_size(tmp_path):
    described = describe_model(torch.nn.DataParallel(Net()))
    assert (described.name, described.framework) == ("Net", "pytorch")
    assert described.framework_version == torch.__version__
    assert described.qualified_name == f"{__name__}.Net"
    assert described.params["parameters"] == 60 * 6 + 3
    assert described.params["trainable_parameters"] == 60 * 6 + 2
    assert described.params["modules"][:2] == ["body: Sequential", "body.0: Linear"]
    assert len(described.params["modules"]) == 50
    assert described.params[CUT] == {"modules": "12 more"}


def test_what_a_module_is_for_is_known_from_the_data_only():
    assert application_type(Net()) == "unknown"
    assert application_type(Net(), {"y": {"type": "classification", "classes": ["a", "b"]}}) == "binary"


def test_a_lazy_module_is_described_and_refused_until_its_first_call(tmp_path):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LazyLinear(4))
    assert describe_model(model).params["parameters"] == 8
    assert describe_model(model).params["uninitialized_parameters"] == 2
    assert "Tensor '1.weight' has no values yet: its module is lazy. Call the module on data" in refused(
        model, tmp_path
    )
    model(torch.ones(1, 3))
    assert snapshot_model(model, tmp_path).metadata["tensors"] == 4


def test_a_module_that_cannot_be_counted_is_described_all_the_same():
    class Odd(torch.nn.Module):
        def named_parameters(self, *args, **kwargs):
            raise RuntimeError("not today")

    assert describe_model(Odd()).params == {"unavailable": "RuntimeError: not today"}
