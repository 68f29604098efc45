"""The doctor on published weights: there or not, and of the network that the configuration builds."""

import torch
from conftest import PROJECT
from published import broken, mit, swin_v2
from safetensors.torch import save_file

from stedm.config import load_config, parse_config
from stedm.tools.weights_doctor import examine_weights


def examined(first_stage, style, unet, segmenter):
    settings = load_config(PROJECT / "config" / "her2.yaml").model_dump(mode="json")
    for part, path in (("first_stage", first_stage), ("style", style), ("unet", unet)):
        settings["generator"][part]["path"] = str(path)
    settings["segmenter"]["path"] = str(segmenter)
    return {row.what.removeprefix("weights of the "): row for row in examine_weights(parse_config(settings, "her2"))}


def zeros(shapes):
    return {name: torch.zeros(shape, dtype=torch.long if "index" in name else None) for name, shape in shapes.items()}


def test_each_file_is_compared_with_its_network(tmp_path):
    none, swin, segformer = (tmp_path / name for name in ("none.ckpt", "swin.pth", "mit.safetensors"))
    torch.save(zeros(swin_v2()), swin)
    save_file(zeros(mit()), segformer)
    rows = examined(none, swin, swin, segformer)
    assert {what: row.status for what, row in rows.items()} == {
        "first stage": "FAIL",
        "style encoder": "PASS",
        "U-Net": "FAIL",
        "segmenter": "PASS",
    }
    assert rows["first stage"].found == f"{none}: no such file" and "path" in rows["first stage"].remedy
    assert rows["style encoder"].found == f"{swin}, 114 MB, fit the network"
    # Another network's file is named, with the first tensor that it lacks.
    assert rows["U-Net"].found.startswith(f"{swin}: the tensor 'model.diffusion_model.")
    assert rows["U-Net"].found.endswith("is missing")


def test_a_tensor_of_another_shape_fails(tmp_path):
    path = tmp_path / "swin.pth"
    for shapes, said in broken(swin_v2(), "features.1.0.mlp.0.weight"):
        torch.save(zeros(shapes), path)
        row = examined(first_stage=path, style=path, unet=path, segmenter=path)["style encoder"]
        assert row.status == "FAIL" and said in row.found


def test_networks_without_published_weights_have_no_rows():
    assert list(examine_weights(load_config(PROJECT / "config" / "demo.yaml"))) == []
