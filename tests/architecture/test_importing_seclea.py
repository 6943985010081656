"""`import seclea` is cheap: it loads nothing that it might not need."""

import subprocess
import sys

import pytest

import seclea

HEAVY = ["requests", "urllib3", "psutil", "filelock", "backoff", "numpy", "pandas", "torch"]


def modules_loaded_by(code: str) -> set[str]:
    """The names in `sys.modules` of a fresh interpreter after `code`."""
    script = f"{code}\nimport sys; print('\\n'.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(ran.stdout.split())


def test_importing_seclea_loads_no_heavy_package() -> None:
    assert modules_loaded_by("import seclea").isdisjoint(HEAVY)


def test_importing_seclea_loads_no_module_of_its_own_besides_itself() -> None:
    # The top is lazy: only what a later access names is imported.
    assert {name for name in modules_loaded_by("import seclea") if name.startswith("seclea.")} == set()


def test_logging_loads_neither_multiprocessing_nor_torch() -> None:
    loaded = modules_loaded_by("import seclea; seclea.init, seclea.SecleaAI, seclea.log")
    assert "seclea.client.joining" in loaded
    assert {name for name in loaded if name.partition(".")[0] in ("multiprocessing", "torch")} == set()


def test_the_public_names_are_listed_and_an_unknown_one_is_an_attribute_error() -> None:
    assert set(seclea.__all__) <= set(dir(seclea))
    with pytest.raises(AttributeError, match="no_such_name"):
        seclea.no_such_name  # noqa: B018


@pytest.mark.parametrize("name", seclea.__all__)
def test_every_public_name_can_be_reached(name: str) -> None:
    assert getattr(seclea, name) is not None


def test_every_error_class_is_public() -> None:
    from seclea import errors

    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert classes <= set(seclea.__all__)
