"""The job image trains the example without network, as any user, in a folder of that user."""

from __future__ import annotations

from pathlib import Path

import pytest
from containers import in_image

EXAMPLE = "/opt/mlaas4hep/lib/python3*/site-packages/mlaas4hep/demo/example"
SIMULATE = "from mlaas4hep.demo.simulate import *; write_files(Path(), n=2000)"


@pytest.mark.parametrize("model", ["model.py", "model_sklearn.py"])
def test_it_trains_the_example(images: dict[str, str], tmp_path: Path, model: str) -> None:
    tmp_path.chmod(0o777)
    script = (
        f"cp {EXAMPLE}/{model} . &&"
        f" sed '/epochs/s/6/1/' {EXAMPLE}/params.json > params.json && python -c '{SIMULATE}' &&"
        f" workflow.py --files=signal.root,background.root --labels=1,0 --model={model}"
        " --params=params.json --fout=trained && mlaas4hep predict --model trained"
        " --files signal.root --fout scores.root"
    )
    options = ("--user", "12345:12345", "--volume", f"{tmp_path}:/work", "--workdir", "/work")
    in_image(images["job"], "sh", "-c", script, options=options)
    assert (tmp_path / "trained/1/model.onnx").stat().st_size > 1000
    assert (tmp_path / "trained.tar.gz").stat().st_uid == 12345
    assert (tmp_path / "scores.root").read_bytes()[:4] == b"root"


def test_it_speaks_xrootd(images: dict[str, str]) -> None:
    code = (
        "from XRootD.client import FileSystem; status, _ = FileSystem('root://127.0.0.1:1')"
        ".ping(timeout=5); print(status.ok, status.message)"
    )
    options = ("--user", "12345:12345", "--env", "XRD_CONNECTIONRETRY=1")
    said = in_image(images["job"], "python", "-c", code, options=options)
    assert said.startswith("False ")
    assert "onnect" in said
