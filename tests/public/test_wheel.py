"""What is in the wheel, and what is not."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTE = 2**20


def test_kernels_is_a_source_root_and_no_package():
    """A package of that name would shadow, or overwrite, Hugging Face's own."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert (ROOT / "kernels" / "jmamba_kernels" / "__init__.py").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel as a release does, without the network."""
    missing = [k for k in ("hatchling", "build") if not importlib.util.find_spec(k)]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation"]
    done = subprocess.run(
        [*build, "--outdir", str(folder), str(ROOT)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob("*.whl")
    return path


def test_wheel_holds_the_two_packages_only(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert len(info) == 1
    assert tops - info == {"jmamba", "jmamba_kernels"}
    assert {"jmamba/py.typed", "jmamba_kernels/py.typed"} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [name for name in names if "__pycache__" in name or "tests/" in name]


def test_wheel_is_small(wheel):
    assert wheel.stat().st_size <= 12 * MEGABYTE
    with zipfile.ZipFile(wheel) as archive:
        weights = sum(
            entry.file_size
            for entry in archive.infolist()
            if entry.filename.endswith(".safetensors")
        )
    assert weights <= 8 * MEGABYTE


def test_wheel_is_imported_from_anywhere(wheel, tmp_path):
    """Installed alone, without this checkout: the packages find each other."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    program = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import jmamba, jmamba_kernels, jax.numpy as jnp
assert jmamba.__file__.startswith({str(tmp_path)!r}), jmamba.__file__
assert jmamba_kernels.__file__.startswith({str(tmp_path)!r}), jmamba_kernels.__file__
x, gate = jnp.ones((1, 3, 2)), jnp.ones((1, 3, 1))
print(jmamba.ops.selective_scan(x, x, -jnp.ones((2, 1)), gate, gate).y.shape)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stdout.strip() == "(1, 3, 2)", done.stderr
