"""The engines agree with torch's float32, whatever the shape, the threads and the order of calls."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cellbasin.engines import (
    Engine,
    EngineError,
    Hardware,
    choose,
    choose_engine,
    describe_choice,
    find_hardware,
)
from cellbasin.engines.calibration import calibrate
from cellbasin.engines.openvino import OpenVINOEngine
from cellbasin.engines.torch import TorchEngine
from cellbasin.network import Network
from cellbasin.weights import HALF, PAPER, Architecture, Card, Weights, load_weights, save_weights

torch.set_num_threads(1)  # waits less than two on a busy machine

ARCHITECTURES = {
    "half": HALF,
    "paper": PAPER,
    "no refinement": Architecture(refine=0),
    "quarter": Architecture(channels=(16, 32), stem=4, refine=8, refine_inputs=5),
}


def random_weights(architecture: Architecture, seed: int = 0) -> Weights:
    """Weights whose batch norms have seen data and are far from the identity."""
    torch.manual_seed(seed)
    network = Network(architecture).eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
                module.momentum = 0.4
        network.train()
        for _ in range(4):
            network(torch.rand(2, architecture.inputs, 64, 64))
    return Weights(Card("random", architecture), network.tensors(), "")


def random_tiles(*shape: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, np.float32)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference, relative to the spread of b."""
    return float(np.abs(a - b).max() / b.std())


@pytest.fixture(scope="module", params=ARCHITECTURES, ids=lambda name: name.replace(" ", "-"))
def weights(request: pytest.FixtureRequest) -> Weights:
    return random_weights(ARCHITECTURES[request.param])


@pytest.fixture(scope="module")
def half() -> Weights:
    return random_weights(HALF)


