package eventlog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/spotbridge/spotbridge/bridge"
)

const (
	streamName = "spotbridge_log"
	// DedupWindow is how long the stream remembers message ids. It serves races between replicas and retried appends
	// only; every id in it costs memory and start-up time.
	DedupWindow = 2 * time.Minute
	// headerRoom is what subject and headers of an entry may need beside the body.
	headerRoom = 128 << 10

	metaLogID  = "spotbridge_log_id"
	metaFormat = "spotbridge_log_format"
	format     = "1"

	durabilityAcked = "acked"
)

// Config says where the log is and how large it may become.
type Config struct {
	// Dir holds the embedded server's files. Ignored with URL.
	Dir string
	// URL of an external NATS server or cluster; empty = embedded.
	URL string
	// CredentialsFile for the external server; empty = none.
	CredentialsFile string
	// Replicas of the stream: 1 embedded, 1 to 5 external.
	Replicas int
	// Durability is the operator's declaration for an external server: "synced" or "acked".
	Durability string
	// MaxAge and MaxBytes bound what is held; the oldest entries go first. MaxBytes 0 = min(20 GiB, half of the disk).
	MaxAge   time.Duration
	MaxBytes int64
	// MaxBody is the largest body of any source.
	MaxBody int64
	// Reserve is the free disk space below which the embedded log takes nothing more; 0 = 1 GiB or 5 % of the disk,
	// whichever is smaller.
	Reserve int64
	// FreeSpace asks for the free and total bytes of a folder's disk; nil = the operating system. For tests.
	FreeSpace func(dir string) (free, total uint64, err error)
	// DedupWindow overrides the stream's message-id window; 0 = DedupWindow. For tests.
	DedupWindow time.Duration

	// openJournalFile overrides how files of the journal are opened. For tests.
	openJournalFile func(path string) (journalFile, error)

	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Log is the log over JetStream. It implements bridge.Log.
type Log struct {
	cfg     Config
	ns      *server.Server // nil when external
	append  *nats.Conn     // its own connection: acks never wait behind what a reader is sent
	read    *nats.Conn
	appJS   jetstream.JetStream
	readJS  jetstream.JetStream
	stream  jetstream.Stream
	id      bridge.LogID
	space   *spaceMonitor // nil when external
	journal *journal      // nil when external: the server has its own way to be durable, and others append there too
	tail    *tail         // nil when external
	metrics *metrics
}

var _ bridge.Log = (*Log)(nil)

// Open starts or connects to the server, makes sure that the stream exists with the configured limits, and returns the
// log. A server that cannot hold the log is refused with the remedy.
func Open(ctx context.Context, cfg Config) (_ *Log, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Replicas = max(cfg.Replicas, 1)
	if cfg.DedupWindow == 0 {
		cfg.DedupWindow = DedupWindow
	}
	if cfg.FreeSpace == nil {
		cfg.FreeSpace = diskSpace
	}
	if cfg.openJournalFile == nil {
		cfg.openJournalFile = openJournalFile
	}
	l := &Log{cfg: cfg, metrics: newMetrics(cfg.Registerer)}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if cfg.URL == "" {
		if err := l.embed(); err != nil {
			return nil, err
		}
	}
	if l.append, err = l.connect("append"); err != nil {
		return nil, err
	}
	if l.read, err = l.connect("read"); err != nil {
		return nil, err
	}
	if l.appJS, err = jetstream.New(l.append); err != nil {
		return nil, err
	}
	if l.readJS, err = jetstream.New(l.read); err != nil {
		return nil, err
	}
	if err := l.checkServer(ctx); err != nil {
		return nil, err
	}
	if err := l.ensureStream(ctx); err != nil {
		return nil, err
	}
	if l.ns != nil {
		if err := l.openJournal(ctx); err != nil {
			return nil, err
		}
	}
	return l, nil
}

func (l *Log) openJournal(ctx context.Context) (err error) {
	t := newTail()
	l.journal, err = openJournal(ctx, journalConfig{
		dir: filepath.Join(l.cfg.Dir, "journal"), id: l.id, dedup: l.cfg.DedupWindow,
		logger: l.cfg.Logger, metrics: l.metrics, stream: logStream{l}, confirm: t.put, open: l.cfg.openJournalFile,
	})
	if err != nil {
		return err
	}
	t.begin(l.journal.head())
	l.tail = t
	return nil
}

// connect opens a connection. What how says goes for the embedded server only.
func (l *Log) connect(role string, how ...func(nats.InProcessConnProvider) nats.InProcessConnProvider) (*nats.Conn, error) {
	opts := []nats.Option{
		nats.Name("spotbridge " + role),
		nats.MaxReconnects(-1),
		nats.ReconnectJitter(100*time.Millisecond, time.Second),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				l.cfg.Logger.Warn("log connection lost, reconnecting", "connection", role, "error", err)
			}
		}),
		nats.ReconnectHandler(func(*nats.Conn) { l.cfg.Logger.Info("log connection is back", "connection", role) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			l.cfg.Logger.Warn("log connection error", "connection", role, "error", err)
		}),
		// A delivery must learn at once that the log is away: nothing is buffered for later.
		nats.ReconnectBufSize(-1),
	}
	if l.ns != nil {
		var server nats.InProcessConnProvider = l.ns
		for _, f := range how {
			server = f(server)
		}
		nc, err := nats.Connect("", append(opts, nats.InProcessServer(server))...)
		if err != nil {
			return nil, fmt.Errorf("connect to the embedded log: %w", err)
		}
		return nc, nil
	}
	if l.cfg.CredentialsFile != "" {
		opts = append(opts, nats.UserCredentials(l.cfg.CredentialsFile))
	}
	nc, err := nats.Connect(l.cfg.URL, opts...)
	if err != nil {
		// The URL may hold a password: it is not printed.
		return nil, fmt.Errorf("connect to the NATS server of log.url: %w; check log.url, log.credentials_file and that the server runs", err)
	}
	return nc, nil
}

