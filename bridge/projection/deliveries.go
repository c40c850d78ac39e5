package projection

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/spotbridge/spotbridge/bridge"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
)

const deliveriesVersion = 1

// d is the Delivery as a message, without id and count.
const deliveriesSchema = `
CREATE TABLE deliveries (
  n INTEGER PRIMARY KEY AUTOINCREMENT,
  ts INTEGER NOT NULL,
  outcome INTEGER NOT NULL, cause INTEGER NOT NULL,
  src TEXT NOT NULL, webhook_id TEXT NOT NULL,
  count INTEGER NOT NULL,
  d BLOB NOT NULL
);
CREATE INDEX deliveries_ts ON deliveries (ts, n);
CREATE INDEX deliveries_webhook ON deliveries (webhook_id);
`

const (
	// recordQueue is how many deliveries wait to be written. When it is full the next ones are dropped and counted.
	recordQueue = 4096
	// recordBatch is the most rows of one transaction.
	recordBatch = 1000
	// flushEvery is how long a row waits for company.
	flushEvery = 200 * time.Millisecond
	// pruneRows is how many rows one transaction prunes.
	pruneRows = 2000
)

// Deliveries is deliveries.db, which remembers refused and duplicate deliveries, and the view of all deliveries: those of
// the log come from projection.db.
type Deliveries struct {
	cfg   Config
	log   *slog.Logger
	m     *deliveryMetrics
	p     *Projection
	st    *store
	queue chan *pb.Delivery

	// The following belongs to Run.
	limiter limiter
	rows    int64
	broken  bool
}

var (
	_ bridge.DeliveryRecorder = (*Deliveries)(nil)
	_ bridge.Deliveries       = (*Deliveries)(nil)
)

// OpenDeliveries opens deliveries.db, or makes it. A file that is damaged or of another version is moved aside: it only
// holds what is best effort. p gives the deliveries that are in the log.
func OpenDeliveries(ctx context.Context, cfg Config, p *Projection) (*Deliveries, error) {
	cfg = cfg.withDefaults()
	d := &Deliveries{
		cfg: cfg, log: cfg.Logger, m: newDeliveryMetrics(cfg.Registerer), p: p,
		queue: make(chan *pb.Delivery, recordQueue), limiter: limiter{},
	}
	err := d.load(ctx)
	if isCorrupt(err) || errors.Is(err, errVersion) {
		to, err2 := moveAside(d.path(), "unusable", cfg.Now())
		if err2 != nil {
			return nil, fmt.Errorf("%s is of no use (%w) and cannot be moved aside: %w; delete it", d.path(), err, err2)
		}
		d.log.Error("deliveries.db is of no use; it was moved aside and begins anew: earlier refused and duplicate deliveries are not listed any more",
			"path", d.path(), "moved_to", to, "cause", err)
		err = d.load(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w; %s", d.path(), err, remedy(err, d.path()))
	}
	return d, nil
}

func (d *Deliveries) path() string { return filepath.Join(d.cfg.Dir, "deliveries.db") }

func (d *Deliveries) load(ctx context.Context) error {
	st, err := openStore(ctx, storeOptions{path: d.path(), schema: deliveriesSchema, version: deliveriesVersion, readConns: 2, incremental: true})
	if err != nil {
		return err
	}
	if err := st.write.QueryRowContext(ctx, "SELECT count(*) FROM deliveries").Scan(&d.rows); err != nil {
		return errors.Join(err, st.Close())
	}
	d.st = st
	return nil
}

// Record implements bridge.DeliveryRecorder. It keeps d, which must not be changed any more.
func (d *Deliveries) Record(x *pb.Delivery) {
	select {
	case d.queue <- x:
	default:
		d.m.dropped.WithLabelValues("full").Inc()
	}
}

// Run writes what is recorded until ctx ends, then what is still waiting, and returns nil.
func (d *Deliveries) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return d.drain()
		case x := <-d.queue:
			d.batch(ctx, x)
		}
	}
}

