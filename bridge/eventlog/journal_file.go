package eventlog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sort"

	"github.com/nats-io/nats.go"

	"github.com/spotbridge/spotbridge/bridge"
)

// Format of a journal file. All numbers are little endian.
//
//	header   magic (8), log identity (16), generation (8), sequence of the first record (8), CRC-32C of what is before it (4)
//	record   length of its payload (4), CRC-32C (4) of generation, sequence and payload, sequence (8), payload
//	payload  subject and headers, each text with its length before it as a varint, then the body
//
// The generation is part of every checksum, so what an earlier use of the file left behind it is never taken for a record.
const (
	journalMagic     = "sbjourn1"
	journalHeader    = 8 + 16 + 8 + 8 + 4
	recordHeader     = 4 + 4 + 8
	journalFileSize  = 16 << 20
	journalExtension = 4 << 20 // files grow by this much, in zeros, so that most syncs write data in place and no metadata
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// journalFile is what the journal needs of a file. Sync makes what was written durable. Tests put failing ones in between.
type journalFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

func openJournalFile(path string) (journalFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	return dataFile{f}, nil
}

// segment is one of the two files that take turns.
type segment struct {
	file journalFile
	path string

	generation  uint64 // 0 = never used, or not readable
	first, last uint64 // sequences of its records; last < first = none
	end         int64  // where the next record goes
	size        int64  // of the file
	closed      bool   // nothing may follow: a write went wrong, or a start found it, and what lies behind the last record is not known
}

// record is one entry as it lies in the journal.
type record struct {
	sequence uint64
	msg      *nats.Msg
}

// appendRecord encodes a record behind b.
func appendRecord(b []byte, generation, sequence uint64, subject string, header nats.Header, body []byte) []byte {
	start := len(b)
	b = append(b, make([]byte, recordHeader)...)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(subject)
	b = binary.AppendUvarint(b, uint64(len(header)))
	for name, values := range header { // one value each
		text(name)
		text(values[0])
	}
	b = append(b, body...)
	r := b[start:]
	binary.LittleEndian.PutUint32(r, uint32(len(r)-recordHeader))
	binary.LittleEndian.PutUint64(r[8:], sequence)
	binary.LittleEndian.PutUint32(r[4:], checksum(generation, r[8:]))
	return b
}

// checksum covers the generation and what follows the checksum: sequence and payload.
func checksum(generation uint64, rest []byte) uint32 {
	var g [8]byte
	binary.LittleEndian.PutUint64(g[:], generation)
	return crc32.Update(crc32.Checksum(g[:], castagnoli), castagnoli, rest)
}

var errRecord = errors.New("not a record")

// parsePayload reads what appendRecord wrote behind the record's header.
func parsePayload(b []byte) (*nats.Msg, error) {
	text := func() (string, bool) {
		n, size := binary.Uvarint(b)
		if size <= 0 || n > uint64(len(b)-size) {
			return "", false
		}
		s := string(b[size : size+int(n)])
		b = b[size+int(n):]
		return s, true
	}
	subject, ok := text()
	if !ok {
		return nil, errRecord
	}
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)) {
		return nil, errRecord
	}
	b = b[size:]
	m := &nats.Msg{Subject: subject, Header: nats.Header{}}
	for range n {
		name, ok := text()
		value, also := text()
		if !ok || !also {
			return nil, errRecord
		}
		m.Header[name] = []string{value}
	}
	m.Data = b
	return m, nil
}

