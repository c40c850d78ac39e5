package scan

import (
	"math"
	"strconv"
)

// Number is a JSON number as ±Mant × 10^Exp. Exact says that Mant holds all digits; if not, only the text counts.
type Number struct {
	Mant  uint64
	Exp   int
	Neg   bool
	Exact bool
}

// maxExponent is where exponents stop to matter: whatever the digits, the value is 0 or out of every range.
const maxExponent = 100_000_000

// ReadNumber reads a number that starts at i.
func ReadNumber(b []byte, i int) (int, Number) {
	n := Number{Exact: true}
	if At(b, i) == '-' {
		n.Neg = true
		i++
	}
	start := i
	for ; uint(i) < uint(len(b)) && b[i]-'0' <= 9; i++ {
		n.Mant = n.Mant*10 + uint64(b[i]-'0')
	}
	digits := i - start
	if digits == 0 || digits > 1 && b[start] == '0' {
		return Bad, n
	}
	if At(b, i) == '.' {
		i++
		start = i
		for ; uint(i) < uint(len(b)) && b[i]-'0' <= 9; i++ {
			n.Mant = n.Mant*10 + uint64(b[i]-'0')
		}
		if i == start {
			return Bad, n
		}
		digits += i - start
		n.Exp = start - i
	}
	if c := At(b, i); c == 'e' || c == 'E' {
		i++
		sign := 1
		switch At(b, i) {
		case '-':
			sign = -1
			i++
		case '+':
			i++
		}
		start, e := i, 0
		for ; uint(i) < uint(len(b)) && b[i]-'0' <= 9; i++ {
			if e < maxExponent {
				e = e*10 + int(b[i]-'0')
			}
		}
		if i == start {
			return Bad, n
		}
		n.Exp += sign * e
	}
	n.Exact = digits <= 19 // 10^19 is less than 2^64
	return i, n
}

var pow10 = [...]float64{1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22}

// Double returns the nearest double; text is the number as sent. It is false when the number is too large for one.
func (n Number) Double(text []byte) (float64, bool) {
	if n.Exact && n.Mant < 1<<53 && -22 <= n.Exp && n.Exp <= 22 {
		// Both operands are exact, so that one rounding gives the nearest double.
		f := float64(n.Mant)
		if n.Exp < 0 {
			f /= pow10[-n.Exp]
		} else {
			f *= pow10[n.Exp]
		}
		if n.Neg {
			f = -f
		}
		return f, true
	}
	f, err := strconv.ParseFloat(string(text), 64)
	return f, err == nil
}

// Integer returns the value if it is a whole number in the range of int64, however it is written (5, 5.0, 0.5e1).
func (n Number) Integer(text []byte) (int64, bool) {
	if !n.Exact {
		return wideInteger(text)
	}
	m := n.Mant
	if m == 0 {
		return 0, true
	}
	if n.Exp < -19 || n.Exp > 18 {
		return 0, false // beyond the range, or a fraction: mant has at most 19 digits
	}
	for e := n.Exp; e < 0; e++ {
		if m%10 != 0 {
			return 0, false
		}
		m /= 10
	}
	for e := n.Exp; e > 0; e-- {
		if m > math.MaxInt64/10+1 {
			return 0, false
		}
		m *= 10
	}
	switch {
	case n.Neg && m <= 1<<63:
		return -int64(m), true
	case !n.Neg && m <= math.MaxInt64:
		return int64(m), true
	}
	return 0, false
}

// wideInteger is Integer for numbers with more than 19 digits, for example 5.00000000000000000000.
func wideInteger(text []byte) (int64, bool) {
	// Take the digits apart again, without the zeros at both ends.
	var digits []byte
	exp, seenDot, neg := 0, false, false
	for i, c := range text {
		switch c {
		case '-':
			neg = true
			continue
		case '.':
			seenDot = true
			continue
		case 'e', 'E':
			e, err := strconv.Atoi(string(text[i+1:]))
			if err != nil || e > maxExponent || e < -maxExponent {
				e = maxExponent // a number with that many digits that is whole and in range is not worth the trouble
			}
			exp += e
		default:
			if len(digits) > 0 || c != '0' {
				digits = append(digits, c)
			}
			if seenDot {
				exp--
			}
			continue
		}
		break // after the exponent
	}
	for len(digits) > 0 && digits[len(digits)-1] == '0' {
		digits, exp = digits[:len(digits)-1], exp+1
	}
	if len(digits) == 0 {
		return 0, true
	}
	if exp < 0 || len(digits)+exp > 19 {
		return 0, false
	}
	s := string(digits)
	if neg {
		s = "-" + s
	}
	for range exp {
		s += "0"
	}
	v, err := strconv.ParseInt(s, 10, 64)
	return v, err == nil
}
