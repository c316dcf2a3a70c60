"""Generate the Python stubs of every contract in protos/ and the image that buf reads.

usage: python tools/make_stubs.py [--force]

Everything a contract may import (protovalidate's rules, google.protobuf, google.api, google.rpc) comes from
the descriptors of installed packages: generation needs no network, no buf module and no vendored .proto file.
"""

import argparse
import hashlib
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path

from google.api import annotations_pb2, field_behavior_pb2, resource_pb2
from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
)
from google.protobuf.descriptor import FileDescriptor
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_tools import protoc
from protovalidate._gen.buf.validate import validate_pb

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
CLIENT = ROOT / "client"
BUILD = ROOT / "build"
IMAGE = BUILD / "image.binpb"
STAMP = BUILD / "stubs.sha256"

VALIDATE_PROTO = "buf/validate/validate.proto"
IMPORTABLE = (
    any_pb2,
    descriptor_pb2,
    duration_pb2,
    empty_pb2,
    field_mask_pb2,
    struct_pb2,
    timestamp_pb2,
    annotations_pb2,
    field_behavior_pb2,
    resource_pb2,
    code_pb2,
    error_details_pb2,
    status_pb2,
)
GENERATORS = ("grpcio-tools", "protobuf", "mypy-protobuf", "protovalidate", "googleapis-common-protos")


def importable_descriptors() -> descriptor_pb2.FileDescriptorSet:
    """Return the descriptors of every file that a contract may import, dependencies first."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}

    def add(file: FileDescriptor) -> None:
        if file.name in files:
            return
        for dependency in file.dependencies:
            add(dependency)
        files[file.name] = descriptor_pb2.FileDescriptorProto.FromString(file.serialized_pb)

    for module in IMPORTABLE:
        add(module.DESCRIPTOR)
    # protovalidate ships its rules for another protobuf runtime only: no .proto file, no google-style module.
    rules = descriptor_pb2.FileDescriptorProto.FromString(validate_pb.desc().proto.to_binary())
    return descriptor_pb2.FileDescriptorSet(file=[*files.values(), rules])


def generate(contracts: list[str], out: Path) -> None:
    """Write the modules and type stubs of `contracts` (paths below protos/) to `out`, the image to build/."""
    imports = BUILD / "imports.binpb"
    imports.write_bytes(importable_descriptors().SerializeToString())
    common = [f"--proto_path={PROTOS}", f"--descriptor_set_in={imports}"]
    binaries = Path(sys.executable).parent
    # mypy-protobuf rather than --pyi_out: it types HasField and WhichOneof, and protoc types no gRPC at all.
    messages = [
        f"--plugin=protoc-gen-mypy={binaries / 'protoc-gen-mypy'}",
        f"--python_out={out}",
        f"--mypy_out=quiet:{out}",
    ]
    services = [
        f"--plugin=protoc-gen-mypy_grpc={binaries / 'protoc-gen-mypy_grpc'}",
        f"--grpc_python_out={out}",
        f"--mypy_grpc_out=quiet:{out}",
    ]
    image = ["--include_source_info", "--include_imports", f"--descriptor_set_out={IMAGE}"]
    run_protoc([*common, *messages, VALIDATE_PROTO])
    run_protoc([*common, *messages, *services, *image, *contracts])


def run_protoc(arguments: list[str]) -> None:
    """Run protoc in this process; raises SystemExit when it fails (it has printed why)."""
    if protoc.main(["protoc", *arguments]) != 0:
        raise SystemExit("make_stubs: protoc failed")


def install(generated: Path) -> None:
    """Move each generated package into client/, replacing the one that stands there."""
    packages = [generated / "buf", *(generated / "weighbridge").iterdir()]
    for package in packages:
        target = CLIENT / package.relative_to(generated)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        package.rename(target)


def fingerprint(contracts: list[str]) -> str:
    """Hash all that decides the output: the contracts, this script and the generators' versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    digest.update(" ".join(f"{name}={version(name)}" for name in GENERATORS).encode())
    for contract in contracts:
        digest.update(contract.encode() + b"\0" + (PROTOS / contract).read_bytes())
    return digest.hexdigest()


def is_current(contracts: list[str], wanted: str) -> bool:
    """Say whether the last generation had the same inputs and its output still stands."""
    modules = [
        CLIENT / f"{contract.removesuffix('.proto')}_pb2.py" for contract in (VALIDATE_PROTO, *contracts)
    ]
    return all(path.exists() for path in (IMAGE, STAMP, *modules)) and STAMP.read_text() == wanted


def main() -> None:
    """Generate the stubs unless they are current."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--force", action="store_true", help="generate even when nothing changed")
    force = parser.parse_args().force
    contracts = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    wanted = fingerprint(contracts)
    if is_current(contracts, wanted) and not force:
        return
    BUILD.mkdir(exist_ok=True)
    scratch = BUILD / f"stubs-{os.getpid()}"
    scratch.mkdir()
    try:
        generate(contracts, scratch)
        install(scratch)
        STAMP.write_text(wanted)
    finally:
        shutil.rmtree(scratch)


if __name__ == "__main__":
    main()
