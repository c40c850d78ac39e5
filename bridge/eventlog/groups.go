package eventlog

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const (
	groupStreamName = "spotbridge_groups"
	groupBucket     = "spotbridge_groups"

	recordPrefix = "group."
	markPrefix   = "mark."

	// letterWindow is how long a dead letter's or a redrive's id is remembered: longer than the longest ack deadline, after
	// which a bridge that crashed between writing and acknowledging would write it again.
	letterWindow = 20 * time.Minute
	// orphanAge is the age at which a queue that no record names is removed: its group is not being created any more.
	orphanAge = 10 * time.Minute
)

// GroupConfig bounds what groups keep.
type GroupConfig struct {
	// LetterBytes is the size of the stream that holds dead letters, redriven events and the audit. When it is full, nothing
	// is dropped: events that should become dead letters stay in their groups.
	LetterBytes int64
}

// GroupStore keeps consumer groups in JetStream. It implements bridge.GroupStore.
type GroupStore struct {
	log     *Log
	nc      *nats.Conn // its own connection: neither appends nor the follower wait behind what members are sent
	pull    *nats.Conn // what the log's queues give out
	js      jetstream.JetStream
	records jetstream.KeyValue
	letters jetstream.Stream
}

var _ bridge.GroupStore = (*GroupStore)(nil)

// OpenGroups makes sure that there is room for groups beside the log, and that the queues fit the records.
func (l *Log) OpenGroups(ctx context.Context, cfg GroupConfig) (_ *GroupStore, err error) {
	if cfg.LetterBytes <= 0 {
		cfg.LetterBytes = 4 << 30
	}
	s := &GroupStore{log: l}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	if s.nc, err = l.connect("groups"); err != nil {
		return nil, err
	}
	if s.pull, err = l.connect("pull", withoutHeaders); err != nil {
		return nil, err
	}
	if s.js, err = jetstream.New(s.nc); err != nil {
		return nil, err
	}
	kv := jetstream.KeyValueConfig{
		Bucket: groupBucket, Description: "spotbridge: consumer groups, their settings and progress", History: 1,
		Storage: jetstream.FileStorage, Replicas: l.cfg.Replicas, MaxBytes: -1,
	}
	if s.records, err = s.js.CreateOrUpdateKeyValue(ctx, kv); err != nil {
		return nil, fmt.Errorf("create the bucket of consumer groups: %w", err)
	}
	s.letters, err = s.js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: groupStreamName, Description: "spotbridge: dead letters, redriven events and the audit of consumer groups",
		Subjects:  []string{"dead.*", "redrive.*", "audit.*"},
		Retention: jetstream.LimitsPolicy, Storage: jetstream.FileStorage, Discard: jetstream.DiscardNew, Replicas: l.cfg.Replicas,
		MaxBytes: cfg.LetterBytes, MaxMsgs: -1, MaxMsgsPerSubject: -1, MaxConsumers: -1, MaxMsgSize: -1,
		Duplicates: letterWindow, Compression: jetstream.S2Compression, AllowDirect: true,
	})
	if err != nil {
		return nil, fmt.Errorf("create the stream of dead letters: %w", err)
	}
	if err := s.reconcile(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the connections. Takers must have been closed.
func (s *GroupStore) Close() {
	if s.pull != nil {
		s.pull.Close()
	}
	if s.nc != nil {
		_ = s.nc.FlushTimeout(2 * time.Second) // acks on their way
		s.nc.Close()
	}
}

// storedRecord is a record in the bucket.
type storedRecord struct {
	Key           string          `json:"key"`
	Epoch         uint64          `json:"epoch"`
	Queue         string          `json:"queue"`
	After         uint64          `json:"after"`
	Description   string          `json:"description,omitempty"`
	Filter        json.RawMessage `json:"filter,omitempty"`
	View          int32           `json:"view"`
	AckDeadline   time.Duration   `json:"ack_deadline"`
	MaxDeliveries int             `json:"max_deliveries"`
	Paused        bool            `json:"paused,omitempty"`
	CreateTime    time.Time       `json:"create_time"`
	UpdateTime    time.Time       `json:"update_time"`
}

func encodeRecord(r *bridge.GroupRecord) ([]byte, error) {
	out := storedRecord{
		Key: hex.EncodeToString(r.Key[:]), Epoch: r.Epoch, Queue: r.Queue, After: r.After, Description: r.Settings.Description,
		View: int32(r.Settings.View), AckDeadline: r.Settings.AckDeadline, MaxDeliveries: r.Settings.MaxDeliveries,
		Paused: r.Paused, CreateTime: r.CreateTime, UpdateTime: r.UpdateTime,
	}
	if !r.Settings.Filter.MatchesAll() {
		b, err := protojson.Marshal(r.Settings.Filter.Message)
		if err != nil {
			return nil, err
		}
		out.Filter = b
	}
	return json.Marshal(out)
}

func decodeRecord(e jetstream.KeyValueEntry) (*bridge.GroupRecord, error) {
	var in storedRecord
	if err := json.Unmarshal(e.Value(), &in); err != nil {
		return nil, err
	}
	key, err := hex.DecodeString(in.Key)
	if err != nil {
		return nil, err
	}
	var filter pb.EventFilter
	if len(in.Filter) > 0 {
		// Written by a later version, it may have a field that would narrow it: that is not passed over.
		if err := protojson.Unmarshal(in.Filter, &filter); err != nil {
			return nil, err
		}
	}
	f, err := bridge.CompileFilter(&filter, "filter")
	if err != nil {
		return nil, err
	}
	r := &bridge.GroupRecord{
		Name: strings.TrimPrefix(e.Key(), recordPrefix), Epoch: in.Epoch, Queue: in.Queue, After: in.After, Paused: in.Paused,
		CreateTime: in.CreateTime, UpdateTime: in.UpdateTime, Revision: e.Revision(),
		Settings: bridge.GroupSettings{
			Description: in.Description, Filter: f, View: pb.EventView(in.View), AckDeadline: in.AckDeadline, MaxDeliveries: in.MaxDeliveries,
		},
	}
	if copy(r.Key[:], key) != len(r.Key) {
		return nil, errors.New("the key is too short")
	}
	return r, nil
}

func newQueueName() string {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// CreateGroup implements bridge.GroupStore. The record comes last: what a crash leaves behind is removed at a later start.
func (s *GroupStore) CreateGroup(ctx context.Context, r *bridge.GroupRecord) error {
	if _, err := rand.Read(r.Key[:]); err != nil {
		return err
	}
	r.Queue = newQueueName()
	if err := s.ensureQueues(ctx, r); err != nil {
		return err
	}
	b, err := encodeRecord(r)
	if err != nil {
		return err
	}
	if r.Revision, err = s.records.Create(ctx, recordPrefix+r.Name, b); err != nil {
		s.dropQueues(ctx, r)
		if errors.Is(err, jetstream.ErrKeyExists) {
			return fmt.Errorf("create %s: %w", r.Name, bridge.ErrGroupExists)
		}
		return unavailable(ctx, fmt.Errorf("create group %s: %w", r.Name, err))
	}
	return nil
}

// Group implements bridge.GroupStore.
func (s *GroupStore) Group(ctx context.Context, name string) (*bridge.GroupRecord, error) {
	e, err := s.records.Get(ctx, recordPrefix+name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("%s: %w", name, bridge.ErrNoGroup)
	}
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("read group %s: %w", name, err))
	}
	r, err := decodeRecord(e)
	if err != nil {
		return nil, fmt.Errorf("the record of group %s cannot be read: %w", name, err)
	}
	return r, nil
}