func (l *Log) checkServer(ctx context.Context) error {
	if need := l.cfg.MaxBody + headerRoom; l.append.MaxPayload() < need {
		return fmt.Errorf("the NATS server's max_payload is %d bytes and the largest body needs %d: raise max_payload there, or lower max_body of the sources",
			l.append.MaxPayload(), need)
	}
	if _, err := l.appJS.AccountInfo(ctx); err != nil {
		if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders) {
			return fmt.Errorf("the NATS server of log.url has no JetStream for this account: enable jetstream there: %w", err)
		}
		return fmt.Errorf("ask the NATS server about JetStream: %w", err)
	}
	return nil
}

func (l *Log) ensureStream(ctx context.Context) error {
	info, err := l.appJS.Stream(ctx, streamName)
	var have jetstream.StreamConfig
	switch {
	case err == nil:
		have = info.CachedInfo().Config
	case errors.Is(err, jetstream.ErrStreamNotFound):
	default:
		return fmt.Errorf("look up the log's stream: %w", err)
	}
	want, err := l.streamConfig(have)
	if err != nil {
		return err
	}
	if have.Name == "" {
		l.stream, err = l.appJS.CreateStream(ctx, want)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another replica was faster
			return l.ensureStream(ctx)
		}
		if err != nil {
			return fmt.Errorf("create the log's stream: %w", err)
		}
	} else if l.stream, err = l.appJS.UpdateStream(ctx, want); err != nil {
		return fmt.Errorf("update the log's stream %s to the configured limits: %w", streamName, err)
	}
	meta := l.stream.CachedInfo().Config.Metadata
	if f := meta[metaFormat]; f != format {
		return fmt.Errorf("the log was written in format %q and this version reads %q: run the version that wrote it", f, format)
	}
	id, err := hex.DecodeString(meta[metaLogID])
	if err != nil || len(id) != len(l.id) {
		return fmt.Errorf("the log's stream %s has no readable identity in its metadata %s", streamName, metaLogID)
	}
	copy(l.id[:], id)
	return nil
}

func (l *Log) streamConfig(have jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	maxBytes := l.cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = 20 << 30
		if l.space != nil {
			maxBytes = min(maxBytes, l.space.halfOfDisk())
		}
	}
	meta := map[string]string{metaFormat: format}
	for k, v := range have.Metadata {
		meta[k] = v
	}
	if meta[metaLogID] == "" {
		var id bridge.LogID
		if _, err := rand.Read(id[:]); err != nil {
			return jetstream.StreamConfig{}, err
		}
		meta[metaLogID] = hex.EncodeToString(id[:])
	}
	cfg := have // keeps what an operator set and we do not care about, such as placement
	cfg.Name = streamName
	cfg.Description = "spotbridge: every accepted delivery, exact bytes, in order"
	cfg.Subjects = []string{"ev.>", "q.>", "x.>"}
	cfg.Retention = jetstream.LimitsPolicy
	cfg.Storage = jetstream.FileStorage
	cfg.Discard = jetstream.DiscardOld
	cfg.Replicas = l.cfg.Replicas
	cfg.MaxAge = l.cfg.MaxAge
	cfg.MaxBytes = maxBytes
	cfg.MaxMsgs, cfg.MaxMsgsPerSubject, cfg.MaxConsumers = -1, -1, -1
	cfg.MaxMsgSize = -1
	cfg.Duplicates = l.cfg.DedupWindow
	if cfg.MaxAge > 0 {
		cfg.Duplicates = min(cfg.Duplicates, cfg.MaxAge)
	}
	cfg.Compression = jetstream.S2Compression
	cfg.AllowDirect = true
	cfg.AllowAtomicPublish = have.AllowAtomicPublish || l.ns != nil // the journal's pump
	cfg.Metadata = meta
	return cfg, nil
}

// ID returns the log's identity.
func (l *Log) ID() bridge.LogID { return l.id }

// Durability says in words what an append promises, for the log and /readyz.
func (l *Log) Durability() string {
	switch {
	case l.ns != nil:
		return "embedded, on disk before the answer"
	case l.cfg.Durability == durabilityAcked:
		return "external, as the server acknowledges (declared by log.durability: acked); a power cut may lose acknowledged events"
	default:
		return "external, on the quorum's disks before the answer (declared by log.durability: synced; needs sync_interval: always on every server)"
	}
}

