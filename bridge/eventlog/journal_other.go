//go:build !linux

package eventlog

import "os"

// dataFile is a file as it is: only Linux has a sync for data alone.
type dataFile struct{ *os.File }