func (d *Deliveries) drain() error {
	for {
		select {
		case x := <-d.queue:
			ctx, cancel := context.WithCancel(context.Background())
			cancel() // nothing is waited for
			d.batch(ctx, x)
		default:
			return nil
		}
	}
}

// batch writes a delivery and those that come soon after it.
func (d *Deliveries) batch(ctx context.Context, x *pb.Delivery) {
	rows := d.limiter.add(nil, x, d.cfg.Now())
	wait := time.NewTimer(flushEvery)
	defer wait.Stop()
	for taken := 1; len(rows) < recordBatch && taken < recordQueue; taken++ {
		select {
		case x := <-d.queue:
			rows = d.limiter.add(rows, x, d.cfg.Now())
			continue
		default:
		}
		select {
		case x := <-d.queue:
			rows = d.limiter.add(rows, x, d.cfg.Now())
			continue
		case <-wait.C:
		case <-ctx.Done():
		}
		break
	}
	if err := d.write(rows); err != nil {
		d.m.writeErrors.Inc()
		d.m.dropped.WithLabelValues("disk").Add(float64(len(rows)))
		d.limiter.forget()
		if !d.broken { // once per trouble: the door may see thousands a second
			d.log.Error("deliveries.db cannot be written; refused and duplicate deliveries are not listed meanwhile", "error", err, "remedy", remedy(err, d.path()))
		}
		d.broken = true
		return
	}
	if d.broken {
		d.broken = false
		d.log.Info("deliveries.db: back in order")
	}
}

// write inserts rows, raises the counts of counted ones, and prunes.
func (d *Deliveries) write(rows []*counted) error {
	ctx := context.Background()
	db := d.st.write
	var inserted int64
	err := d.st.tx(ctx, func() error {
		for _, r := range rows {
			if r.n != 0 {
				if _, err := db.ExecContext(ctx, "UPDATE deliveries SET count = ? WHERE n = ?", r.count, r.n); err != nil {
					return err
				}
				continue
			}
			b, err := encodeDelivery(r.d)
			if err != nil {
				return err
			}
			res, err := db.ExecContext(ctx, "INSERT INTO deliveries (ts, outcome, cause, src, webhook_id, count, d) VALUES (?,?,?,?,?,?,?)",
				nanos(r.d.GetReceiveTime().AsTime()), int64(r.d.GetOutcome()), int64(r.d.GetCause()), r.d.GetSource(), r.d.GetWebhookId(), r.count, b)
			if err != nil {
				return err
			}
			if r.n, err = res.LastInsertId(); err != nil {
				return err
			}
			inserted++
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, r := range rows {
		r.queued = false
	}
	d.rows += inserted
	return d.prune(ctx)
}

// encodeDelivery returns a delivery as it is stored. Texts from strangers need not be UTF-8.
func encodeDelivery(x *pb.Delivery) ([]byte, error) {
	x = proto.CloneOf(x)
	x.Id, x.Count = "", 0
	if x.GetReceiveTime() == nil {
		x.ReceiveTime = timestamppb.Now()
	}
	b, err := proto.Marshal(x)
	if err != nil {
		validDelivery(x)
		b, err = proto.Marshal(x)
	}
	return b, err
}

// prune deletes the oldest rows above the bounds.
func (d *Deliveries) prune(ctx context.Context) error {
	before := nanos(d.cfg.Now().Add(-d.cfg.DeliveriesMaxAge))
	for {
		var n int64
		most := max(0, min(d.rows-int64(d.cfg.DeliveriesMaxRows), pruneRows))
		err := d.st.tx(ctx, func() error {
			res, err := d.st.write.ExecContext(ctx, `DELETE FROM deliveries WHERE n IN (SELECT n FROM (SELECT n FROM deliveries ORDER BY ts, n LIMIT ?))
				OR n IN (SELECT n FROM (SELECT n FROM deliveries WHERE ts < ? ORDER BY ts, n LIMIT ?))`, most, before, pruneRows)
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return err
		}
		d.rows -= n
		if n < pruneRows {
			return nil
		}
	}
}

// Close ends the use of the file. Run must have returned.
func (d *Deliveries) Close() error { return d.st.Close() }
