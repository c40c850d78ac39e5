#!/usr/bin/env bash
# Fetches the generators, generates the contract and builds the client: all that a clean clone needs. Repeating it is cheap.
# Needs Java 17 and Maven; buf is built by the repository's Makefile.
set -euo pipefail
cd "$(dirname "$0")"

case "$(uname -s)-$(uname -m)" in
  Linux-x86_64) platform=linux-x86_64 ;;
  Linux-aarch64 | Linux-arm64) platform=linux-aarch_64 ;;
  Darwin-x86_64) platform=osx-x86_64 ;;
  Darwin-arm64) platform=osx-aarch_64 ;;
  *) echo "setup.sh: no generators are published for $(uname -s) on $(uname -m)" >&2; exit 1 ;;
esac

# version NAME prints a version from pom.xml, the only place that has them.
version() { sed -n "s|.*<$1>\(.*\)</$1>.*|\1|p" pom.xml; }

# fetch NAME GROUP:ARTIFACT VERSION puts an executable from the Maven repository into tools/.
fetch() {
  local dir="tools/$1-$3" file
  if [ ! -x "$dir/$1" ]; then
    mvn -q -B -N "org.apache.maven.plugins:maven-dependency-plugin:$(version dependency.plugin.version):copy" \
      "-Dartifact=$2:$3:exe:$platform" "-DoutputDirectory=$dir" -Dmdep.overWriteReleases=true
    file=$(ls "$dir"/*.exe)
    chmod +x "$file"
    mv "$file" "$dir/$1"
  fi
  ln -sf "$1-$3/$1" "tools/$1"
}
mkdir -p tools
fetch protoc com.google.protobuf:protoc "$(version protobuf.version)"
fetch protoc-gen-grpc-java io.grpc:protoc-gen-grpc-java "$(version grpc.plugin.version)"

# buf leaves files alone that stay the same, so Maven compiles the contract only after a change.
[ -x ../../.bin/buf ] || make --no-print-directory -C ../.. .bin/buf
../../.bin/buf generate

mvn -q -B package -DskipTests
