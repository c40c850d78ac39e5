package projection

import (
	"log/slog"
	"time"
)

const (
	// Catching up is reported when it is about at least so many sequences, and so often.
	progressFrom  = 10_000
	progressEvery = 5 * time.Second
)

// progress reports how catching up with the log goes.
type progress struct {
	log         *slog.Logger
	file        string
	from, to    uint64
	begin, last time.Time
}

// newProgress begins a report about the sequences after from, up to to.
func newProgress(log *slog.Logger, file string, from, to uint64) *progress {
	now := time.Now()
	p := &progress{log: log, file: file, from: from, to: to, begin: now, last: now}
	if p.worth() {
		log.Info(file+" catches up with the log", "after", from, "head", to, "sequences", to-from)
	}
	return p
}

func (p *progress) worth() bool { return p.to > p.from && p.to-p.from >= progressFrom }

// at reports, now and then, that catching up has come to seq.
func (p *progress) at(seq uint64) {
	now := time.Now()
	if !p.worth() || seq >= p.to || seq <= p.from || now.Sub(p.last) < progressEvery {
		return
	}
	p.last = now
	elapsed := now.Sub(p.begin)
	left := time.Duration(float64(elapsed) * float64(p.to-seq) / float64(seq-p.from))
	p.log.Info(p.file+" catches up with the log", "at", seq, "head", p.to,
		"percent", 100*(seq-p.from)/(p.to-p.from), "per_second", int64(float64(seq-p.from)/elapsed.Seconds()),
		"time_left", left.Round(time.Second).String())
}

// end reports that it is done.
func (p *progress) end() {
	elapsed := time.Since(p.begin)
	if p.worth() {
		p.log.Info(p.file+" has caught up with the log", "head", p.to, "sequences", p.to-p.from,
			"per_second", int64(float64(p.to-p.from)/max(elapsed.Seconds(), 1e-3)), "took", elapsed.Round(time.Millisecond).String())
	}
}
