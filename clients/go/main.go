// Command expense-feed keeps a table of expenses up to date from a bridge, over REST alone: it subscribes with
// server-sent events and needs nothing of gRPC. Tickets that are issued become expenses, voided ones are reversed, refunded
// ones are reduced. See ../README.md for what it shares with the clients in other languages.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = "usage: expense-feed [run | dump | processed]"

// errUsage stands for wrong arguments or environment: exit code 2.
var errUsage = errors.New("wrong usage")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	err := command(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "expense-feed:", strings.Join(strings.Fields(err.Error()), " "))
	}
	os.Exit(exitCode(err))
}

func exitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errUsage):
		return 2
	}
	return 1
}

func command(ctx context.Context, args []string, getenv func(string) string, out, notices io.Writer) (err error) {
	name := "run"
	if len(args) > 0 {
		name = args[0]
	}
	if len(args) > 1 || name != "run" && name != "dump" && name != "processed" {
		return fmt.Errorf("%w; %s", errUsage, usage)
	}
	c, err := configure(getenv)
	if err != nil {
		return err
	}
	s, err := openStore(c.db)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	switch name {
	case "dump":
		return s.dump(out)
	case "processed":
		return s.processed(out)
	}
	f := &feed{
		bridge: c.bridge, heartbeat: c.heartbeat, store: s, client: &http.Client{}, notices: notices,
		backoff: backoff{first: 250 * time.Millisecond, last: 15 * time.Second},
	}
	return f.run(ctx)
}

type config struct {
	bridge    string
	heartbeat time.Duration
	db        string
}

func configure(getenv func(string) string) (config, error) {
	value := func(name, otherwise string) string {
		if v := getenv(name); v != "" {
			return v
		}
		return otherwise
	}
	c := config{
		bridge: strings.TrimRight(value("SPOTBRIDGE_REST", "http://127.0.0.1:8081"), "/"),
		db:     value("EXPENSES_DB", "expenses.db"),
	}
	if u, err := url.Parse(c.bridge); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return c, fmt.Errorf("%w: SPOTBRIDGE_REST is a base URL such as http://127.0.0.1:8081", errUsage)
	}
	var err error
	c.heartbeat, err = time.ParseDuration(value("SPOTBRIDGE_HEARTBEAT", "15s"))
	if err != nil || c.heartbeat < 5*time.Second || c.heartbeat > time.Minute || c.heartbeat%time.Second != 0 {
		return c, fmt.Errorf("%w: SPOTBRIDGE_HEARTBEAT is 5s to 60s, in whole seconds", errUsage)
	}
	return c, nil
}