@pytest.mark.parametrize("shape", [(1, 224, 224), (8, 64, 64), (3, 96, 48), (2, 16, 160)], ids=str)
def test_float32_equals_torch(weights: Weights, shape: tuple[int, int, int]) -> None:
    tiles = random_tiles(shape[0], 2, *shape[1:])
    maps, style = OpenVINOEngine(weights).run(tiles)
    expected_maps, expected_style = TorchEngine(weights).run(tiles)
    assert maps.shape == (shape[0], 3, *shape[1:])
    assert maps.dtype == style.dtype == np.float32
    assert relative(maps, expected_maps) < 1e-4
    assert relative(style, expected_style) < 1e-4
    np.testing.assert_allclose(np.linalg.norm(style, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_style_alone_is_the_one_beside_the_maps(weights: Weights, engine: str) -> None:
    chosen = choose_engine(weights, engine, "float32")
    for tiles in (random_tiles(3, 2, 96, 48), random_tiles(1, 2, 224, 224), np.zeros((0, 2, 32, 32), np.float32)):
        np.testing.assert_array_equal(chosen.styles(tiles), chosen.run(tiles)[1])


@pytest.mark.skipif(not find_hardware().has_bf16, reason="needs a processor with AMX or AVX512-BF16")
def test_bf16_is_near_float32(weights: Weights) -> None:
    tiles = random_tiles(2, 2, 96, 64)
    maps, _ = OpenVINOEngine(weights, "bf16").run(tiles)
    expected, _ = OpenVINOEngine(weights).run(tiles)
    assert 0 < np.sqrt(np.mean((maps - expected) ** 2)) / expected.std() < 0.03


def test_torch_bf16_is_near_float32(half: Weights) -> None:
    tiles = random_tiles(2, 2, 96, 64)
    maps, style = TorchEngine(half, "cpu", "bf16").run(tiles)
    expected, expected_style = TorchEngine(half).run(tiles)
    assert np.sqrt(np.mean((maps - expected) ** 2)) / expected.std() < 0.03
    assert relative(style, expected_style) < 0.2


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_blank_and_no_tiles(half: Weights, engine: str) -> None:
    chosen = choose_engine(half, engine, "float32")
    maps, style = chosen.run(np.zeros((1, 2, 32, 32), np.float32))
    assert np.isfinite(maps).all() and np.isfinite(style).all()
    maps, style = chosen.run(np.zeros((0, 2, 32, 32), np.float32))
    assert maps.shape == (0, 3, 32, 32) and style.shape == (0, 256)


def test_a_tile_alone_and_among_others_bit_for_bit(half: Weights) -> None:
    engine = OpenVINOEngine(half)
    tiles = random_tiles(5, 2, 64, 64)
    together = engine.run(tiles)
    alone = [engine.run(tiles[n : n + 1]) for n in range(5)]
    np.testing.assert_array_equal(together[0], np.concatenate([maps for maps, _ in alone]))
    np.testing.assert_array_equal(together[1], np.concatenate([style for _, style in alone]))


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_eight_threads_at_once(half: Weights, engine: str) -> None:
    chosen: Engine = choose_engine(half, engine, "float32")
    batches = [random_tiles(1 + n % 3, 2, 32 + 16 * (n % 2), 32, seed=n) for n in range(12)]
    expected = [chosen.run(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for (maps, style), (wanted, wanted_style) in zip(pool.map(chosen.run, batches), expected, strict=True):
            np.testing.assert_array_equal(maps, wanted)
            np.testing.assert_array_equal(style, wanted_style)


def test_threads_do_not_change_results(half: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    tiles = random_tiles(3, 2, 64, 64)
    results = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("CELLBASIN_THREADS", threads)
        results.append(OpenVINOEngine(half).run(tiles)[0])
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_tiles_are_not_modified_and_may_be_views(half: Weights) -> None:
    base = random_tiles(3, 64, 64, 2)
    tiles = base.transpose(0, 3, 1, 2)
    before = base.copy()
    maps, _ = OpenVINOEngine(half).run(tiles)
    np.testing.assert_array_equal(base, before)
    np.testing.assert_array_equal(maps, OpenVINOEngine(half).run(np.ascontiguousarray(tiles))[0])


@pytest.mark.parametrize(
    "tiles",
    [
        np.zeros((2, 64, 64), np.float32),
        np.zeros((1, 3, 64, 64), np.float32),
        np.zeros((1, 2, 64, 60), np.float32),
        np.zeros((1, 2, 0, 64), np.float32),
        np.zeros((1, 2, 64, 64), np.float64),
    ],
    ids=["3-D", "channels", "divisor", "empty", "float64"],
)
def test_wrong_tiles_are_refused(half: Weights, tiles: np.ndarray) -> None:
    for engine in (OpenVINOEngine(half), TorchEngine(half)):
        for run in (engine.run, engine.styles):
            with pytest.raises(ValueError, match="expected float32"):
                run(tiles)


@pytest.fixture(scope="module")
def ranged() -> Weights:
    shallow = random_weights(Architecture(channels=(32, 64)))
    crops = random_tiles(6, 2, 64, 64, seed=2) ** 2
    ranges = calibrate(shallow, crops, tolerance=1e-4)
    return replace(shallow, card=replace(shallow.card, ranges=ranges))


@pytest.mark.skipif({"VNNI", "AVX2"}.isdisjoint(find_hardware().features), reason="needs a processor with VNNI or AVX2")
class TestInt8:
    def test_most_convolutions_are_calibrated(self, ranged: Weights) -> None:
        assert 8 <= len(ranged.card.ranges) <= 15
        assert all(high > 0 for high in ranged.card.ranges.values())

    @pytest.mark.skipif("VNNI" not in find_hardware().features, reason="AVX2 leaves some convolutions in float32")
    def test_convolutions_run_in_int8(self, ranged: Weights) -> None:
        engine = OpenVINOEngine(ranged, "int8")
        kinds = [
            operation.get_rt_info()["primitiveType"].value
            for operation in engine.compiled("maps").model.get_runtime_model().get_ops()
            if "onvolution" in operation.get_rt_info()["layerType"].value
        ]
        assert sum("I8" in kind for kind in kinds) == len(ranged.card.ranges)

    def test_int8_is_near_float32(self, ranged: Weights) -> None:
        tiles = random_tiles(2, 2, 96, 64) ** 2
        maps, style = OpenVINOEngine(ranged, "int8").run(tiles)
        expected, expected_style = OpenVINOEngine(ranged).run(tiles)
        assert 0 < np.sqrt(np.mean((maps - expected) ** 2)) / expected.std() < 0.05
        assert np.abs(style - expected_style).max() < 0.05
        np.testing.assert_array_equal(OpenVINOEngine(ranged, "int8").styles(tiles), style)

    def test_ranges_survive_the_file(self, ranged: Weights, tmp_path: Path) -> None:
        path = tmp_path / "ranged.safetensors"
        save_weights(path, ranged.card, ranged.tensors, np.float32)
        tiles = random_tiles(1, 2, 64, 64)
        found = OpenVINOEngine(load_weights(path), "int8").run(tiles)[0]
        np.testing.assert_array_equal(found, OpenVINOEngine(ranged, "int8").run(tiles)[0])

    def test_intolerance_and_progress(self) -> None:
        told: list[float] = []
        small = random_weights(Architecture(channels=(16,), refine=0))
        assert calibrate(small, random_tiles(1, 2, 32, 32), tolerance=0.0, tell=told.append) == {}
        assert told == sorted(told) and told[-1] == 1

    def test_no_crops(self, half: Weights) -> None:
        with pytest.raises(ValueError, match="no crops"):
            calibrate(half, np.zeros((0, 2, 32, 32), np.float32))


class TestChoice:
    plain = Card("plain", HALF)
    ranged = Card("ranged", HALF, ranges={"down.0.conv.1": 3.0}, scores={"precisions": ["float32", "bf16", "int8"]})

    def test_the_written_rule(self) -> None:
        amx = Hardware("p", ("AVX512", "VNNI", "AVX512-BF16", "AMX"))
        zen = Hardware("p", ("AVX512", "VNNI", "AVX512-BF16"))
        laptop, old = Hardware("p", ("AVX2", "VNNI")), Hardware("p", ("AVX2",))
        assert choose(self.ranged, amx).precision == "bf16"
        assert choose(self.ranged, zen).precision == "int8"
        assert choose(self.plain, zen).precision == "bf16"
        assert choose(self.ranged, laptop).precision == "int8"
        assert choose(self.plain, laptop).precision == "float32"
        assert choose(self.ranged, old).precision == "int8"
        assert choose(self.plain, old).precision == "float32"
        assert choose(self.ranged, Hardware("arm")).precision == "float32"
        for hardware in (amx, zen, laptop, old):
            assert choose(self.ranged, hardware).engine == "openvino"
            assert choose(self.ranged, hardware).reason

    def test_a_precision_that_was_not_accepted_is_no_default(self) -> None:
        zen = Hardware("p", ("VNNI", "AVX512-BF16", "AMX"))
        only = Card("only", HALF, ranges={"a": 1.0}, scores={"precisions": ["float32"]})
        choice = choose(only, zen)
        assert choice.precision == "float32"
        assert "not accepted" in choice.reason
        assert choose(only, zen, precision="int8").precision == "int8"

    def test_graphics_processors_win(self) -> None:
        assert choose(self.plain, Hardware("p", ("AMX",), gpu="cuda")).device == "cuda"
        assert choose(self.plain, Hardware("p", ("AMX",), gpu="cuda")).precision == "bf16"
        assert choose(self.plain, Hardware("p", gpu="mps")).precision == "float32"
        assert choose(self.plain, Hardware("p", gpu="cuda"), "openvino").engine == "openvino"
        assert choose(self.ranged, Hardware("p", ("VNNI",), gpu="cuda"), precision="int8").engine == "openvino"

    @pytest.mark.parametrize(
        ("engine", "precision", "word"),
        [
            ("onnx", "auto", "unknown engine"),
            ("auto", "half", "unknown precision"),
            ("auto", "int8", "no int8 ranges"),
            ("auto", "bf16", "AMX"),
            ("openvino", "int8", "ranges"),
            ("torch", "int8", "no int8"),
        ],
    )
    def test_what_cannot_be_is_refused(self, engine: str, precision: str, word: str) -> None:
        with pytest.raises(EngineError, match=word):
            choose(self.plain, Hardware("p", ("AVX2",)), engine, precision)

    def test_int8_on_request(self) -> None:
        assert choose(self.ranged, Hardware("p", ("AVX2",)), precision="int8").precision == "int8"
        with pytest.raises(EngineError, match="VNNI"):
            choose(self.ranged, Hardware("arm"), precision="int8")

    def test_missing_engine(self) -> None:
        hardware = Hardware("p", engines={"openvino": "1", "torch": "not installed (pip ...)"})
        with pytest.raises(EngineError, match="torch engine is not installed"):
            choose(self.plain, hardware, "torch")

    def test_what_was_chosen_is_what_runs(self, half: Weights) -> None:
        engine, choice = choose_engine(half), describe_choice(half.card)
        assert (engine.name, engine.precision, engine.device, engine.reason) == (
            choice.engine,
            choice.precision,
            choice.device,
            choice.reason,
        )


def in_fresh_process(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_no_network_and_no_torch(half: Weights, tmp_path: Path) -> None:
    path = tmp_path / "random.safetensors"
    save_weights(path, half.card, half.tensors)
    script = """
        import os
        import sys

        def refuse(event, arguments):
            if event.startswith("socket.") or event in ("subprocess.Popen", "os.system"):
                raise SystemExit(f"{event} {arguments}")

        sys.addaudithook(refuse)
        import numpy as np
        from cellbasin.engines import choose_engine
        from cellbasin.weights import load_weights

        assert not {"torch", "openvino"} & set(sys.modules)
        engine = choose_engine(load_weights(sys.argv[1]), "openvino", "float32")
        maps, style = engine.run(np.zeros((2, 2, 64, 64), np.float32))
        assert "torch" not in sys.modules
        files = [f"/proc/self/fd/{n}" for n in range(3, 64)]
        links = [os.readlink(file) for file in files if os.path.exists(file)]
        assert not [link for link in links if "socket" in link], links
        print(maps.shape)
    """
    assert "(2, 3, 64, 64)" in in_fresh_process(script, str(path))
