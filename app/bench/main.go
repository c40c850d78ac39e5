// Command bench prints each figure of the performance table beside its baseline, measured in the same run, as a ratio.
// Baseline and bridge take turns, round by round, and the ratio is the median of the rounds' ratios: these figures hold
// on a noisy machine where absolute ones do not. Load goes to loopback only and is bounded in time and count.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spotbridge/spotbridge/app"
)

type bench struct {
	rounds   int
	duration time.Duration
	events   int
	dir      string
	rows     []row
}

// row is one line of the table.
type row struct {
	what, bridge, baseline, ratio, goal string
}

func (b *bench) add(r row) {
	b.rows = append(b.rows, r)
	fmt.Printf("%-58s  %-34s  %-34s  %-9s  %s\n", r.what, r.bridge, r.baseline, r.ratio, r.goal)
}

func main() {
	var b bench
	only := flag.String("only", "", "comma-separated parts: ingest, latency, fanout, steady, replay, groups, history, convert; empty = all")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds of baseline and bridge")
	flag.DurationVar(&b.duration, "duration", 2*time.Second, "length of one measurement")
	flag.IntVar(&b.events, "events", 1_000_000, "events in the history part")
	flag.StringVar(&b.dir, "dir", "", "folder for the data; empty = a temporary one")
	profile := flag.String("cpuprofile", "", "write a CPU profile to this file")
	flag.Parse()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
	}
	release := app.ReserveHeap() // as serve does; it is the baseline's as well
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := b.run(ctx, *only)
	stop()
	release()
	pprof.StopCPUProfile()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (b *bench) run(ctx context.Context, only string) error {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "spotbridge-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b.dir = dir
	}
	fmt.Printf("%s %s/%s, %d CPUs; %d rounds of %v; medians; client and server share the machine\n\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), b.rounds, b.duration)
	b.add(row{"what", "bridge", "baseline", "ratio", "to reach"})
	parts := []struct {
		name string
		run  func(context.Context) error
	}{
		{"ingest", b.ingest}, {"latency", b.latency}, {"fanout", b.fanout}, {"steady", b.steady}, {"replay", b.replay}, {"groups", b.groups}, {"history", b.history}, {"convert", b.convert},
	}
	for _, p := range parts {
		if only != "" && !slices.Contains(strings.Split(only, ","), p.name) {
			continue
		}
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	return nil
}

// cpu returns the processor time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median[T ~int64 | ~float64](v []T) T {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func percentile(v []time.Duration, p float64) time.Duration {
	if len(v) == 0 {
		return 0
	}
	v = slices.Clone(v)
	slices.Sort(v)
	return v[min(len(v)-1, int(float64(len(v))*p))]
}

// sample is one measurement.
type sample struct {
	rate     float64 // per second
	p50, p99 time.Duration
	cpuPer   time.Duration
}

// pair measures the two in turn and returns the median samples and the median of the ratios of rates.
func (b *bench) pair(bridge, baseline func() (sample, error)) (x, y sample, ratio float64, err error) {
	var xs, ys []sample
	var ratios []float64
	for range b.rounds {
		s, err := baseline()
		if err != nil {
			return x, y, 0, err
		}
		t, err := bridge()
		if err != nil {
			return x, y, 0, err
		}
		xs, ys, ratios = append(xs, t), append(ys, s), append(ratios, t.rate/s.rate)
	}
	return medianSample(xs), medianSample(ys), median(ratios), nil
}

func medianSample(v []sample) sample {
	var rate []float64
	var p50, p99, c []time.Duration
	for _, s := range v {
		rate, p50, p99, c = append(rate, s.rate), append(p50, s.p50), append(p99, s.p99), append(c, s.cpuPer)
	}
	return sample{median(rate), median(p50), median(p99), median(c)}
}

func (s sample) String() string {
	return fmt.Sprintf("%.0f/s p50 %s p99 %s cpu %s", s.rate, short(s.p50), short(s.p99), short(s.cpuPer))
}

func short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Millisecond:
		return fmt.Sprintf("%.0fµs", float64(d)/1e3)
	default:
		return fmt.Sprintf("%.2fms", float64(d)/1e6)
	}
}
