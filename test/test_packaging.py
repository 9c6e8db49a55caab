"""What is installed and where: data files, package.xml, executables, the share folder; and colcon where it is there."""

from __future__ import annotations

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# import -> rosdep key, of the Python packages that ROS installations bring
KEYS = {"numpy": "python3-numpy", "cv2": "python3-opencv", "yaml": "python3-yaml"}
# not from rosdep: pip brings them, or the package works without them
NOT_BY_ROSDEP = {"spanvla_ros", "tokenizers", "onnxruntime", "autoware_planning_msgs"}
# used by name only
BY_NAME = {"ament_index_python", "launch", "launch_ros"}


@pytest.fixture(scope="module")
def arguments() -> dict:
    """What setup.py gives to setuptools."""
    import setuptools

    found: dict = {}
    before, folder = setuptools.setup, os.getcwd()
    setuptools.setup = found.update
    try:
        os.chdir(ROOT)
        runpy.run_path(str(ROOT / "setup.py"))
    finally:
        setuptools.setup = before
        os.chdir(folder)
    return found


@pytest.fixture(scope="module")
def manifest() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


def files(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    return set(listed) or {p.relative_to(ROOT).as_posix() for f in folders for p in (ROOT / f).glob("**/*") if p.is_file() and p.suffix != ".pyc"}


def test_every_file_that_is_found_by_the_share_folder_is_installed(arguments):
    installed = {f"{target}/{Path(name).name}": name for target, names in arguments["data_files"] for name in names}
    for name in files("launch", "config", "engines/demo", "engines/ego_mlp"):
        assert installed.get(f"share/spanvla_ros/{name}") == name
    assert "share/ament_index/resource_index/packages/spanvla_ros" in installed
    assert installed["share/spanvla_ros/package.xml"] == "package.xml"


def test_executables_are_where_ros2_run_looks_after_pip_install_too(arguments):
    scripts = dict(arguments["data_files"])["lib/spanvla_ros"]
    assert scripts == ["resource/planner", "resource/simulator"]
    commands = [line.split("=")[0].strip() for line in arguments["entry_points"]["console_scripts"]]
    for script in scripts:
        path = ROOT / script
        assert os.access(path, os.X_OK) and path.read_text().startswith("#!/usr/bin/env python3\n")
        # colcon puts console scripts into the same folder
        assert path.name not in commands
    assert re.search(r"install_scripts\s*=\s*\$base/lib/spanvla_ros", (ROOT / "setup.cfg").read_text())


def imported(*patterns: str) -> set[str]:
    found = set()
    for path in (p for pattern in patterns for p in ROOT.glob(pattern)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names)


def test_package_xml_names_what_the_nodes_and_launch_files_import_and_nothing_else(manifest):
    named = {e.text for e in manifest.findall("exec_depend")}
    used = imported("spanvla_ros/ros/*.py", "spanvla_ros/planning/*.py", "spanvla_ros/*.py", "launch/*.py") - NOT_BY_ROSDEP
    wanted = {KEYS.get(name, name) for name in used}
    assert wanted <= named, f"package.xml lacks {sorted(wanted - named)}"
    assert named <= wanted | BY_NAME, f"package.xml names {sorted(named - wanted - BY_NAME)}, which nothing imports"


def test_package_xml_and_setup_agree(arguments, manifest):
    for name in ("name", "version", "license"):
        assert manifest.find(name).text == arguments[name]
    assert manifest.find("export/build_type").text == "ament_python"


def test_the_share_folder_of_the_ament_index_is_used_where_there_is_no_source_tree(tmp_path):
    package, config = tmp_path / "site" / "spanvla_ros", tmp_path / "prefix" / "share" / "spanvla_ros" / "config"
    package.mkdir(parents=True)
    config.mkdir(parents=True)
    for name in ("__init__.py", "share.py", "contracts.py"):
        shutil.copy(ROOT / "spanvla_ros" / name, package)
    (config / "a.yaml").touch()
    code = "from spanvla_ros.share import share; print(share('config/a.yaml')); share('config/b.yaml')"
    # the other prefix is a workspace that doesn't have the package
    env = dict(os.environ, PYTHONPATH=str(package.parent), AMENT_PREFIX_PATH=os.pathsep.join([str(tmp_path), str(tmp_path / "prefix")]))
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(config / "a.yaml")
    assert "config/b.yaml is neither in" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("colcon") is None, reason="colcon is not installed (pip install colcon-common-extensions)")
def test_colcon_builds_a_workspace_that_can_be_sourced(tmp_path):
    source = tmp_path / "src" / "spanvla_ros"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", "build", "install", "log", "*.egg-info"))
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "AMENT_PREFIX_PATH")}
    subprocess.run(["colcon", "build", "--packages-select", "spanvla_ros"], cwd=tmp_path, env=env, check=True, capture_output=True)
    code = "import spanvla_ros; from spanvla_ros.share import share; print(spanvla_ros.__file__, share('engines/demo'), share('launch'))"
    line = f'source install/setup.bash && cd / && test -x "$AMENT_PREFIX_PATH/lib/spanvla_ros/planner" && "{sys.executable}" -c "{code}"'
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, env=env, capture_output=True, text=True, check=True)
    assert all(word.startswith(str(tmp_path / "install")) for word in done.stdout.split()), done.stdout


def test_the_page_for_the_vehicle_explains_every_reason():
    from spanvla_ros.planning.supervisor import Reason

    explained = re.findall(r"^\| `([A-Z_]+)` \|", (ROOT / "docs" / "vehicle.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(explained) == sorted(reason.value for reason in Reason)