func encodeHeader(id bridge.LogID, generation, first uint64) []byte {
	b := make([]byte, 0, journalHeader)
	b = append(b, journalMagic...)
	b = append(b, id[:]...)
	b = binary.LittleEndian.AppendUint64(b, generation)
	b = binary.LittleEndian.AppendUint64(b, first)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// errForeignJournal says that a journal was written for another log.
var errForeignJournal = errors.New("belongs to another log")

// load reads the file's header and walks its records. What does not check is where a crash cut the last write off; only
// the part before it was ever confirmed.
func (s *segment) load(id bridge.LogID, visit func(record)) error {
	s.generation, s.first, s.last, s.end, s.closed = 0, 1, 0, 0, true
	var h [journalHeader]byte
	if _, err := s.file.ReadAt(h[:], 0); errors.Is(err, io.EOF) {
		return nil
	} else if err != nil {
		return err
	}
	if string(h[:8]) != journalMagic || crc32.Checksum(h[:journalHeader-4], castagnoli) != binary.LittleEndian.Uint32(h[journalHeader-4:]) {
		return nil // never used, or its first write was cut off
	}
	if string(h[8:24]) != string(id[:]) {
		return errForeignJournal
	}
	s.generation, s.first = binary.LittleEndian.Uint64(h[24:]), binary.LittleEndian.Uint64(h[32:])
	s.last, s.end = s.first-1, journalHeader
	for {
		var rh [recordHeader]byte
		if _, err := s.file.ReadAt(rh[:], s.end); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		n, sequence := int64(binary.LittleEndian.Uint32(rh[:])), binary.LittleEndian.Uint64(rh[8:])
		if n > s.size-s.end-recordHeader || sequence != s.last+1 {
			return nil
		}
		b := make([]byte, 8+n)
		copy(b, rh[8:])
		if _, err := s.file.ReadAt(b[8:], s.end+recordHeader); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if checksum(s.generation, b) != binary.LittleEndian.Uint32(rh[4:]) {
			return nil
		}
		m, err := parsePayload(b[8:])
		if err != nil {
			return fmt.Errorf("record %d checks and cannot be read: %w", sequence, err)
		}
		visit(record{sequence, m})
		s.last, s.end = sequence, s.end+recordHeader+n
	}
}

// begin starts a generation, from the beginning of the file.
func (s *segment) begin(generation, first uint64) {
	s.generation, s.first, s.last, s.end, s.closed = generation, first, first-1, journalHeader, false
}

// write puts bytes into the file and makes them durable.
func (s *segment) write(b []byte, at int64) error {
	end := at + int64(len(b))
	err := s.grow(end)
	if err == nil {
		_, err = s.file.WriteAt(b, at)
	}
	if err == nil {
		err = s.file.Sync()
	}
	if err != nil {
		s.closed = true
		return err
	}
	s.end = end
	return nil
}

// grow makes the file large enough for end, in zeros.
func (s *segment) grow(end int64) error {
	if end <= s.size {
		return nil
	}
	size := (end + journalExtension - 1) / journalExtension * journalExtension
	if _, err := s.file.WriteAt(make([]byte, size-s.size), s.size); err != nil {
		return err
	}
	s.size = size
	return nil
}

// journalFiles opens the two files and hands out the records that they hold, in order. A newer generation takes the place
// of what an older one has from its first sequence on: those records were never confirmed.
func journalFiles(dir string, id bridge.LogID, open func(path string) (journalFile, error)) (segments [2]*segment, records []record, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return segments, nil, err
	}
	var read [2][]record
	for i := range segments {
		s := &segment{path: filepath.Join(dir, fmt.Sprintf("%d.journal", i))}
		if s.file, err = open(s.path); err != nil {
			break
		}
		segments[i] = s
		if info, e := os.Stat(s.path); e == nil {
			s.size = info.Size()
		}
		if err = s.load(id, func(r record) { read[i] = append(read[i], r) }); err != nil {
			err = fmt.Errorf("%s: %w", s.path, err)
			break
		}
	}
	if err == nil {
		err = errors.Join(syncFolder(dir), syncFolder(filepath.Dir(dir)))
	}
	if err != nil {
		closeSegments(segments)
		return segments, nil, err
	}
	older, newer := 0, 1
	if segments[0].generation > segments[1].generation {
		older, newer = 1, 0
	}
	records = read[older]
	if segments[newer].generation > 0 {
		cut := sort.Search(len(records), func(i int) bool { return records[i].sequence >= segments[newer].first })
		records = append(records[:cut:cut], read[newer]...)
	}
	return segments, records, nil
}

func closeSegments(segments [2]*segment) {
	for _, s := range segments {
		if s != nil {
			_ = s.file.Close() // what was confirmed was synced
		}
	}
}

// syncFolder makes the names in a folder durable.
func syncFolder(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
