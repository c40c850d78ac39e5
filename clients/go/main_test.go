package main

import (
	"bytes"
	"errors"
	"path/filepath"
	"testing"
	"time"
)

func TestCommandLine(t *testing.T) {
	db := filepath.Join(t.TempDir(), "new.db")
	for _, c := range []struct {
		name string
		args []string
		env  map[string]string
		want int
	}{
		{"dump needs no bridge and no table", []string{"dump"}, nil, 0},
		{"nor does processed", []string{"processed"}, nil, 0},
		{"an unknown command", []string{"consume"}, nil, 2},
		{"too many", []string{"dump", "now"}, nil, 2},
		{"no base URL", nil, map[string]string{"SPOTBRIDGE_REST": "127.0.0.1:8081"}, 2},
		{"a heartbeat too short", nil, map[string]string{"SPOTBRIDGE_HEARTBEAT": "4s"}, 2},
		{"a heartbeat too long", nil, map[string]string{"SPOTBRIDGE_HEARTBEAT": "61s"}, 2},
		{"a heartbeat of half a second", nil, map[string]string{"SPOTBRIDGE_HEARTBEAT": "5500ms"}, 2},
		{"a folder that is not there", []string{"dump"}, map[string]string{"EXPENSES_DB": filepath.Join(t.TempDir(), "no", "x.db")}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			env := map[string]string{"EXPENSES_DB": db}
			for k, v := range c.env {
				env[k] = v
			}
			var out bytes.Buffer
			err := command(t.Context(), c.args, func(k string) string { return env[k] }, &out, t.Output())
			if exitCode(err) != c.want || out.Len() > 0 {
				t.Errorf("exit code %d, %v, output %q", exitCode(err), err, &out)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	c, err := configure(func(string) string { return "" })
	if err != nil || c != (config{"http://127.0.0.1:8081", 15 * time.Second, "expenses.db"}) {
		t.Errorf("%+v, %v", c, err)
	}
	c, err = configure(func(k string) string {
		return map[string]string{"SPOTBRIDGE_REST": "https://bridge.example/", "SPOTBRIDGE_HEARTBEAT": "1m"}[k]
	})
	if err != nil || c.bridge != "https://bridge.example" || c.heartbeat != time.Minute {
		t.Errorf("%+v, %v", c, err)
	}
	if exitCode(errors.New("x")) != 1 {
		t.Error("an error is no success")
	}
}
