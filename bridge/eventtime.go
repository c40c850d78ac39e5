package bridge

import (
	"strconv"
	"strings"
	"time"
)

// ParseEventTime reads Spotnana's timestamps (CONTRACT.md section 2, rule 3): ISO 8601 with or without seconds, with Z, an
// offset or none (taken as UTC), with or without a fraction, hour 24 allowed; or digits, as seconds, milliseconds,
// microseconds or nanoseconds by magnitude. The result lies in the years 1 to 9999.
func ParseEventTime(text string) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if t, ok := parseEpoch(text); ok {
		return t, true
	}
	const date = len("2006-01-02")
	if len(text) > date && strings.IndexByte("Tt ", text[date]) >= 0 {
		text = text[:date] + "T" + strings.ToUpper(text[date+1:])
	}
	// Hour 24 is the midnight that ends the day.
	day := time.Duration(0)
	if len(text) > date && strings.HasPrefix(text[date:], "T24:00") {
		text, day = text[:date]+"T00"+text[date+len("T24"):], 24*time.Hour
	}
	for _, layout := range []string{
		"2006-01-02T15:04:05.999999999Z07:00", "2006-01-02T15:04Z07:00", "2006-01-02T15:04:05.999999999Z0700",
		"2006-01-02T15:04Z0700", "2006-01-02T15:04:05.999999999", "2006-01-02T15:04",
	} {
		t, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if day != 0 && (t.Minute() != 0 || t.Second() != 0 || t.Nanosecond() != 0) {
			return time.Time{}, false
		}
		t = t.UTC().Add(day)
		if t.Year() < 1 || t.Year() > 9999 || t.IsZero() {
			return time.Time{}, false
		}
		return t, true
	}
	return time.Time{}, false
}

func parseEpoch(text string) (time.Time, bool) {
	if text == "" || strings.Trim(text, "0123456789.") != "" || strings.Count(text, ".") > 1 {
		return time.Time{}, false
	}
	whole, fraction, _ := strings.Cut(text, ".")
	n, err := strconv.ParseInt(whole, 10, 64)
	if err != nil || n <= 0 {
		return time.Time{}, false
	}
	switch {
	case n < 1e11: // seconds until the year 5138
		var ns int64
		if fraction != "" {
			f, err := strconv.ParseFloat("0."+fraction, 64)
			if err != nil {
				return time.Time{}, false
			}
			ns = int64(f * 1e9)
		}
		return time.Unix(n, ns).UTC(), true
	case n < 1e14:
		return time.UnixMilli(n).UTC(), true
	case n < 1e17:
		return time.UnixMicro(n).UTC(), true
	default:
		return time.Unix(0, n).UTC(), true
	}
}
