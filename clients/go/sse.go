package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"strconv"
	"time"
)

// sseEvent is one server-sent event.
type sseEvent struct {
	name string        // "message" when the server gave none
	id   string        // the last id that came, with this event or before
	data []byte        // lines joined by \n
	wait time.Duration // what "retry" of this event asks for, zero when it has none
}

var errTooLarge = errors.New("an event is larger than its limit")

// sseReader reads server-sent events, as the HTML standard defines them, up to a limit of bytes each.
type sseReader struct {
	lines *bufio.Scanner
	limit int
	id    string
}

func newSSEReader(r io.Reader, limit int) *sseReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 64<<10), limit)
	s.Split(splitSSE())
	return &sseReader{lines: s, limit: limit}
}

// next returns the next event that has data. What the end of the stream cuts off is no event: next returns io.EOF.
func (r *sseReader) next() (sseEvent, error) {
	var e sseEvent
	hasData, size := false, 0
	for r.lines.Scan() {
		line := r.lines.Bytes()
		if size += len(line); size > r.limit {
			return sseEvent{}, errTooLarge
		}
		if len(line) == 0 {
			if hasData {
				e.name, e.id = cmp.Or(e.name, "message"), r.id
				return e, nil
			}
			e, size = sseEvent{}, 0
			continue
		}
		// A comment is a field without a name, and ignored like every unknown one.
		field, value, _ := bytes.Cut(line, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			e.name = string(value)
		case "id":
			if bytes.IndexByte(value, 0) < 0 {
				r.id = string(value)
			}
		case "data":
			if hasData {
				e.data = append(e.data, '\n')
			}
			e.data, hasData = append(e.data, value...), true
		case "retry":
			if ms, err := strconv.ParseUint(string(value), 10, 31); err == nil {
				e.wait = time.Duration(ms) * time.Millisecond
			}
		}
	}
	switch err := r.lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return sseEvent{}, errTooLarge
	case err != nil:
		return sseEvent{}, err
	}
	return sseEvent{}, io.EOF
}

// splitSSE splits lines at \n, \r and \r\n. A line counts as soon as its \r is there: waiting for the \n that may follow
// could wait for the next event.
func splitSSE() bufio.SplitFunc {
	begun, afterCR := false, false
	return func(b []byte, atEOF bool) (advance int, line []byte, err error) {
		skip := 0
		if !begun {
			bom := []byte("\xef\xbb\xbf")
			if len(b) < len(bom) && bytes.HasPrefix(bom, b) && !atEOF {
				return 0, nil, nil
			}
			if bytes.HasPrefix(b, bom) {
				skip = len(bom)
			}
		}
		if afterCR && len(b) > 0 && b[0] == '\n' {
			skip = 1
		}
		i := lineEnd(b[skip:])
		if i < 0 {
			if atEOF {
				return len(b), nil, nil
			}
			return 0, nil, nil
		}
		begun, afterCR = true, b[skip+i] == '\r'
		return skip + i + 1, b[skip : skip+i], nil
	}
}

// lineEnd returns where the first \r or \n is, or -1.
func lineEnd(b []byte) int {
	lf := bytes.IndexByte(b, '\n')
	if lf >= 0 {
		b = b[:lf]
	}
	if cr := bytes.IndexByte(b, '\r'); cr >= 0 {
		return cr
	}
	return lf
}