// Groups implements bridge.GroupStore.
func (s *GroupStore) Groups(ctx context.Context) ([]string, error) {
	l, err := s.records.ListKeysFiltered(ctx, recordPrefix+">")
	if err != nil {
		return nil, unavailable(ctx, fmt.Errorf("list groups: %w", err))
	}
	var names []string
	for k := range l.Keys() {
		names = append(names, strings.TrimPrefix(k, recordPrefix))
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

// SaveGroup implements bridge.GroupStore. A group that is moved gets its new queue before the record names it, and loses the
// old one afterwards.
func (s *GroupStore) SaveGroup(ctx context.Context, r *bridge.GroupRecord) error {
	old, err := s.Group(ctx, r.Name)
	if err != nil {
		return err
	}
	if old.Revision != r.Revision {
		return fmt.Errorf("save %s: %w", r.Name, bridge.ErrGroupChanged)
	}
	moved := old.Epoch != r.Epoch
	if moved {
		r.Queue = newQueueName()
		if err := s.ensureQueues(ctx, r); err != nil {
			return err
		}
	}
	b, err := encodeRecord(r)
	if err != nil {
		return err
	}
	rev, err := s.records.Update(ctx, recordPrefix+r.Name, b, r.Revision)
	if err != nil {
		if moved {
			s.dropMain(ctx, r)
		}
		if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			return fmt.Errorf("save %s: %w", r.Name, bridge.ErrGroupChanged)
		}
		return unavailable(ctx, fmt.Errorf("save group %s: %w", r.Name, err))
	}
	r.Revision = rev
	if moved {
		s.dropMain(ctx, old)
		return nil
	}
	return s.ensureQueues(ctx, r)
}

// DeleteGroup implements bridge.GroupStore. The record goes first: from then on the group is gone.
func (s *GroupStore) DeleteGroup(ctx context.Context, name string) error {
	r, err := s.Group(ctx, name)
	if err != nil {
		return err
	}
	if err := s.records.Purge(ctx, recordPrefix+name, jetstream.LastRevision(r.Revision)); err != nil {
		if e, ok := errors.AsType[*jetstream.APIError](err); ok && e.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence {
			return fmt.Errorf("delete %s: %w", name, bridge.ErrGroupChanged)
		}
		return unavailable(ctx, fmt.Errorf("delete group %s: %w", name, err))
	}
	s.dropQueues(ctx, r)
	for _, what := range []string{"dead.", "redrive."} {
		if err := s.letters.Purge(ctx, jetstream.WithPurgeSubject(what+name)); err != nil {
			return unavailable(ctx, fmt.Errorf("delete the dead letters of group %s: %w", name, err))
		}
	}
	if err := s.records.Purge(ctx, markPrefix+name); err != nil {
		return unavailable(ctx, fmt.Errorf("delete the progress of group %s: %w", name, err))
	}
	return nil
}

// WatchGroups implements bridge.GroupStore.
func (s *GroupStore) WatchGroups(ctx context.Context, changed func(name string)) error {
	w, err := s.records.Watch(ctx, recordPrefix+">")
	if err != nil {
		return unavailable(ctx, fmt.Errorf("watch groups: %w", err))
	}
	defer func() { _ = w.Stop() }()
	for {
		select {
		case e, ok := <-w.Updates():
			if !ok {
				return unavailable(ctx, errors.New("watch groups: the watch has ended"))
			}
			if e != nil { // nil: the present state has been told
				changed(strings.TrimPrefix(e.Key(), recordPrefix))
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

type storedMark struct {
	Epoch     uint64          `json:"epoch"`
	Settled   uint64          `json:"settled"`
	Delivered uint64          `json:"delivered"`
	InFlight  bool            `json:"in_flight,omitempty"`
	Lost      json.RawMessage `json:"lost,omitempty"`
	Untold    bool            `json:"untold,omitempty"`
}

// Mark implements bridge.GroupStore.
func (s *GroupStore) Mark(ctx context.Context, name string) (bridge.GroupMark, error) {
	e, err := s.records.Get(ctx, markPrefix+name)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return bridge.GroupMark{}, nil
	}
	if err != nil {
		return bridge.GroupMark{}, unavailable(ctx, fmt.Errorf("read the progress of group %s: %w", name, err))
	}
	var in storedMark
	if err := json.Unmarshal(e.Value(), &in); err != nil {
		return bridge.GroupMark{}, fmt.Errorf("the progress of group %s cannot be read: %w", name, err)
	}
	m := bridge.GroupMark{Epoch: in.Epoch, Settled: in.Settled, Delivered: in.Delivered, InFlight: in.InFlight, Untold: in.Untold}
	if len(in.Lost) > 0 {
		m.Lost = &pb.Lost{}
		if err := protojson.Unmarshal(in.Lost, m.Lost); err != nil {
			return bridge.GroupMark{}, fmt.Errorf("the progress of group %s cannot be read: %w", name, err)
		}
	}
	return m, nil
}

// SaveMark implements bridge.GroupStore.
func (s *GroupStore) SaveMark(ctx context.Context, name string, m bridge.GroupMark) error {
	out := storedMark{Epoch: m.Epoch, Settled: m.Settled, Delivered: m.Delivered, InFlight: m.InFlight, Untold: m.Untold}
	if m.Lost != nil {
		b, err := protojson.Marshal(m.Lost)
		if err != nil {
			return err
		}
		out.Lost = b
	}
	b, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if _, err := s.records.Put(ctx, markPrefix+name, b); err != nil {
		return unavailable(ctx, fmt.Errorf("keep the progress of group %s: %w", name, err))
	}
	return nil
}

// reconcile makes queues and records fit one another: a crash may have come between them.
func (s *GroupStore) reconcile(ctx context.Context) error {
	names, err := s.Groups(ctx)
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, name := range names {
		r, err := s.Group(ctx, name)
		if errors.Is(err, bridge.ErrNoGroup) {
			continue
		}
		if err != nil {
			return err
		}
		used[mainQueue(r)], used[redriveQueue(r)] = true, true
		if err := s.ensureQueues(ctx, r); err != nil {
			return err
		}
		s.sweepRedriven(ctx, r)
	}
	for stream, prefix := range map[string]string{streamName: mainPrefix, groupStreamName: redrivePrefix} {
		st, err := s.js.Stream(ctx, stream)
		if err != nil {
			return unavailable(ctx, err)
		}
		l := st.ListConsumers(ctx)
		for info := range l.Info() {
			if strings.HasPrefix(info.Name, prefix) && !used[info.Name] && time.Since(info.Created) > orphanAge {
				s.log.cfg.Logger.Info("removing a queue that belongs to no consumer group", "stream", stream, "queue", info.Name)
				_ = st.DeleteConsumer(ctx, info.Name)
			}
		}
		if err := l.Err(); err != nil {
			return unavailable(ctx, fmt.Errorf("list the queues of groups: %w", err))
		}
	}
	return nil
}
