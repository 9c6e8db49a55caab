"""Who may import whom, lazy imports included; and what an import costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "spanvla_ros"
BASE = {"contracts", "geometry", "config", "share"}
ROOMS = {
    "planning": {"planning"},
    "evaluation": {"evaluation", "planning"},
    "sim": {"sim", "planning", "evaluation"},
    "model": {"model", "planning"},
    "engine": {"engine", "planning"},
    "data": {"data", "planning", "evaluation", "sim", "engine"},
    "training": {"training", "planning", "evaluation", "sim", "model", "engine", "data"},
    "ros": {"ros", "planning", "evaluation", "sim", "engine"},
    "cli": {"cli", "planning", "evaluation", "sim", "model", "engine", "data", "training", "ros"},
}
MAY_ALSO = {"engine.export": {"model"}, "engine.backends.torch": {"model"}, "engine.backends.torch_cuda": {"model"}}

# third-party module -> the modules or rooms of the package that may import it
TORCH = {"model", "training", "engine.export", "engine.backends.torch", "engine.backends.torch_cuda"}
ONLY_IN = {
    **dict.fromkeys(("torch", "transformers", "peft"), TORCH),
    **dict.fromkeys(("onnx", "onnxscript"), {"engine.export", "engine.precision", "engine.quantise"}),
    **dict.fromkeys(("rclpy", "rcl_interfaces", "sensor_msgs", "nav_msgs", "std_msgs", "std_srvs", "geometry_msgs"), {"ros"}),
    **dict.fromkeys(("trajectory_msgs", "visualization_msgs", "diagnostic_msgs", "lifecycle_msgs", "tf2_msgs", "cv_bridge"), {"ros"}),
    **dict.fromkeys(("libsumo", "sumolib", "sumo", "moderngl"), {"sim"}),
    "shapely": {"sim", "evaluation", "data.navsim"},
    "onnxruntime": {"engine.backends.onnxruntime", "engine.quantise", "sim.planners"},
    "tensorrt": {"engine.build", "engine.backends.tensorrt"},
    **dict.fromkeys(("pycuda", "cuda"), {"engine.device"}),
    "rosbags": {"data"},
    "matplotlib": {"evaluation", "training"},
    "tokenizers": {"planning", "training", "engine", "model"},
}


def name_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(source, package):
    """Full dotted names of everything that a module of `package` imports, at any depth of its code."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            base = parts[: len(parts) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def below(name, scopes):
    return any(name == scope or name.startswith(f"{scope}.") for scope in scopes)


MODULES = {
    name_of(path): set(imports(path.read_text(encoding="utf-8"), ".".join(["spanvla_ros", *path.relative_to(PACKAGE).parts[:-1]])))
    for path in sorted(PACKAGE.glob("**/*.py"))
}


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_rooms_import_only_what_they_may(module):
    room = module.split(".")[0]
    allowed = BASE | ROOMS.get(room, set()) | MAY_ALSO.get(module, set())
    for name in MODULES[module]:
        parts = name.split(".")
        if parts[0] == "spanvla_ros" and len(parts) > 1 and (parts[1] in ROOMS or parts[1] in BASE):
            assert parts[1] in allowed, f"{module} imports {name}"


@pytest.mark.parametrize("module", [m for m in MODULES if m])
def test_heavy_packages_stay_in_their_rooms(module):
    for name in MODULES[module]:
        top = name.split(".")[0]
        if top in ONLY_IN:
            assert below(module, ONLY_IN[top]), f"{module} imports {name}"


def test_the_check_sees_lazy_and_relative_imports():
    code = "def f():\n    import torch.nn\n    from ..model import flow\n    from . import images\n"
    assert {"torch.nn", "spanvla_ros.model.flow", "spanvla_ros.planning.images"} <= set(imports(code, "spanvla_ros.planning"))


def loaded_after(statement):
    """Top-level modules in a fresh interpreter after `statement`."""
    code = f"import sys; {statement}; print(' '.join({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.split())


def test_importing_the_package_costs_nothing():
    assert not loaded_after("import spanvla_ros") & {"numpy", "cv2", "torch", "rclpy", "yaml"}


def test_planning_needs_numpy_opencv_and_yaml_only():
    outside = loaded_after("import spanvla_ros.planning") & {"torch", "onnxruntime", "tokenizers", "rclpy", "libsumo", "rosbags", "scipy"}
    assert not outside


def test_planning_imports_where_nothing_else_is_installed():
    """Every third-party package but numpy, opencv and yaml is hidden, for all modules of the room."""
    names = [name for name in MODULES if name.startswith("planning.")]
    code = (
        "import builtins, importlib, sys\n"
        "real = builtins.__import__\n"
        "def guarded(name, globals=None, locals=None, fromlist=(), level=0):\n"
        "    top = name.split('.')[0]\n"
        "    if level == 0 and top in {'torch', 'onnxruntime', 'tokenizers', 'transformers', 'scipy', 'shapely', 'rclpy', 'libsumo', 'PIL'}:\n"
        "        raise ModuleNotFoundError(top)\n"
        "    return real(name, globals, locals, fromlist, level)\n"
        "builtins.__import__ = guarded\n"
        f"[importlib.import_module('spanvla_ros.' + n) for n in {names!r}]\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PACKAGE.parent)
