"""A protoc plugin, for buf, that answers with the output of the protoc inside grpcio-tools.

buf runs plugins, and protoc's generators for Python are none: they are built into protoc. So a request of buf becomes
two runs of protoc: messages and their types for every file, and stubs for files that have services (for others protoc
would write empty ones).
"""

import sys
import tempfile
from pathlib import Path

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    response = CodeGeneratorResponse(supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL)
    wanted = set(request.file_to_generate)
    with_services = [file.name for file in request.proto_file if file.name in wanted and file.service]
    with tempfile.TemporaryDirectory() as folder:
        out, image = Path(folder, "out"), Path(folder, "image")
        out.mkdir()
        image.write_bytes(FileDescriptorSet(file=request.proto_file).SerializeToString())
        for files, options in (
            (request.file_to_generate, [f"--python_out={out}", f"--pyi_out={out}"]),
            (with_services, [f"--grpc_python_out={out}"]),
        ):
            if files and protoc.main(["protoc", f"--descriptor_set_in={image}", *options, *files]) != 0:
                response.error = "protoc failed, see above"
        for path in sorted(out.rglob("*.py*")):
            response.file.add(name=path.relative_to(out).as_posix(), content=path.read_text(encoding="utf-8"))
    return response


if __name__ == "__main__":
    answer = generate(CodeGeneratorRequest.FromString(sys.stdin.buffer.read()))
    sys.stdout.buffer.write(answer.SerializeToString())
