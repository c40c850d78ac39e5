package projection

import (
	"fmt"
	"runtime"

	"github.com/klauspost/compress/zstd"
)

// codec compresses bodies. One encoder and one decoder serve everyone at once.
//
// A stored body is a byte that says how, and the bytes: 0 as they are, 1 zstd.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

const (
	storedRaw  = 0
	storedZstd = 1
	// Bodies below this size are stored as they are.
	minCompressed = 128
)

func newCodec() (*codec, error) {
	// Webhook bodies are small: a large window would only cost memory in every encoder.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(128<<10),
		zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, err
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderLowmem(true), zstd.IgnoreChecksum(true))
	if err != nil {
		return nil, err
	}
	return &codec{enc: enc, dec: dec}, nil
}

// pack returns a body as it is stored.
func (c *codec) pack(body []byte) []byte {
	if len(body) >= minCompressed {
		dst := make([]byte, 1, 1+len(body)/2)
		dst[0] = storedZstd
		// Less than an eighth saved does not pay for the reading.
		if dst = c.enc.EncodeAll(body, dst); len(dst)-1 <= len(body)-len(body)/8 {
			return dst
		}
	}
	dst := make([]byte, 1+len(body))
	dst[0] = storedRaw
	copy(dst[1:], body)
	return dst
}

// unpack returns the body of the given size. The result is never nil and may share memory with z.
func (c *codec) unpack(z []byte, size int) ([]byte, error) {
	var body []byte
	switch {
	case len(z) == 0:
		return nil, fmt.Errorf("%w: a body is missing", errCorrupt)
	case z[0] == storedRaw:
		body = z[1:]
	case z[0] == storedZstd:
		var err error
		if body, err = c.dec.DecodeAll(z[1:], make([]byte, 0, size)); err != nil {
			return nil, fmt.Errorf("%w: a body does not decompress: %w", errCorrupt, err)
		}
	default:
		return nil, fmt.Errorf("%w: a body is stored in an unknown way", errCorrupt)
	}
	if len(body) != size {
		return nil, fmt.Errorf("%w: a body has %d bytes instead of %d", errCorrupt, len(body), size)
	}
	return body, nil
}

func (c *codec) close() {
	_ = c.enc.Close()
	c.dec.Close()
}
