package main

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// readAll returns the events and the error that follows them.
func readAll(r io.Reader, limit int) (out []sseEvent, err error) {
	events := newSSEReader(r, limit)
	for {
		e, err := events.next()
		if err != nil {
			return out, err
		}
		out = append(out, e)
	}
}

func TestReadingServerSentEvents(t *testing.T) {
	for _, c := range []struct {
		name, stream string
		want         []sseEvent
	}{
		{"an event", "event: heartbeat\nid: 7\ndata: {}\n\n", []sseEvent{{name: "heartbeat", id: "7", data: []byte("{}")}}},
		{"without a name", "data: x\n\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"with an empty name", "event:\ndata: x\n\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"lines end with \\r\\n", "event: a\r\ndata: x\r\n\r\ndata: y\r\n\r\n", []sseEvent{{name: "a", data: []byte("x")}, {name: "message", data: []byte("y")}}},
		{"lines end with \\r", "event: a\rdata: x\r\rdata: y\r\r", []sseEvent{{name: "a", data: []byte("x")}, {name: "message", data: []byte("y")}}},
		{"mixed ends", "event: a\rdata: x\n\r\ndata: y\r\n\n", []sseEvent{{name: "a", data: []byte("x")}, {name: "message", data: []byte("y")}}},
		{"a byte order mark", "\xef\xbb\xbfdata: x\n\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"several lines of data", "data: x\ndata:\ndata:  y\n\n", []sseEvent{{name: "message", data: []byte("x\n\n y")}}},
		{"one space is taken off, a colon stays", "data:x\n\ndata:  a: b\n\n", []sseEvent{{name: "message", data: []byte("x")}, {name: "message", data: []byte(" a: b")}}},
		{"a field without a colon", "data\n\n", []sseEvent{{name: "message"}}},
		{"comments and unknown fields", ": ping\n\n:\nfoo: bar\nDATA: no\ndata: x\n: in between\n\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"what has no data is no event", "event: a\n\nretry: 5\n\ndata: x\n\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"the id stays until there is another", "id: 1\ndata: x\n\ndata: y\n\nid: a\x00b\ndata: z\n\nid\ndata: w\n\n",
			[]sseEvent{{name: "message", id: "1", data: []byte("x")}, {name: "message", id: "1", data: []byte("y")}, {name: "message", id: "1", data: []byte("z")}, {name: "message", data: []byte("w")}}},
		{"an id without data counts", "id: 1\n\ndata: y\n\n", []sseEvent{{name: "message", id: "1", data: []byte("y")}}},
		{"retry", "retry: 1500\ndata: x\n\nretry: 1x\ndata: y\n\nretry: -1\ndata: z\n\n",
			[]sseEvent{{name: "message", data: []byte("x"), wait: 1500 * time.Millisecond}, {name: "message", data: []byte("y")}, {name: "message", data: []byte("z")}}},
		{"what was cut off is no event", "data: x\n\nid: 2\ndata: y\n", []sseEvent{{name: "message", data: []byte("x")}}},
		{"nor is half a line", "data: x\n\ndata: y", []sseEvent{{name: "message", data: []byte("x")}}},
		{"nothing", "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, r := range map[string]io.Reader{"whole": strings.NewReader(c.stream), "byte by byte": iotest.OneByteReader(strings.NewReader(c.stream))} {
				if got, err := readAll(r, 100); !errors.Is(err, io.EOF) || !reflect.DeepEqual(got, c.want) {
					t.Errorf("%s: got %v, %v; want %v", name, got, err, c.want)
				}
			}
		})
	}
}

// TestAnEventIsThereWithItsLastByte: nothing is held back until the next one comes, whatever ends the lines.
func TestAnEventIsThereWithItsLastByte(t *testing.T) {
	for _, end := range []string{"\n", "\r", "\r\n"} {
		pr, pw := io.Pipe()
		defer pw.Close()
		go io.WriteString(pw, "data: x"+end+end)
		if e, err := newSSEReader(pr, 100).next(); err != nil || string(e.data) != "x" {
			t.Errorf("%q: %v, %v", end, e, err)
		}
	}
}

func TestEventsAreLimited(t *testing.T) {
	for name, stream := range map[string]string{
		"a line":         "data: " + strings.Repeat("x", 200<<10) + "\n\n",
		"an endless one": "data: " + strings.Repeat("x", 200<<10),
		"many lines":     strings.Repeat("data: x\n", 100<<10) + "\n",
	} {
		if got, err := readAll(strings.NewReader(stream), 100<<10); !errors.Is(err, errTooLarge) || len(got) > 0 {
			t.Errorf("%s: %d events, %v", name, len(got), err)
		}
	}
	many := strings.Repeat("data: xxxxxxxxxx\n\n", 10000)
	if got, err := readAll(strings.NewReader(many), 100); !errors.Is(err, io.EOF) || len(got) != 10000 {
		t.Errorf("many events: %d, %v", len(got), err)
	}
}

func TestABrokenStreamIsAnError(t *testing.T) {
	cut := errors.New("cut")
	if got, err := readAll(io.MultiReader(strings.NewReader("data: x\n\ndata: y"), iotest.ErrReader(cut)), 100); !errors.Is(err, cut) || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// FuzzServerSentEvents: how the bytes are cut into reads makes no difference, and what is read can be written and read
// again.
func FuzzServerSentEvents(f *testing.F) {
	for _, s := range []string{"event: a\nid: 1\ndata: x\n\n", "retry: 5\r\n\r\ndata: x\r\rdata\n\n", "\xef\xbb\xbfdata: x\n\n: c\n\n", "id: \x00\ndata: y\n\n"} {
		f.Add(s, uint8(3))
	}
	f.Fuzz(func(t *testing.T, stream string, size uint8) {
		whole, err := readAll(strings.NewReader(stream), 1<<10)
		parts, perr := readAll(&chunks{rest: []byte(stream), size: int(size) + 1}, 1<<10)
		if !reflect.DeepEqual(whole, parts) || !errors.Is(perr, err) {
			t.Fatalf("whole %+v %v, in parts %+v %v", whole, err, parts, perr)
		}
		var again bytes.Buffer
		for _, e := range whole {
			again.WriteString("event: " + e.name + "\nid: " + e.id + "\n")
			for line := range bytes.SplitSeq(e.data, []byte("\n")) {
				again.WriteString("data: " + string(line) + "\n")
			}
			again.WriteString("\n")
		}
		rest, err := readAll(&again, 1<<20)
		if len(rest) != len(whole) || !errors.Is(err, io.EOF) {
			t.Fatalf("%d events became %d, %v", len(whole), len(rest), err)
		}
		for i := range rest {
			if got, want := rest[i], whole[i]; !bytes.Equal(got.data, want.data) || got.id != want.id || got.name != want.name {
				t.Fatalf("%+v became %+v", whole[i], rest[i])
			}
		}
	})
}

// chunks gives its bytes in pieces of a size.
type chunks struct {
	rest []byte
	size int
}

func (c *chunks) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(c.size, len(c.rest))])
	c.rest = c.rest[n:]
	return n, nil
}
