//go:build clients

package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spotbridge/spotbridge/clients/internal/realbridge"
)

// bufGen is what another repository writes to have a client of its own, in packages of its own. The two plugins are
// programs on PATH.
const bufGen = `version: v2
managed:
  enabled: true
  override:
    - {file_option: go_package_prefix, value: example.com/consumer/gen}
plugins:
  - {local: protoc-gen-go, out: gen, opt: paths=source_relative}
  - {local: protoc-gen-go-grpc, out: gen, opt: paths=source_relative}
inputs:
  - %s
`

const consumer = `package main

import (
	"fmt"

	spotbridgev1 "example.com/consumer/gen/spotbridge/v1"
	payloadv1 "example.com/consumer/gen/spotnana/payload/v1"
)

func main() {
	e := &spotbridgev1.Event{Payload: &spotbridgev1.Event_PnrV3{PnrV3: &payloadv1.PnrData{}}}
	var _ spotbridgev1.SubscriptionServiceClient
	fmt.Println(e.ProtoReflect().Descriptor().FullName(), e.GetPnrV3() != nil)
}
`

// TestAnotherRepositoryGeneratesAClientFromThisOne with buf and local plugins, from a clone and from a folder, with no
// registry and no network.
func TestAnotherRepositoryGeneratesAClientFromThisOne(t *testing.T) {
	root, dir := realbridge.Root(), t.TempDir()
	plugins := filepath.Join(dir, "bin")
	run(t, root, nil, "go", "build", "-o", plugins+"/", "google.golang.org/protobuf/cmd/protoc-gen-go", "google.golang.org/grpc/cmd/protoc-gen-go-grpc")
	clone := filepath.Join(dir, "clone")
	run(t, dir, nil, "git", "clone", "--quiet", "--no-hardlinks", root, clone)
	// Whatever would go out ends here.
	offline := []string{
		"PATH=" + plugins + ":" + os.Getenv("PATH"), "HOME=" + dir, "XDG_CACHE_HOME=" + dir, "GOPROXY=off", "GOFLAGS=-mod=mod",
		"http_proxy=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1", "HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1",
	}
	for name, input := range map[string]string{
		"git_repo":  fmt.Sprintf("git_repo: %q", clone),
		"directory": fmt.Sprintf("directory: %q", filepath.Join(clone, "proto")),
	} {
		t.Run(name, func(t *testing.T) {
			own := t.TempDir()
			write(t, own, "buf.gen.yaml", fmt.Sprintf(bufGen, input))
			run(t, own, offline, filepath.Join(root, ".bin/buf"), "generate")
			for _, file := range []string{
				"gen/spotbridge/v1/event.pb.go", "gen/spotbridge/v1/subscription.pb.go", "gen/spotbridge/v1/subscription_grpc.pb.go", "gen/spotnana/payload/v1/pnr.pb.go",
			} {
				if text, err := os.ReadFile(filepath.Join(own, file)); err != nil || strings.Contains(string(text), "github.com/spotbridge/spotbridge") {
					t.Errorf("%s is not there, or not of the other repository: %v", file, err)
				}
			}
			if name != "git_repo" || t.Failed() {
				return // the same files; compiling them takes a while
			}
			// The versions are those of this repository, so that they are on the machine.
			mod, err := os.ReadFile(filepath.Join(root, "go.mod"))
			if err != nil {
				t.Fatal(err)
			}
			_, rest, _ := strings.Cut(string(mod), "\n")
			write(t, own, "go.mod", "module example.com/consumer\n"+rest)
			sum, err := os.ReadFile(filepath.Join(root, "go.sum"))
			if err != nil {
				t.Fatal(err)
			}
			write(t, own, "go.sum", string(sum))
			write(t, own, "main.go", consumer)
			modules := strings.TrimSpace(run(t, root, nil, "go", "env", "GOMODCACHE"))
			cache := strings.TrimSpace(run(t, root, nil, "go", "env", "GOCACHE"))
			if got := run(t, own, append(offline, "GOMODCACHE="+modules, "GOCACHE="+cache), "go", "run", "."); got != "spotbridge.v1.Event true\n" {
				t.Errorf("the other repository's program printed %q", got)
			}
		})
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a command and returns what it prints.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
