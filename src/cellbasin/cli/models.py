"""`cellbasin models`: the weights that ship with the package and those that the user has added."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from cellbasin.atomic import atomic
from cellbasin.cli.console import DONE, Bar, CommandError, check_json, say, table, told, write_json
from cellbasin.cli.flags import JsonOption

if TYPE_CHECKING:
    from cellbasin.model import Model
    from cellbasin.weights import Weights

EXAMPLES = """Examples:
  cellbasin models list
  cellbasin models info general
  cellbasin models add mine.safetensors          then: segment cells.tif -m mine
  cellbasin models add https://example.org/mine.safetensors --sha256 9f86d081...
  cellbasin models add cyto3                     a file of Cellpose 1 to 3
  cellbasin models export general copy.safetensors
  cellbasin models export paper paper.pth        for Cellpose 1 to 3
  cellbasin models export general general.onnx   for any program that runs ONNX
  cellbasin models export general general.zip    for the BioImage Model Zoo"""


def make_app() -> App:
    """The commands below `models`."""
    app = App(
        name="models",
        help="List, show, add and export models.",
        help_epilogue=EXAMPLES,
        help_format="plaintext",
    )
    app.command(list_models, name="list")
    app.command(info)
    app.command(add)
    app.command(export)
    return app


def open_models(files: Sequence[str | Path], engine: str = "auto", precision: str = "auto") -> Model:
    """Load weights and build their networks; raises CommandError where that cannot be done."""
    from cellbasin.engines import EngineError
    from cellbasin.model import load_model
    from cellbasin.weights import WeightsError

    try:
        return load_model(files, engine=engine, precision=precision)
    except (EngineError, WeightsError) as error:
        text, listed = told(error), ", ".join(map(str, files))
        raise CommandError(text if any(str(file) in text for file in files) else f"{listed}: {text}") from error


def list_models(*, json_file: JsonOption = None) -> int:
    """List the models that can be used by name."""
    from cellbasin.weights import SHIPPED, WeightsError, known_models, load_weights

    check_json(json_file)
    records: list[dict[str, Any]] = []
    for name, path in sorted(known_models().items()):
        where = "shipped" if path.parent == SHIPPED else "added"
        try:
            records.append({**_facts(load_weights(path), path), "name": name, "where": where})
        except WeightsError as error:
            records.append({"name": name, "where": where, "file": path, "error": str(error)})
    if json_file:
        write_json(json_file, records)
    if json_file != "-":
        rows = [[r["name"], r["where"], *_shown(r)] for r in records]
        say(table(["name", "from", "diameter", "MB", "sha256", "licence"], rows) if rows else "no models")
    return DONE


def info(
    model: Annotated[str, Parameter(name="MODEL", help="Name or file.")], /, *, json_file: JsonOption = None
) -> int:
    """Show all that a model says about itself: data, licence, recipe, scores."""
    from cellbasin.foreign import open_weights
    from cellbasin.weights import find_model

    path = find_model(model)
    check_json(json_file, [path])
    facts = _facts(open_weights(path), path)
    if json_file:
        write_json(json_file, facts)
    if json_file != "-":
        say("\n".join(_lines({**facts, "ancestors": [_ancestor(one) for one in facts["ancestors"]]})))
    return DONE


def add(
    file: Annotated[
        str, Parameter(name="FILE|URL", help="Weights file of cellbasin or of Cellpose 1 to 3, also on the web.")
    ],
    /,
    *,
    name: Annotated[str | None, Parameter(help="Name to use it by; default: the file's.")] = None,
    sha256: Annotated[str | None, Parameter(metavar="DIGITS", help="Checksum that the file must have.")] = None,
    offline: Annotated[
        bool, Parameter(env_var="CELLBASIN_OFFLINE", negative="", help="Fetch nothing; also: CELLBASIN_OFFLINE=1.")
    ] = False,
) -> int:
    """Check a weights file and keep a copy that can be used by name.

    A file of Cellpose 1 to 3 is converted; its size model (NAME_size.npy or size_NAME.npy) is taken from beside it.

    What is fetched from the web must have the checksum that its author tells (--sha256).

    Nothing else that cellbasin does uses the network.
    """
    from cellbasin.cli.download import check_sha256, fetch, file_name, is_address

    digest = None if sha256 is None else check_sha256(sha256)
    if not is_address(file):
        return _add(Path(file), name, digest)
    if offline:
        raise CommandError(f"{file}: not fetched, since --offline or CELLBASIN_OFFLINE says so: give a file")
    if digest is None:
        raise CommandError(f"{file}: found no --sha256, expected the checksum that the model's author tells")
    if not file_name(file):
        raise CommandError(f"{file}: found an address without a file's name, expected .../NAME.safetensors")
    with tempfile.TemporaryDirectory(prefix="cellbasin-") as folder, Bar(1) as bar:
        target = Path(folder) / file_name(file)
        bar.begin(target.name)
        fetch(file, target, digest, lambda part: bar.tell("network", part))
        return _add(target, name, digest)


def _add(file: Path, name: str | None, sha256: str | None) -> int:
    from cellbasin.foreign import is_foreign, open_weights
    from cellbasin.weights import SHIPPED, SUFFIX, known_models, user_folder

    weights = open_weights(file)
    if sha256 not in (None, weights.sha256):
        raise CommandError(f"{file}: found the SHA-256 {weights.sha256}, expected {sha256}")
    open_models([file])  # a network that cannot be built is found now, not when it is used
    chosen = name or (weights.card.name if is_foreign(file) else file.stem)
    if not chosen.replace("-", "").replace("_", "").replace(".", "").isalnum() or chosen[0] in ".-":
        raise CommandError(
            f"found the name {chosen!r}, expected letters, digits, dots, - and _: choose another with --name"
        )
    if known_models().get(chosen, user_folder()).parent == SHIPPED:
        raise CommandError(f"a model {chosen!r} ships with cellbasin; choose another name with --name")
    folder = user_folder()
    folder.mkdir(parents=True, exist_ok=True)
    _write_own(folder / f"{chosen}{SUFFIX}", file, weights)
    say(f"added {chosen}: cellbasin segment INPUT --model {chosen}")
    return DONE


def _write_own(target: Path, source: Path, weights: Weights) -> None:
    """A weights file of cellbasin's: one of ours as it is, another program's converted and named as the target.

    weights: what the source holds.
    """
    from dataclasses import replace

    import numpy as np

    from cellbasin.foreign import is_foreign
    from cellbasin.weights import save_weights

    if is_foreign(source):
        made = {"converted_from": source.name, "sha256": weights.sha256}
        card = replace(weights.card, name=target.stem, recipe=made)
        save_weights(target, card, weights.tensors, np.float32)
        return
    with atomic(target) as temporary:
        shutil.copyfile(source, temporary)


def export(
    model: Annotated[str, Parameter(name="MODEL", help="Name or file.")],
    path: Annotated[Path, Parameter(name="FILE", help="Where to write it: a new file, or a folder for a copy.")],
    /,
) -> int:
    """Write a model's weights file, or by its ending a file for other programs.

    .pth is for Cellpose 1 to 3 (the paper's network only); the size model goes to FILE_size.npy beside it.

    .onnx is for any program that runs ONNX, .zip is a package of the BioImage Model Zoo.
    """
    from cellbasin.foreign import exported, open_weights
    from cellbasin.weights import SUFFIX, find_model

    source = find_model(model)
    target = path / f"{source.stem}{SUFFIX}" if path.is_dir() else path
    ending = target.suffix.lower()
    if ending not in (SUFFIX, ".pth", ".pt", ".onnx", ".zip"):
        raise CommandError(f"{target}: found the ending {ending!r}, expected {SUFFIX}, .pth, .onnx or .zip")
    if ending in (".onnx", ".zip"):
        return _export_network(model, target)
    if ending == SUFFIX:
        _refuse_existing(target)
        _write_own(target, source, open_weights(source))
        say(f"wrote {target}")
        return DONE
    written = exported(open_weights(model), target.name)
    for name in written:
        _refuse_existing(target.with_name(name))
    for name, data in written.items():
        with atomic(target.with_name(name)) as temporary:
            temporary.write_bytes(data)
    say("\n".join(f"wrote {target.with_name(name)}" for name in written))
    return DONE


def _export_network(model: str, target: Path) -> int:
    from cellbasin.export import ExportError, write_onnx, write_package
    from cellbasin.foreign import open_weights

    _refuse_existing(target)
    write = write_onnx if target.suffix.lower() == ".onnx" else write_package
    try:
        write(target, open_weights(model))
    except ExportError as error:
        raise CommandError(told(error)) from error
    say(f"wrote {target}")
    return DONE


def _refuse_existing(target: Path) -> None:
    if target.exists():
        raise CommandError(f"{target}: found a file there, expected none: choose another name")


def _facts(weights: Weights, path: Path) -> dict[str, Any]:
    from dataclasses import asdict

    card = asdict(weights.card)
    card["size_model"] = {k: v for k, v in card["size_model"].items() if k not in ("coefficients", "hidden")}
    card["novelty"] = {k: v for k, v in card["novelty"].items() if k != "styles"}
    card["ranges"] = f"{len(card['ranges'])} tensors" if card["ranges"] else ""
    parameters = sum(tensor.size for tensor in weights.tensors.values())
    return {
        **card,
        "file": path,
        "bytes": path.stat().st_size,
        "sha256": weights.sha256,
        "parameters": parameters,
    }


def _shown(record: dict[str, Any]) -> list[str]:
    if "error" in record:
        return ["-", "-", "-", record["error"]]
    return [
        f"{record['diameter']:g}",
        f"{record['bytes'] / 1e6:.1f}",
        record["sha256"][:12],
        record["licence"] or "-",
    ]


def _ancestor(one: dict[str, Any]) -> dict[str, Any]:
    hours = {"hours": one["hours"]} if one.get("hours") is not None else {}
    return {"name": one["name"], "sha256": one["sha256"][:12], **hours, "sources": len(one["sources"])}


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """A line for each fact; tables within tables are indented."""
    found = []
    for key, value in facts.items():
        if isinstance(value, dict) and any(isinstance(item, dict | list | tuple) for item in value.values()):
            found += [f"{indent}{key}:", *_lines(value, indent + "  ")]
        elif isinstance(value, list | tuple) and value and isinstance(value[0], dict):
            found += [f"{indent}{key}:", *(f"{indent}  {_as_text(item)}" for item in value)]
        else:
            found.append(f"{indent}{key}: {_as_text(value)}")
    return found


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return str(value) if value not in ("", None) else "-"