// Healthy returns nil when the log can be expected to take an append: it is connected, and there is disk space.
func (l *Log) Healthy() error {
	if !l.append.IsConnected() {
		return errors.New("log: not connected to the NATS server")
	}
	if l.space != nil {
		if err := l.space.check(); err != nil {
			return err
		}
	}
	if l.journal != nil {
		if err := l.journal.health(); err != nil {
			return fmt.Errorf("log: %w", err)
		}
	}
	if l.ns != nil && !l.ns.JetStreamEnabled() {
		return errors.New("log: the embedded JetStream has shut itself down, most likely for want of disk space; free some and restart")
	}
	return nil
}

// State returns the present state of the log.
func (l *Log) State(ctx context.Context) (bridge.LogState, error) {
	info, err := l.stream.Info(ctx)
	if err != nil {
		return bridge.LogState{}, unavailable(ctx, fmt.Errorf("read the log's state: %w", err))
	}
	s := info.State
	st := bridge.LogState{
		ID: l.id, Floor: s.FirstSeq, Head: s.LastSeq, FloorTime: s.FirstTime, HeadTime: s.LastTime,
		Entries: s.Msgs, Bytes: s.Bytes, MaxAge: info.Config.MaxAge, MaxBytes: uint64(max(info.Config.MaxBytes, 0)),
	}
	if s.Msgs == 0 {
		st.Floor, st.FloorTime, st.HeadTime = s.LastSeq+1, time.Time{}, time.Time{}
	}
	if l.journal != nil {
		l.journal.addTo(&st)
	}
	return st, nil
}

// Close ends the connections and stops the embedded server. Appends and reads must have ended.
func (l *Log) Close() {
	if l.journal != nil {
		l.journal.close()
	}
	if l.append != nil {
		l.append.Close()
	}
	if l.read != nil {
		l.read.Close()
	}
	if l.space != nil {
		l.space.stop()
	}
	if l.ns != nil {
		l.ns.Shutdown()
		l.ns.WaitForShutdown()
	}
}

// unavailable gives the error its meaning at the contract's edge: the caller's own deadline stays what it is.
func unavailable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return bridge.LogUnavailable(err)
}

func (l *Log) embed() error {
	dir, err := filepath.Abs(l.cfg.Dir)
	if err != nil {
		return err
	}
	if l.space, err = newSpaceMonitor(dir, l.cfg.Reserve, l.cfg.FreeSpace, l.metrics); err != nil {
		return err
	}
	maxBytes := l.cfg.MaxBytes
	if maxBytes == 0 {
		maxBytes = 20 << 30
	}
	payload := l.cfg.MaxBody + headerRoom
	if payload > 256<<20 {
		return fmt.Errorf("max_body of %s bytes is more than the log can hold in one entry: lower it below 255 MiB", strconv.FormatInt(l.cfg.MaxBody, 10))
	}
	ns, err := server.NewServer(&server.Options{
		ServerName:         "spotbridge",
		DontListen:         true,
		NoSigs:             true,
		JetStream:          true,
		StoreDir:           dir,
		SyncAlways:         true, // a default PubAck is not on disk
		JetStreamMaxStore:  maxBytes + 8<<30,
		JetStreamMaxMemory: 64 << 20,
		MaxPayload:         int32(payload),
		MaxPending:         512 << 20, // a catch-up on this process' own connection is no slow consumer
		WriteDeadline:      30 * time.Second,
		NoSystemAccount:    true,
	})
	if err != nil {
		return fmt.Errorf("set up the embedded log: %w", err)
	}
	ns.SetLogger(serverLogger{l.cfg.Logger}, false, false)
	ns.Start()
	l.ns = ns
	if !ns.ReadyForConnections(60 * time.Second) {
		return fmt.Errorf("the embedded log in %s did not start within 60 s: the log lines above have the cause", dir)
	}
	if !ns.JetStreamEnabled() {
		return fmt.Errorf("the embedded log could not open its store in %s: the log lines above have the cause (a full disk, missing permissions or a damaged file)", dir)
	}
	return nil
}

// serverLogger passes the embedded server's warnings and errors on.
type serverLogger struct{ log *slog.Logger }

func (s serverLogger) Noticef(f string, v ...any) {
	s.log.Debug("embedded log: " + fmt.Sprintf(f, v...))
}
func (s serverLogger) Warnf(f string, v ...any) { s.log.Warn("embedded log: " + fmt.Sprintf(f, v...)) }
func (s serverLogger) Fatalf(f string, v ...any) {
	s.log.Error("embedded log: " + fmt.Sprintf(f, v...))
}
func (s serverLogger) Errorf(f string, v ...any) {
	s.log.Error("embedded log: " + fmt.Sprintf(f, v...))
}
func (s serverLogger) Debugf(string, ...any) {}
func (s serverLogger) Tracef(string, ...any) {}
