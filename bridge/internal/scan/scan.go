// Package scan reads JSON text without making anything of it: functions from a position to the position after what was
// read, or Bad. They accept exactly what RFC 8259 does, except that strings may hold bytes that are not UTF-8; a fuzz test
// holds them to jsontext. The envelope's reader and the payload converter stand on it.
package scan

import (
	"encoding/binary"
	"math/bits"
	"unicode/utf8"
)

// Bad is the position after what is no JSON.
const Bad = -1

// MaxDepth bounds the recursion of Skip. The door refuses bodies far below it.
const MaxDepth = 10_000

const (
	every    = 0x0101010101010101
	highBits = 0x80 * every
	spaces   = ' ' * every
)

// Space returns the position of the next byte that is no white space.
func Space(b []byte, i int) int {
	if uint(i) < uint(len(b)) && b[i] > ' ' {
		return i
	}
	return spaceSlow(b, i)
}

func spaceSlow(b []byte, i int) int {
	for uint(i) < uint(len(b)) {
		switch b[i] {
		case '\n': // indentation comes next
			i++
			for len(b)-i >= 8 {
				x := binary.LittleEndian.Uint64(b[i:]) ^ spaces
				if x != 0 {
					i += bits.TrailingZeros64(x) >> 3
					break
				}
				i += 8
			}
		case ' ', '\t', '\r':
			i++
		default:
			return i
		}
	}
	return i
}

// At returns the byte at a position, 0 at the end. 0 is no valid byte anywhere in JSON outside of strings, nor in them.
func At(b []byte, i int) byte {
	if uint(i) < uint(len(b)) {
		return b[i]
	}
	return 0
}

// Text is what there is to know of a string before its bytes are used.
type Text uint8

// What Str tells of a string.
const (
	Escaped  Text = 1 << iota // it has escapes
	NonASCII                  // it has bytes of 0x80 or more
)

// Str reads a string whose opening quote is before i and returns the position of its closing quote.
func Str(b []byte, i int) (int, Text) {
	var t Text
	for {
		for len(b)-i >= 8 {
			w := binary.LittleEndian.Uint64(b[i:])
			quote, slash := w^('"'*every), w^('\\'*every)
			// The lowest bit set in each term is exact, higher ones may be false: only the lowest is used.
			m := ((quote-every)&^quote | (slash-every)&^slash | (w-0x20*every)&^w) & highBits
			if m == 0 {
				if w&highBits != 0 {
					t |= NonASCII
				}
				i += 8
				continue
			}
			n := bits.TrailingZeros64(m) &^ 7
			if w&highBits&(1<<n-1) != 0 {
				t |= NonASCII
			}
			i += n >> 3
			break
		}
		switch c := At(b, i); {
		case c == '"':
			return i, t
		case c == '\\':
			t |= Escaped
			if i = escape(b, i+1); i == Bad {
				return Bad, t
			}
		case c < 0x20:
			return Bad, t
		default:
			if c >= utf8.RuneSelf {
				t |= NonASCII
			}
			i++
		}
	}
}

// escape reads an escape whose backslash is before i.
func escape(b []byte, i int) int {
	switch At(b, i) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 1
	case 'u':
		if len(b)-i < 5 {
			return Bad
		}
		for _, c := range b[i+1 : i+5] {
			if unhex(c) > 15 {
				return Bad
			}
		}
		return i + 5
	}
	return Bad
}

func unhex(c byte) rune {
	switch {
	case '0' <= c && c <= '9':
		return rune(c - '0')
	case 'a' <= c && c <= 'f':
		return rune(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return rune(c-'A') + 10
	}
	return 16
}

// Literal reads a word that starts at i: true, false or null.
func Literal(b []byte, i int, word string) int {
	if len(b)-i >= len(word) && string(b[i:i+len(word)]) == word {
		return i + len(word)
	}
	return Bad
}

// Skip reads any value that starts at i, and checks it.
func Skip(b []byte, i, depth int) int {
	switch c := At(b, i); c {
	case '"':
		end, _ := Str(b, i+1)
		if end == Bad {
			return Bad
		}
		return end + 1
	case 't':
		return Literal(b, i, "true")
	case 'f':
		return Literal(b, i, "false")
	case 'n':
		return Literal(b, i, "null")
	case '{':
		if depth >= MaxDepth {
			return Bad
		}
		if i = Space(b, i+1); At(b, i) == '}' {
			return i + 1
		}
		for {
			if At(b, i) != '"' {
				return Bad
			}
			end, _ := Str(b, i+1)
			if end == Bad {
				return Bad
			}
			if i = Space(b, end+1); At(b, i) != ':' {
				return Bad
			}
			if i = Skip(b, Space(b, i+1), depth+1); i == Bad {
				return Bad
			}
			i = Space(b, i)
			switch At(b, i) {
			case ',':
				i = Space(b, i+1)
			case '}':
				return i + 1
			default:
				return Bad
			}
		}
	case '[':
		if depth >= MaxDepth {
			return Bad
		}
		if i = Space(b, i+1); At(b, i) == ']' {
			return i + 1
		}
		for {
			if i = Skip(b, i, depth+1); i == Bad {
				return Bad
			}
			i = Space(b, i)
			switch At(b, i) {
			case ',':
				i = Space(b, i+1)
			case ']':
				return i + 1
			default:
				return Bad
			}
		}
	default:
		end, _ := ReadNumber(b, i)
		return end
	}
}

// Unquote appends the text between the quotes of a string that Str has accepted. What is not UTF-8, in bytes or in
// escapes, becomes U+FFFD, and ok is false.
func Unquote(dst, s []byte) (_ []byte, ok bool) {
	ok = true
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c == '\\':
			c, i = s[i+1], i+2
			switch c {
			case 'b':
				c = '\b'
			case 'f':
				c = '\f'
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case 'u':
				r := hex4(s[i:])
				i += 4
				if 0xd800 <= r && r < 0xe000 {
					low := rune(-1)
					if r < 0xdc00 && len(s)-i >= 6 && s[i] == '\\' && s[i+1] == 'u' {
						low = hex4(s[i+2:])
					}
					if 0xdc00 <= low && low < 0xe000 {
						r = (r-0xd800)<<10 | (low - 0xdc00) + 0x10000
						i += 6
					} else {
						r, ok = utf8.RuneError, false
					}
				}
				dst = utf8.AppendRune(dst, r)
				continue
			}
			dst = append(dst, c)
		case c < utf8.RuneSelf:
			n := i + 1
			for n < len(s) && s[n] < utf8.RuneSelf && s[n] != '\\' {
				n++
			}
			dst = append(dst, s[i:n]...)
			i = n
		default:
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				ok = false
			}
			dst = utf8.AppendRune(dst, r)
			i += n
		}
	}
	return dst, ok
}

func hex4(s []byte) rune {
	return unhex(s[0])<<12 | unhex(s[1])<<8 | unhex(s[2])<<4 | unhex(s[3])
}
