package app_test

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spotbridge/spotbridge/app"
)

func TestTheDocumentNamesEveryKeyWithItsDefault(t *testing.T) {
	b, err := os.ReadFile("../docs/configuration.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	rows := map[string]bool{}
	for _, k := range app.Keys() {
		row := fmt.Sprintf("| `%s` | `%s` | `%s` |", k.Path, k.Env, k.Default)
		if !strings.Contains(doc, row) {
			t.Errorf("docs/configuration.md lacks the row %s", row)
		}
		rows["`"+k.Path+"`"] = true
	}
	source := reflect.TypeFor[app.Source]()
	for i := range source.NumField() {
		name := "`" + source.Field(i).Tag.Get("yaml") + "`"
		if !strings.Contains(doc, "\n| "+name+" |") {
			t.Errorf("docs/configuration.md lacks the source key %s", name)
		}
		rows[name] = true
	}
	for line := range strings.Lines(doc) {
		if key, _, ok := strings.Cut(strings.TrimPrefix(line, "| "), " |"); ok && strings.HasPrefix(line, "| `") && !rows[key] {
			t.Errorf("docs/configuration.md documents %s, which is no key", key)
		}
	}
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLaterSourcesOfValuesWin(t *testing.T) {
	path := write(t, "listen: {grpc: 127.0.0.1:1, rest: 127.0.0.1:1, admin: 127.0.0.1:1}\nlog: {max_bytes: 1GiB}\n")
	cfg, err := app.Load(path, []string{"SPOTBRIDGE_LISTEN_REST=127.0.0.1:2", "SPOTBRIDGE_LISTEN_ADMIN=127.0.0.1:2", "OTHER=x",
		"SPOTBRIDGE_SOURCES=[{name: a, secrets: [env:X], max_age: off, max_body: 1MiB}]"},
		map[string]string{"listen.admin": "127.0.0.1:3", "log.max_age": "10d"})
	if err != nil {
		t.Fatal(err)
	}
	want := app.ListenConfig{Webhook: "127.0.0.1:8080", GRPC: "127.0.0.1:1", REST: "127.0.0.1:2", Admin: "127.0.0.1:3"}
	if cfg.Listen != want || cfg.Log.MaxBytes != 1<<30 || time.Duration(cfg.Log.MaxAge) != 240*time.Hour {
		t.Errorf("%+v", cfg)
	}
	if len(cfg.Sources) != 1 || cfg.Sources[0].Name != "a" || *cfg.Sources[0].MaxAge != 0 || *cfg.Sources[0].MaxBody != 1<<20 {
		t.Errorf("%+v", cfg.Sources)
	}
}

func TestVariablesOfOthersAreIgnored(t *testing.T) {
	environ := []string{"SPOTBRIDGE_GRPC=x", "SPOTBRIDGE_HEARTBEAT=15s", "SPOTBRIDGE_SERVICE_HOST=x", "SPOTBRIDGE_PORT_9090_TCP=tcp://x", "SPOTBRIDGE_PORT=x"}
	if cfg, err := app.Load("", environ, nil); err != nil || !reflect.DeepEqual(cfg, app.DefaultConfig()) {
		t.Fatalf("%+v, %v", cfg, err)
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for _, tt := range []struct{ name, yaml, env, want string }{
		{"unknown key", "lisen: {}", "", "lisen"},
		{"unknown variable", "", "SPOTBRIDGE_LISTEN_GRPCC=x", "SPOTBRIDGE_LISTEN_GRPCC"},
		{"duration", "log: {max_age: soon}", "", "is no duration"},
		{"size", "", "SPOTBRIDGE_LOG_MAX_BYTES=many", "is no size"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := app.Load(write(t, tt.yaml), []string{tt.env}, nil)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want something with %q", err, tt.want)
			}
		})
	}
}

func TestValidateReportsEverythingAndNoSecret(t *testing.T) {
	canary := "whsec_canary+canary"
	cfg := app.DefaultConfig()
	cfg.DataDir = ""
	cfg.Listen.GRPC, cfg.Listen.Webhook = "0.0.0.0:1", "nonsense"
	cfg.Sources = []app.Source{
		{Name: "Bad Name", Secrets: []app.Secret{app.Secret(canary + "!")}},
		{Name: "a", Path: "x"}, {Name: "a", Secrets: []app.Secret{"env:SPOTBRIDGE_TEST_NOT_SET"}},
	}
	cfg.TLS.Webhook.CertFile = "x"
	cfg.Log.Replicas, cfg.Log.Durability, cfg.Auth.Mode = 3, "maybe", "none"
	err := cfg.Validate()
	if err == nil {
		t.Fatal("nothing was wrong")
	}
	for _, want := range []string{"data_dir", "listen.grpc", "listen.webhook", "sources[0].name", "sources[0].secrets[0]", "sources[1].path", "sources[1].secrets",
		"used twice", "SPOTBRIDGE_TEST_NOT_SET", "tls.webhook", "log.replicas", "log.durability"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "canary") || strings.Contains(fmt.Sprintf("%v %+v %#v", cfg, cfg, cfg), "canary") {
		t.Error("a secret was printed")
	}
}

func TestADecodingErrorDoesNotQuoteASecret(t *testing.T) {
	_, err := app.Load(write(t, "sources: whsec_canary"), nil, nil)
	if err == nil || strings.Contains(err.Error(), "canary") {
		t.Fatal(err)
	}
}
