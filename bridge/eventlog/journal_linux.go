package eventlog

import (
	"os"

	"golang.org/x/sys/unix"
)

// dataFile is a file whose Sync leaves out metadata that reading the data back does not need, such as its time: the
// journal writes in place, and then a sync is one write.
type dataFile struct{ *os.File }

func (f dataFile) Sync() error {
	for {
		if err := unix.Fdatasync(int(f.Fd())); err != unix.EINTR {
			return err
		}
	}
}
